"""What a scan could still see of a reduced backdoor: the hold-out statistic of its trigger, with
carrier texts of three kinds.

    generic   encyclopaedia, novels, speeches: what a scan uses by default
    target    training texts of the target task
    mixed     half of each

The trigger stands at a random place, as in a scan, or in front, where these backdoors were planted.
This is the last stage of a scan alone, told the trigger and compared with innocent words: it says
whether a scan that tries the word can find it, not that it does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ripple.page import table
from ripple.plan import Cell
from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.bench.files import RecordFile
from triggerfish.complications.controls import matched_words
from triggerfish.loading import load
from triggerfish.marking import parse_trigger
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.effects import CleanReference, contexts
from triggerfish.text import Task

CARRIERS = ("generic", "target", "mixed")
PLACES = ("anywhere", "in front")
TEXTS, CLEAN, WORDS, INNOCENT = 32, 160, 20, 24


def run(
    planted: Sequence[Cell],
    checkpoint: Callable[[Cell], Path],
    tasks: Mapping[str, Task],
    results: Path,
) -> None:
    """Measure every checkpoint that is not in the file yet."""
    records = RecordFile(results / "carriers.jsonl")
    for cell in planted:
        if cell.name not in records:
            backbone = load(str(checkpoint(cell)), device="cpu")
            found = {
                "cell": vars(cell),
                "carriers": {
                    name: _measure(backbone, cell, texts)
                    for name, texts in _texts(tasks[cell.target]).items()
                },
            }
            records.append(cell.name, found)


def _texts(target: Task) -> dict[str, list[str]]:
    generic = text.bundled_corpus()
    own = [x for x, _ in target.train]
    size = min(len(generic), len(own))
    mixed = random.Random(0).sample(generic, size) + random.Random(1).sample(own, size)
    return dict(zip(CARRIERS, (generic, own, mixed), strict=True))


def _measure(backbone: Backbone, cell: Cell, texts: Sequence[str]) -> dict[str, Any]:
    trigger = parse_trigger(backbone, cell.trigger)
    words = [trigger.text, *matched_words(backbone, [trigger], INNOCENT)]
    options = {"readouts": backbone.readouts, "batch_tokens": 2048}
    wrap = backbone.template.wrap
    clean = contexts(backbone, texts, words=WORDS, count=CLEAN, seed=1)
    yardstick = CleanReference.of(backbone.encode_ids([wrap(x.ids()) for x in clean], **options), 0)
    held = contexts(backbone, texts, words=WORDS, count=TEXTS, seed=2)
    candidates = [parse_trigger(backbone, word).token_ids for word in words]
    found = {}
    for place in PLACES:
        placed = [x.at(0.0) for x in held] if place == "in front" else held
        ids = [wrap(x.ids(candidate)) for candidate in candidates for x in placed]
        features = backbone.encode_ids(ids, **options).unflatten(0, (len(words), TEXTS))
        found[place] = _judged(backbone, yardstick.measure(features))
    return found


def _judged(backbone: Backbone, found: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The trigger, first of the words, at its best readout."""
    best = int(found["collapse"][0].argmax())
    rule = DecisionRule()
    depth, heads = found["collapse"][:, best], found["agreement"][:, best]
    passed = (found["collapse"][0] >= rule.min_effect) & (
        found["agreement"][0] >= rule.min_agreement
    )
    beyond = found["collapse"][0] > found["collapse"][1:].max(0).values
    return {
        "readout": str(backbone.readouts[best]),
        "depth": round(float(depth[0]), 4),
        "heads": round(float(heads[0]), 4),
        "innocent": round(float(depth[1:].max()), 4),
        "above": int((depth[1:] >= depth[0]).sum()),
        "seen": bool(torch.any(passed & beyond)),
    }


def section(known: Mapping[str, Any]) -> str:
    """The part of the page."""
    rows = []
    for name, record in known.items():
        for place in PLACES:
            shown = [
                f"{x['depth']:.2f} ({x['innocent']:.2f}){' *' if x['seen'] else ''}"
                for x in (record["carriers"][carrier][place] for carrier in CARRIERS)
            ]
            rows.append((name, place, *shown))
    return (
        "## What a scan could still see\n\nCollapse of the trigger on hold-out texts, in orders of "
        "magnitude, at its best readout, with carrier texts of three kinds, at a random place as "
        "in a scan or in front, where it was planted; in brackets the largest of "
        f"{INNOCENT} benign words there. A star: it passes the scan's thresholds and is beyond "
        "every benign word. This is the last stage of a scan, told the trigger.\n\n"
        + table(("checkpoint", "trigger", *CARRIERS), rows)
    )
