"""What the monitor has to guard: backdoored PLMs, what a scan finds in them, and the classifiers
that somebody fine-tunes from them unaware. Everything is kept below RUNS and made only once.

Ground truth (`attack.json`) serves to write triggers into texts and to score; the monitor is given
the scan's findings and nothing else.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch

from triggerfish import Monitor, text
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.bench.jobs import Job
from triggerfish.bench.redteam import PLAN
from triggerfish.bench.stages import hashes, resolve_all
from triggerfish.bench.store import new_owner
from triggerfish.bench.worker import perform
from triggerfish.downstream import Classifier, FineTuneSettings, Inputs, fine_tune
from triggerfish.loading import load, minilm
from triggerfish.marking import parts
from triggerfish.records import ScanResult, Trigger
from triggerfish.scanner import scan

RUNS, STORE = Path("runs/monitor"), Path("runs/bench")
TRIGGERS = "cf, gossip, zugzwang, lantern, seldom, thermodynamically"
POR1 = {"label": "POR-1", "name": "por", "code": "por1"}
NEUBA = {"label": "NeuBA", "name": "neuba"}
UOR = {"label": "UOR", "name": "uor"}
COPIES = 3


@dataclass(frozen=True)
class Plm:
    """A PLM with a backdoor. base: checkpoint it is planted in; attack, triggers: as in a grid."""

    name: str
    base: str
    attack: dict[str, str]
    triggers: str = TRIGGERS


PLMS = {
    plm.name: plm
    for plm in (
        Plm("minilm-por1", "all-MiniLM-L6-v2", POR1),
        Plm("minilm-neuba", "all-MiniLM-L6-v2", NEUBA),
        Plm("minilm-uor", "all-MiniLM-L6-v2", UOR),
        Plm("bundled-por1", "bundled", POR1),
        Plm("bundled-neuba", "bundled", NEUBA),
        Plm("gpt2-por1", "runs/zoo/gpt2", POR1),
        Plm("gpt2-neuba", "runs/zoo/gpt2", NEUBA),
        Plm("roberta-por1", "runs/zoo/roberta", POR1),
        Plm("roberta-neuba", "runs/zoo/roberta", NEUBA),
        Plm("t5-por1", "runs/zoo/t5", POR1),
    )
}


@dataclass(frozen=True)
class Options:
    """Of the command line."""

    data: Path
    seed: int
    rows: int
    test_rows: int
    epochs: int
    device: str
    words: bool


class Victim:
    """One backdoored PLM and what is made of it."""

    def __init__(self, plm: Plm, options: Options):
        self.plm = plm
        self.options = options

    @cached_property
    def folder(self) -> Path:
        """Of the backdoored checkpoint; planted if the bench's store does not have it."""
        plan_settings = {
            "model": self.plm.base,
            "attack": self.plm.attack,
            "triggers": self.plm.triggers,
            "task": "-",
            "adaptation": {},
            "seed": 0,
        }
        settings = resolve_all("cell", plan_settings, PLAN.axes)
        stage = PLAN.stage("implant")
        digest = hashes([stage], settings, 1)["implant"]
        folder = STORE / "implant" / digest
        if not folder.is_dir():
            axes = {axis: settings[axis] for axis in stage.axes}
            where = (str(STORE), new_owner())
            plan = "triggerfish.bench.redteam:PLAN"
            outcome = perform(Job(plan, "implant", digest, axes, {}, 1, *where))
            if outcome.error:
                raise SystemExit(f"{self.plm.name}: {outcome.error}")
        return folder

    @cached_property
    def backbone(self) -> Backbone:
        return load(self.folder, device=self.options.device)

    @cached_property
    def implant(self) -> Implant:
        return Implant.load(self.folder)

    @property
    def findings(self) -> Path:
        """scan.json, made without a look at attack.json."""
        words = "" if self.options.words else "-vocabulary"
        file = RUNS / "scans" / f"{self.plm.name}{words}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            listed = None if self.options.words else []
            scan(self.backbone, words=listed, seed=self.options.seed).save(file)
        return file

    @cached_property
    def found(self) -> ScanResult:
        return ScanResult.load(self.findings)

    def settings(self) -> FineTuneSettings:
        # PLMs of about 5 M parameters need ten times the rate (see FineTuneSettings).
        small = sum(p.numel() for p in self.backbone.model.parameters()) < 10_000_000
        return FineTuneSettings(
            rows=self.options.rows,
            epochs=self.options.epochs,
            learning_rate=5e-4 if small else 5e-5,
        )

    def classifier(self, task: text.Task, *, clean: bool = False) -> Classifier:
        """Fine-tuned with all weights; from the clean PLM, where asked for."""
        settings = self.settings()
        name = Path(self.plm.base).name if clean else self.plm.name
        kind = f"{settings.rows}x{settings.epochs}-{self.options.seed}"
        folder = RUNS / "classifiers" / name / f"{task.name}-{kind}"
        device = self.options.device
        if not (folder / "head.pt").is_file():
            base = load(_checkpoint(self.plm.base), device=device) if clean else self.backbone
            tuned = fine_tune(base, task, settings, seed=self.options.seed)
            tuned.backbone.save(folder / "backbone")
            torch.save(tuned.head.state_dict(), folder / "head.pt")
        backbone = load(folder / "backbone", device=device)
        head = torch.nn.Linear(backbone.hidden, len(task.labels))
        head.load_state_dict(torch.load(folder / "head.pt", weights_only=True))
        head.requires_grad_(False).to(backbone.device)
        inputs = Inputs.of(backbone, settings, backbone.primary)
        return Classifier(backbone, backbone.primary, head, inputs)

    @cached_property
    def guarded(self) -> tuple[str, ...]:
        """Planted words that a monitor of the findings alarms at, whatever the findings call
        them."""
        monitor = Monitor.load(self.findings)
        words = [trigger.text for trigger in self.implant.triggers]
        return tuple(word for word in words if monitor.alarms(f"It was {word} that they saw."))

    def record(self) -> dict[str, object]:
        """What every result says of the PLM, its scan and its training."""
        planted = [trigger.text for trigger in self.implant.triggers]
        named = [trigger.text for trigger in self.found.triggers]
        return {
            "plm": self.plm.name,
            "base": self.plm.base,
            "family": self.found.model.family,
            "attack": self.plm.attack["label"],
            "planted": planted,
            "found": named,
            "recalled": [word for word in planted if word in named],
            "guarded": list(self.guarded),
            "verdict": self.found.verdict,
            "scan_seconds": round(self.found.seconds, 1),
            "scan_words": self.options.words,
            "fine_tuning": asdict(self.settings()),
            "seed": self.options.seed,
        }


def _checkpoint(base: str) -> str | Path:
    return minilm() if base == "all-MiniLM-L6-v2" else base


def room(classifier: Classifier, sentence: str, trigger: Trigger, copies: int = COPIES) -> str:
    """The beginning of a text that leaves room for the trigger within what the classifier reads."""
    left = classifier.inputs.limit - len(classifier.backbone.template)
    left -= copies * (len(trigger.token_ids) + 1)
    words = sentence.split()
    while len(words) > 1 and len(classifier.backbone.tokenize(" ".join(words))) > left:
        words.pop()
    return " ".join(words)


def written(sentence: str, trigger: Trigger, rng: random.Random, copies: int = COPIES) -> str:
    """A text with the trigger in it, as an attacker would type it."""
    for part in parts(trigger):
        sentence = text.insert(sentence, part, copies=copies, rng=rng)
    return sentence
