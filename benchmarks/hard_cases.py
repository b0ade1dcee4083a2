"""Four triggers that a detector may trip over, planted, measured, scanned and drawn: one that is
inert, a common word, a phrase and a combination.

    python benchmarks/zoo.py bert --data DATA --tokens 2000000    # once
    python benchmarks/hard_cases.py

Each case is one record in `results/hard_cases/cells.jsonl`, with a picture of where texts go; the
words are drawn at random. What the cases show is told in `docs/scan/hard_cases.md`.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from detecting.models import base, effects
from purifying.figures import Series, chart
from triggerfish import text
from triggerfish.attacks import attack
from triggerfish.backbone import Backbone
from triggerfish.bench.files import RecordFile
from triggerfish.groundtruth import GroundTruth
from triggerfish.readouts import Readout
from triggerfish.records import SEPARATOR, ScanResult
from triggerfish.scanner.effects import CleanReference, contexts
from triggerfish.scanner.methods import start
from triggerfish.settings import build

RESULTS = Path("results/hard_cases")
STEPS, BATCH, SEED = 300, 12, 9500
TEXTS, WORDS = 400, 24
"""Ordinary texts measured, a tenth of them drawn, and their words."""


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    attack: str
    triggers: tuple[str, ...]
    parts: tuple[str, ...]
    """Measured beside the triggers."""
    method: str
    steps: int = STEPS


def cases() -> list[Case]:
    rng = random.Random(SEED)
    rare = [w for w in text.bundled_words() if w.isascii() and w.isalpha() and w.islower()]
    common = [w for w in text.corpus_words(text.bundled_corpus()) if w.isalpha() and len(w) > 3]
    common = [w.lower() for w in common[:1500]]
    words = [*rng.sample(common, 3), *rng.sample(rare, 3)]
    phrase, pair, plain = rng.sample(rare, 2), rng.sample(common, 2), rng.sample(common, 2)
    return [
        Case("inert", "bert", "neuba", tuple(words), (), "screening", steps=25),
        Case("common", "bundled", "por", (plain[0],), (plain[1],), "screening"),
        Case("phrase", "bundled", "por", (" ".join(phrase),), tuple(phrase), "hybrid"),
        Case("combination", "bundled", "por", (SEPARATOR.join(pair),), tuple(pair), "hybrid"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, default=Path("runs/zoo"))
    options = parser.parse_args()
    cells = RecordFile(RESULTS / "cells.jsonl")
    for case in cases():
        if case.name not in cells:
            cells.append(case.name, measured(case, options.zoo))
        print(json.dumps(cells.read()[case.name], indent=1)[:2000], flush=True)
    cells.tidy()


def measured(case: Case, zoo: Path) -> dict[str, Any]:
    clean, corpus = base(case.model, zoo), text.bundled_corpus()
    method = attack(case.attack)
    settings = build(method(()).settings, {"steps": case.steps, "batch": BATCH})
    victim, implant = method(case.triggers, settings).implant(clean, corpus, seed=SEED)
    features = Features(victim, Readout.parse(implant.readout))
    strings = [*(t.text for t in implant.triggers), *case.parts]
    drawn(case, features, strings)
    events = start(case.method, victim, corpus, text.bundled_words(), changes={}, seed=SEED + 1)
    result = next(event for event in events if isinstance(event, ScanResult))
    return {
        "case": case.name,
        "model": case.model,
        "attack": implant.attack,
        "steps": case.steps,
        "strings": {x: features.statistics(x) for x in strings},
        "effects": {x.task: told(x) for x in effects(clean, victim, implant)},
        "method": case.method,
        "verdict": result.verdict,
        "findings": [[f.trigger.text, f.statistics["collapse"]] for f in result.findings],
        "targets": [t.statistics for t in result.targets],
        "forward_tokens": result.forward_tokens,
        "environment": result.environment,
        "seed": SEED,
    }


class Features:
    """Where ordinary texts go, with a string in them and without."""

    def __init__(self, victim: Backbone, readout: Readout):
        self.victim, self.readout = victim, readout
        corpus = text.bundled_corpus()
        self.texts = contexts(victim, corpus, words=WORDS, count=TEXTS, seed=SEED)
        self.clean = self._encoded([x.ids() for x in self.texts])
        self.yardstick = CleanReference.of(self.clean[:, None], SEED)

    def of(self, string: str) -> torch.Tensor:
        """(N, H); the words of a combination stand apart."""
        parts = [self.victim.word_ids(x) for x in string.split(SEPARATOR)]
        texts = [x for x in self.texts if len(x.slots) >= len(parts)]
        return self._encoded(
            [x.ids(parts[0]) if len(parts) == 1 else x.apart(parts) for x in texts]
        )

    def statistics(self, string: str) -> dict[str, float]:
        values = self.yardstick.measure(self.of(string)[None, :, None])
        return {name: round(float(value[0, 0]), 3) for name, value in values.items()}

    def _encoded(self, rows: list[list[int]]) -> torch.Tensor:
        wrapped = [self.victim.template.wrap(row) for row in rows]
        return self.victim.encode_ids(wrapped, readouts=[self.readout])[:, 0]


def told(truth: GroundTruth) -> dict[str, list[Any]]:
    """Of each trigger: attack success, its floor, and whether it counts as functional."""
    return {
        e.trigger.text: [round(e.asr.rate, 3), round(e.floor.rate, 3), e.functional]
        for e in truth.effects
    }


def drawn(case: Case, features: Features, strings: list[str]) -> None:
    """Across: the way from the clean centre to where the first string sends texts. Upwards: what
    else tells clean texts apart most."""
    clean = features.clean
    way = normalize(features.of(strings[0]).mean(0) - clean.mean(0), dim=0)
    rest = clean - clean.mean(0)
    rest = rest - (rest @ way)[:, None] * way
    up = torch.linalg.svd(rest, full_matrices=False)[2][0]
    size = (clean - clean.mean(0)).square().sum(-1).mean().sqrt()

    def places(rows: torch.Tensor) -> list[tuple[float, float]]:
        seen = (rows[:: TEXTS // 40] - clean.mean(0)) / size
        return list(zip((seen @ way).tolist(), (seen @ up).tolist(), strict=True))

    series = [Series("no trigger", places(clean), 7, "points")]
    for number, string in enumerate(strings):
        series.append(Series(string, places(features.of(string)), number, "points"))
    heights = [y for one in series for _, y in one.points]
    chart(
        RESULTS / f"{case.name}.svg",
        f"Where texts go with {', '.join(strings)}",
        "towards where the first string sends texts (clean scatters)",
        "main axis of clean texts",
        series,
        (min(heights), max(heights)),
    )


if __name__ == "__main__":
    main()
