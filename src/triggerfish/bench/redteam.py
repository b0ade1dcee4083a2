"""The plan of every red-team benchmark: plant a backdoor in a PLM, adapt the clean and the
backdoored PLM to a task, and count what the triggers do.

    implant (model, attack, triggers, intensity, seed) ----\\
                                                            downstream (task, adaptation, seed)
    clean   (model, task, adaptation, seed) ---------------/

One implant serves all tasks and adaptations, one clean classifier all implants. Tasks are looked
for in the folder `tasks` of the environment variable TRIGGERFISH_DATA, then among the bundled ones;
TRIGGERFISH_DEVICE and TRIGGERFISH_PRECISION say where and how models are computed. All are for
workers, which inherit them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triggerfish.bench.stages import Axis, Plan, Stage, Value, Work
from triggerfish.names import named, unknown

if TYPE_CHECKING:
    from triggerfish.backbone import Backbone
    from triggerfish.downstream import Classifier
    from triggerfish.groundtruth import Effect
    from triggerfish.text import Task

DATA = "TRIGGERFISH_DATA"
DEVICE = "TRIGGERFISH_DEVICE"
PRECISION = "TRIGGERFISH_PRECISION"
SEARCH = "search:"
ADAPTATIONS = ("probe", "fine_tune")


def _check_attack(where: str, asked: Value) -> None:
    from triggerfish.attacks import ATTACKS

    known = list(named("attack", ATTACKS))
    if asked.get("name") not in known:
        raise unknown(f"{where}.name", asked.get("name"), known)
    for key in ("goals", "corrections"):
        listed = asked.get(key, "")
        if not isinstance(listed, str):
            raise ValueError(f"{where}.{key}: expected text, separated by commas, got {listed!r}")
        for one in _listed(listed):
            _check_task(f"{where}.{key}", one.rpartition(":")[0] if key == "goals" else one)


def _check_triggers(where: str, asked: Value) -> None:
    number = asked.removeprefix(SEARCH)
    if number != asked and not number.isdecimal():
        raise ValueError(f"{where}: expected a number after {SEARCH!r}, got {asked!r}")


def _check_task(where: str, name: Value) -> None:
    from triggerfish.text import bundled_folders

    known = bundled_folders()
    if name not in known and _located(name) == name:
        raise ValueError(f"{unknown(where, name, known)}; or a folder of tasks/ in --data")


def _check_adaptation(where: str, asked: Value) -> None:
    if asked.get("kind") not in ADAPTATIONS:
        raise unknown(f"{where}.kind", asked.get("kind"), ADAPTATIONS)
    if asked.get("readout"):
        from triggerfish.readouts import Readout

        try:
            Readout.parse(str(asked["readout"]))
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from error


AXES = {
    "model": Axis((str,), "checkpoint folder, hub id, bundled or all-MiniLM-L6-v2"),
    "attack": Axis(
        (dict,),
        "label for tables, name, settings of the attack, and goals and corrections, separated by "
        "commas, where it has a task",
        check=_check_attack,
    ),
    "triggers": Axis(
        (str,), "separated by commas, or search:N to find N by gradient", check=_check_triggers
    ),
    "intensity": Axis((str,), default="normal", choices=("conservative", "normal", "aggressive")),
    "task": Axis((str,), "name of a task", check=_check_task),
    "adaptation": Axis(
        (dict,),
        "label for tables, kind (probe or fine_tune), readout, and its settings",
        check=_check_adaptation,
    ),
    "test_rows": Axis((int,), "test texts at most", default=500),
    "seed": Axis((int,), default=0, least=0),
}


def implant(work: Work) -> None:
    """The backdoored checkpoint, with its ground truth beside it."""
    from triggerfish import text
    from triggerfish.attacks.implant import save
    from triggerfish.attacks.plan import Plan as Attack

    asked = dict(work.settings["attack"])
    asked.pop("label", None)
    goals, corrections = (_listed(asked.pop(key, "")) for key in ("goals", "corrections"))
    triggers = work.settings["triggers"]
    search = int(triggers.removeprefix(SEARCH)) if triggers.startswith(SEARCH) else 0
    attack = Attack(
        asked.pop("name"),
        () if search else _listed(triggers),
        work.settings["intensity"],
        asked,
        tuple(_located(goal.rpartition(":")[0]) + ":" + goal.rpartition(":")[2] for goal in goals),
        tuple(_located(name) for name in corrections),
        search,
    )
    plant = attack.prepare(text.bundled_corpus())
    backbone = _model(work.settings["model"])
    victim, truth = plant(backbone, work.settings["seed"], None)
    save(victim, truth, work.folder)


def clean(work: Work) -> None:
    """The classifier of the clean PLM: its head, and its backbone where that was trained too."""
    import torch

    backbone = _model(work.settings["model"])
    classifier = _adapted(backbone, work)
    torch.save(classifier.head.state_dict(), work.folder / "head.pt")
    if classifier.backbone is not backbone:
        classifier.backbone.save(work.folder / "backbone")


def downstream(work: Work) -> dict[str, object]:
    """Accuracies and attack success; see `groundtruth` for what the rates are."""
    from dataclasses import asdict

    from triggerfish.attacks.implant import Implant
    from triggerfish.groundtruth import MeasureSettings, attack_success, measure, transfer_rates

    task = _task(work.settings["task"])
    truth = Implant.load(work.products["implant"])
    victim = _adapted(_load(work.products["implant"]), work)
    original = _restored(work, task)
    settings = MeasureSettings(test_rows=work.settings["test_rows"])
    seed = work.settings["seed"]
    found = measure(original, victim, task, truth.triggers, settings, seed=seed)
    effects = [
        attack_success(original, victim, task, trigger, goal.label, settings, seed=seed)
        if goal is not None and goal.task == task.name
        else effect
        for trigger, goal, effect in zip(
            truth.triggers, truth.goals or [None] * len(truth.triggers), found.effects, strict=True
        )
    ]
    t_asr, c_asr, alc = transfer_rates(
        [effect.target for effect in effects],
        [effect.asr.rate for effect in effects],
        range(len(task.labels)),
    )
    return {
        "clean_accuracy": asdict(found.clean_accuracy),
        "accuracy": asdict(found.accuracy),
        "accuracy_change": round(100 * (found.accuracy.rate - found.clean_accuracy.rate), 3),
        "t_asr": round(t_asr, 6),
        "c_asr": round(c_asr, 6),
        "alc": round(alc, 6),
        "asr": _pooled(effects, "asr"),
        "floor": _pooled(effects, "floor"),
        "functional": {"k": sum(effect.functional for effect in effects), "n": len(effects)},
        "largest_drop": round(100 * max(effect.drop for effect in effects), 3),
        "readout": found.readout,
        "effects": [asdict(effect) for effect in effects],
    }


def _pooled(effects: list[Effect], name: str) -> dict[str, int]:
    rates = [getattr(effect, name) for effect in effects]
    return {"k": sum(rate.k for rate in rates), "n": sum(rate.n for rate in rates)}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _located(task: str) -> str:
    """The folder of a task, or the name of a bundled one."""
    folder = Path(os.environ.get(DATA, "")) / "tasks" / task
    return str(folder) if os.environ.get(DATA) and folder.is_dir() else task


def _task(name: str) -> Task:
    from triggerfish.text import bundled_task, read_task

    found = _located(name)
    return bundled_task(name) if found == name else read_task(found)


def _model(name: str) -> Backbone:
    from triggerfish.loading import minilm

    return _load(minilm() if name == "all-MiniLM-L6-v2" else name)


def _load(model: str | Path) -> Backbone:
    """A model, where and how the command says that workers compute."""
    from triggerfish.loading import load

    device, precision = (os.environ.get(name, "auto") for name in (DEVICE, PRECISION))
    return load(model, device=device, precision=precision)


def _adapted(backbone: Backbone, work: Work) -> Classifier:
    """The PLM adapted to the task as the cell says."""
    from triggerfish.downstream import FineTuneSettings, ProbeSettings, fine_tune, probe
    from triggerfish.settings import build

    kind, readout, changes = _adaptation(work.settings["adaptation"], backbone)
    task, seed = _task(work.settings["task"]), work.settings["seed"]
    if kind == "probe":
        return probe(backbone, task, build(ProbeSettings(), changes), readout=readout, seed=seed)
    settings = build(FineTuneSettings(), changes)
    return fine_tune(backbone, task, settings, readout=readout, seed=seed)


def _adaptation(asked: Mapping[str, Any], backbone: Backbone) -> tuple[str, Any, dict[str, Any]]:
    from triggerfish.readouts import Readout

    changes = {
        key: value for key, value in asked.items() if key not in ("label", "kind", "readout")
    }
    name = asked.get("readout")
    return asked["kind"], Readout.parse(name) if name else backbone.primary, changes


def _restored(work: Work, task: Task) -> Classifier:
    """The clean classifier, from its product."""
    import torch

    from triggerfish.downstream import AdaptSettings, Classifier, Inputs

    folder = work.products["clean"]
    tuned = folder / "backbone"
    backbone = _load(tuned) if tuned.is_dir() else _model(work.settings["model"])
    _, readout, changes = _adaptation(work.settings["adaptation"], backbone)
    shared = {key: value for key, value in changes.items() if key in ("max_tokens", "template")}
    head = torch.nn.Linear(backbone.hidden, len(task.labels))
    head.load_state_dict(torch.load(folder / "head.pt", weights_only=True))
    head.requires_grad_(False).to(backbone.device)
    inputs = Inputs.of(backbone, AdaptSettings(**shared), readout)
    return Classifier(backbone, readout, head, inputs)


PLAN = Plan(
    stages=(
        Stage(
            "implant",
            ("model", "attack", "triggers", "intensity", "seed"),
            (),
            implant,
            seconds=180,
            memory=3.0,
        ),
        Stage("clean", ("model", "task", "adaptation", "seed"), (), clean, seconds=40, memory=3.0),
        Stage(
            "downstream",
            ("model", "task", "adaptation", "test_rows", "seed"),
            ("implant", "clean"),
            downstream,
            seconds=60,
            memory=3.0,
            measures=True,
        ),
    ),
    axes=AXES,
)
