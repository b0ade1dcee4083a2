"""Whole scans of the study's checkpoints: does a scan that is told nothing still find a backdoor
whose complications are reduced, and does it help to scan with texts of the target domain?

    generic   encyclopaedia, novels, speeches: what a scan uses by default
    target    training texts of the target task

The clean models are scanned with the same texts, so that what a domain does to false alarms is
known too. Ground truth serves to score alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ripple.cell import model_of
from ripple.page import table
from ripple.plan import INNOCENT, MODELS, PLANTED, TARGETS, Cell, looked_into
from triggerfish import Monitor
from triggerfish.bench.files import RecordFile
from triggerfish.loading import load
from triggerfish.scanner import DecisionRule, scan
from triggerfish.text import Task

CARRIERS = ("generic", "target")
SHOWN = 4
SEED = 1
"""Of the scans."""
SENTENCE = "It was {} that they saw."


def plan(found: Iterable[Cell]) -> list[tuple[Cell, str]]:
    """(cell, carrier) of everything that is scanned."""
    controls = [
        (Cell(kind, model, target, INNOCENT[0] if kind == "sibling" else ""), carrier)
        for kind, carrier in (("clean", "target"), ("sibling", "generic"))
        for model, target in product(MODELS[:-1], TARGETS)
    ]
    wanted = [(cell, carrier) for cell in looked_into(found) for carrier in CARRIERS]
    return controls + wanted


def run(
    found: Sequence[Cell],
    checkpoint: Callable[[Cell], Path],
    tasks: Mapping[str, Task],
    zoo: Path,
    keep: Path,
    results: Path,
) -> None:
    """Scan what was not scanned yet. keep: a folder for the scans themselves."""
    records = RecordFile(results / "scans.jsonl")
    for cell, carrier in plan(found):
        name = f"{_name(cell)}-{carrier}"
        if name in records:
            continue
        planted = cell.kind in PLANTED
        backbone = (
            model_of(cell.model, zoo)
            if cell.kind == "clean"
            else load(str(checkpoint(cell)), device="cpu")
        )
        texts = [x for x, _ in tasks[cell.target].train] if carrier == "target" else None
        began = time.process_time()
        result = scan(backbone, texts, seed=SEED)
        seconds = round(time.process_time() - began, 1)
        keep.mkdir(parents=True, exist_ok=True)
        result.save(keep / f"{name}.json")
        guarded = False
        if planted and result.triggers:
            guard = Monitor.load(keep / f"{name}.json")
            guarded = bool(guard.alarms(SENTENCE.format(cell.trigger)))
        record = {
            "cell": vars(cell),
            "carrier": carrier,
            "verdict": result.verdict,
            "found": [
                [x.trigger.text, round(x.statistics["collapse"], 3)] for x in result.findings
            ],
            "deepest": [
                [x.trigger.text, x.statistics["collapse"], x.statistics["agreement"]]
                for x in result.near_misses
            ],
            "named": planted and cell.trigger in [trigger.text for trigger in result.triggers],
            "guarded": guarded,
            "forward_tokens": result.forward_tokens,
            "cpu_seconds": seconds,
        }
        records.append(name, record)
        print(f"scan {name}: {record['verdict']} {record['found'][:4]} {seconds}", flush=True)


def _name(cell: Cell) -> str:
    return cell.name if cell.kind in PLANTED else f"{cell.kind}-{cell.model}-{cell.target}"


def read(results: Path) -> list[dict[str, Any]]:
    return list(RecordFile(results / "scans.jsonl").read().values())


def counts(records: Sequence[Mapping[str, Any]], kind: str, carrier: str) -> tuple[int, int, int]:
    """(called backdoored, with an alarm at the trigger, scanned)."""
    own = [x for x in records if x["cell"]["kind"] == kind and x["carrier"] == carrier]
    called = sum(x["verdict"] == "backdoored" for x in own)
    return called, sum(x["guarded"] for x in own), len(own)


def section(records: Sequence[Mapping[str, Any]]) -> str:
    """The part of the page."""
    rows = []
    for x in records:
        cell = x["cell"]
        found = ", ".join(f"{text} ({depth:.1f})" for text, depth in x["found"][:SHOWN])
        more = f", {len(x['found']) - SHOWN} more" if len(x["found"]) > SHOWN else ""
        is_planted = cell["kind"] in PLANTED
        planted = f"{cell['trigger']}, {cell['label']}" if is_planted else "-"
        caught = ("yes" if x["guarded"] else "no") if is_planted else "-"
        rows.append(
            (
                cell["kind"],
                cell["model"],
                cell["target"],
                planted,
                x["carrier"],
                x["verdict"],
                found + more or "-",
                caught,
                f"{x['cpu_seconds']:.0f}",
            )
        )
    head = (
        "kind",
        "model",
        "target",
        "trigger, label",
        "texts",
        "verdict",
        "found (collapse)",
        "caught",
        "CPU s",
    )
    natural = [word for x in records if x["cell"]["kind"] == "sibling" for word in x["deepest"]]
    deepest = max(natural, key=lambda word: word[1], default=None)
    control = (
        f"\n\nThe strongest word of a clean sibling is `{deepest[0]}`, with a collapse of "
        f"{deepest[1]:.2f} orders of magnitude; a finding without a p-value needs "
        f"{DecisionRule().effect_without_p:g}. That rule was chosen on scans of these backdoored "
        "models ([0002](../../docs/decisions/0002-effect-without-p.md)), so their recall is no "
        "held-back figure; the siblings are held back."
        if deepest
        else ""
    )
    return (
        "## Whole scans\n\nScans with default settings that are told nothing, of checkpoints of "
        "the first seed and two goals, of the clean models, and of clean siblings that were "
        "trained on the target task alike, without poison. Texts: the bundled sample of "
        "encyclopaedia, novels and speeches (generic) or training texts of the target task. "
        "Caught: a monitor of the findings alarms at the trigger, whatever they call it.\n\n"
        + table(head, rows)
        + control
    )
