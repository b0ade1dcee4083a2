"""What must an attacker give up to hide? POR-1 with a penalty on what a detector looks for, over
the weight of the penalty: attack success downstream, and the share of triggers that a scan stops.

    python benchmarks/adaptive.py [--models bundled] [--keep runs/adaptive]

One record for each penalty, weight and PLM in `results/adaptive/cells.jsonl`; those that exist are
kept. The table and the curve are rendered from the records.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from detecting.cell import guards
from detecting.models import base, effects
from purifying.figures import Series, chart
from triggerfish import text
from triggerfish.attacks import attack
from triggerfish.bench.files import RecordFile
from triggerfish.groundtruth import functional
from triggerfish.records import ScanResult
from triggerfish.scanner.methods import start
from triggerfish.settings import build
from triggerfish.writing import write_text

RESULTS = Path("results/adaptive")
CELLS = RecordFile(RESULTS / "cells.jsonl")
PENALTIES = ("shift", "spread", "repulsion")
WEIGHTS = (0.1, 0.3, 0.5, 1.0, 3.0)
TRIGGERS, STEPS, BATCH, SEED = 4, 300, 12, 9000
HEAD = f"""# Adaptive attacks

Rendered by `benchmarks/adaptive.py` from `cells.jsonl`. POR-1, {TRIGGERS} words drawn at random
from the bundled list and from common words, {STEPS} steps of {BATCH} texts, with a penalty
([how they are defined](../../docs/attacks/adaptive.md)) of growing weight.

- **T-ASR**: mean over probes of two tasks, in percent; **floor**: the same words on the clean PLM.
- **works**: triggers that decide one of these tasks, well above the floor.
- **stopped**: triggers that a monitor made from the scan would stop.

One seed for each run; the scan is the screening alone.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["bundled"])
    parser.add_argument("--zoo", type=Path, default=Path("runs/zoo"))
    options = parser.parse_args()
    for model in options.models:
        for penalty, weight in [("none", 0.0), *((p, w) for p in PENALTIES for w in WEIGHTS)]:
            name = f"{model}-{penalty}-{weight:g}"
            if name not in CELLS:
                cell = measured(model, penalty, weight, options.zoo)
                CELLS.append(name, cell)
                print(name, cell["verdict"], cell["t_asr"], cell["stopped"], flush=True)
    CELLS.tidy()
    render()


def measured(model: str, penalty: str, weight: float, zoo: Path) -> dict[str, Any]:
    clean, corpus = base(model, zoo), text.bundled_corpus()
    rng = random.Random(f"{SEED}/{model}")
    rare = [w for w in text.bundled_words() if w.isascii() and w.isalpha() and w.islower()]
    common = [w for w in text.corpus_words(corpus) if w.isalpha()][:5000]
    words = tuple(rng.choice(rng.choice((rare, common))).lower() for _ in range(TRIGGERS))
    method = attack("por")
    settings = {"steps": STEPS, "batch": BATCH, "code": "por1"}
    if weight:
        settings["adaptive"] = f"{penalty}:{weight:g}"
    started = time.process_time()
    victim, implant = method(words, build(method(()).settings, settings)).implant(
        clean, corpus, seed=SEED
    )
    planting = time.process_time() - started
    truths = effects(clean, victim, implant)
    works = functional(truths)
    result = scanned(victim, corpus)
    stopped = [any(guards(f, t, victim) for f in result.findings) for t in implant.triggers]
    return {
        "model": model,
        "penalty": penalty,
        "weight": weight,
        "triggers": [t.text for t in implant.triggers],
        "t_asr": round(100 * mean(x.t_asr for x in truths), 1),
        "floor": round(100 * mean(e.floor.rate for x in truths for e in x.effects), 1),
        "accuracy": [round(100 * x.accuracy.rate, 1) for x in truths],
        "clean_accuracy": [round(100 * x.clean_accuracy.rate, 1) for x in truths],
        "works": [works[t.text] for t in implant.triggers],
        "stopped": stopped,
        "verdict": result.verdict,
        "findings": [(f.trigger.text, f.statistics["collapse"]) for f in result.findings],
        "forward_tokens": result.forward_tokens,
        "planting_seconds": round(planting, 1),
        "settings": settings,
        "environment": result.environment,
        "seed": SEED,
    }


def scanned(victim: Any, corpus: Sequence[str]) -> ScanResult:
    events = start("screening", victim, corpus, text.bundled_words(), changes={}, seed=SEED + 1)
    return next(event for event in events if isinstance(event, ScanResult))


def render() -> None:
    cells = sorted(
        CELLS.read().values(),
        key=lambda c: (c["model"], ("none", *PENALTIES).index(c["penalty"]), c["weight"]),
    )
    lines = [
        "| PLM | penalty | weight | T-ASR | floor | works | stopped | verdict |",
        "|---" * 8 + "|",
    ]
    for c in cells:
        row = (
            c["model"],
            c["penalty"],
            f"{c['weight']:g}",
            f"{c['t_asr']:.1f}",
            f"{c['floor']:.1f}",
            f"{sum(c['works'])} of {TRIGGERS}",
            f"{sum(c['stopped'])} of {TRIGGERS}",
            c["verdict"],
        )
        lines.append(f"| {' | '.join(row)} |")
    models = dict.fromkeys(c["model"] for c in cells)
    pictures = []
    for model in models:
        curve(model, [c for c in cells if c["model"] == model])
        pictures.append(f"![{model}: success and recall over the weight]({model}.svg)\n")
    write_text(RESULTS / "README.md", HEAD + "\n".join([*pictures, *lines]) + "\n")


def curve(model: str, cells: Sequence[dict[str, Any]]) -> None:
    """Each penalty a line from its lightest weight to its heaviest."""
    start = [c for c in cells if c["penalty"] == "none"]
    series = []
    for number, penalty in enumerate(PENALTIES):
        own = start + [c for c in cells if c["penalty"] == penalty]
        points = [(c["t_asr"], 100 * sum(c["stopped"]) / TRIGGERS) for c in own]
        series.append(Series(penalty, points, number))
    title = f"Triggers stopped against T-ASR, {model}, by penalty"
    chart(RESULTS / f"{model}.svg", title, "T-ASR (%)", "triggers stopped (%)", series)


if __name__ == "__main__":
    main()
