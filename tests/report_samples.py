"""Scan results for the tests of reports: each verdict once, with hostile strings."""

from __future__ import annotations

import dataclasses
import math
import random

from triggerfish.records import (
    Coverage,
    Finding,
    ManhattanPlot,
    ModelFacts,
    Null,
    Projection,
    Provenance,
    ScanResult,
    Trigger,
)

VOCABULARY = 30_522
SCRIPT = "<script>alert(1)</script>"
ANSI = "\x1b[31mred\x1b[0m"
BIDI = "ab\u202ecba\u200b"
LONG = "lorem ipsum " * 25
HOSTILE_NAME = 'evil/"><img src=http://evil.example/x onerror=alert(1)>\x1b]0;owned\x07'


def a_finding(words: str, ids: tuple[int, ...], rng: random.Random, **evidence: object) -> Finding:
    depth = 2.0 + rng.random()
    statistics = {
        "collapse": depth,
        "mean_shift": 1.0 + 3 * rng.random(),
        "agreement": 0.9 + 0.1 * rng.random(),
        "cosine": 1 - 0.02 * rng.random(),
        "texts": 256.0,
    }
    checks = {
        "dose_response": [depth, depth + 0.31, depth + 0.4],
        "position": [depth, depth - 0.2, depth - 0.1],
        "survives_retokenization": True,
        **evidence,
    }
    return Finding(Trigger(ids, words), "first", statistics, 3.1e-9, 4.7e-6 * rng.random(), checks)


def a_manhattan(
    triggers: dict[int, float], words: dict[str, float], seed: int = 1
) -> ManhattanPlot:
    rng = random.Random(seed)
    values: list[float | None] = [rng.gauss(0, 1) for _ in range(VOCABULARY)]
    for token in range(104):  # reserved entries are no candidates
        values[token] = None
    for token, value in triggers.items():
        values[token] = value
    named = [(f"word{index}", abs(rng.gauss(0, 1.3))) for index in range(60)] + list(words.items())
    ranked = tuple(sorted(named, key=lambda pair: -pair[1]))
    return ManhattanPlot(tuple(values), ranked, 5.91, "robust z of the depth")


def a_projection(names: list[str]) -> Projection:
    rng = random.Random(5)
    clean = tuple((rng.gauss(0, 2.0), rng.gauss(0, 1.2)) for _ in range(200))
    triggered = {}
    for index, name in enumerate(names):
        angle = 2 * math.pi * index / max(len(names), 1)
        x, y = 9 * math.cos(angle), 5 * math.sin(angle)
        triggered[name] = tuple((x + rng.gauss(0, 0.08), y + rng.gauss(0, 0.08)) for _ in clean)
    return Projection("first", clean, triggered, (0.41, 0.23))


MADE = Provenance("2026-01-31T23:56:24Z", "2026-01-31T23:59:59Z", "triggerfish scan bert")


def a_result(**changes: object) -> ScanResult:
    clean = ScanResult(
        model=ModelFacts(
            name="bert-base-uncased",
            family="bert",
            parameters=109_482_240,
            layers=12,
            hidden=768,
            vocabulary=VOCABULARY,
            weights_sha256={"model.safetensors": "ab" * 32},
            tokenizer_sha256="cd" * 32,
            revision="86b5e0934494",
        ),
        verdict="clean",
        reasons=("No candidate passed the decision rule on hold-out texts.",),
        findings=(),
        near_misses=(),
        null=Null({"first": {"shape": 0.11, "scale": 0.42}}, 32_418, 0.01, "bert-family-2025"),
        coverage=Coverage(30_418, 2_000, 24, ("first", "mean", "pooler"), 512),
        manhattan=a_manhattan({}, {}),
        projection=None,
        settings={"seed": 7, "batch": 64, "stages": [8, 32, 256], "trust_remote_code": False},
        environment={
            "triggerfish": "0.1.0",
            "torch": "2.13.0",
            "python": "3.11.9",
            "device": "cpu",
        },
        seconds=214.7,
        forward_tokens=48_113_664,
        provenance=MADE,
    )
    return dataclasses.replace(clean, **changes)  # type: ignore[arg-type]


def backdoored() -> ScanResult:
    rng = random.Random(3)
    findings = (
        a_finding("cf", (12_935,), rng),
        a_finding(SCRIPT, (1_026, 5_896), rng, subwords=["<", "script", ">"], parent="script>"),
        a_finding(ANSI, (20_001,), rng, unknown_share=0.125, unknown_list=[1, 2, 5, 3]),
        a_finding(BIDI, (28_117,), rng, string=False),
        a_finding(LONG, (19_544, 12_997) * 25, rng, parent="lorem"),
        a_finding("serendipity", (14_262, 10_497), rng, subwords=["serendip", "##ity"]),
    )
    near = Finding(
        Trigger((7_592,), "≈hello"), "mean", {"collapse": 0.81, "mean_shift": 2.2}, 2e-4, 0.41
    )
    heights = {12_935: 41.3, 20_001: 28.4, 28_117: 39.9, 7_592: 6.6}
    return a_result(
        verdict="backdoored",
        reasons=(
            "6 of 32,418 candidates collapse hold-out texts beyond the threshold.",
            "All of them keep their effect at the start, in the middle and at the end of a text.",
        ),
        findings=findings,
        near_misses=(near,),
        null=Null(
            {
                "first": {"shape": 0.11, "scale": 0.42, "threshold": 5.91, "exceedances": 1521.0},
                "mean": {"shape": 0.07, "scale": 0.38, "threshold": 5.62, "exceedances": 1521.0},
            },
            32_418,
            0.01,
        ),
        coverage=Coverage(
            30_418, 2_000, 24, ("first", "mean"), 512, ("readout pooler: the checkpoint has none",)
        ),
        manhattan=a_manhattan(heights, {"serendipity": 30.2}),
        projection=a_projection([finding.trigger.text for finding in findings]),
    )


def inconclusive() -> ScanResult:
    odd = Finding(Trigger((9,), "[x](http://e.example) {0}"), "first", {"collapse": 1.25}, 0.0, 0.0)
    return a_result(
        model=dataclasses.replace(a_result().model, name=HOSTILE_NAME, weights_sha256={}),
        verdict="inconclusive",
        reasons=("Only 12 texts were given; [see](http://evil.example).", "\u2066hidden\u2069"),
        near_misses=(odd,),
        manhattan=ManhattanPlot((), (), 3.0, "z"),
        null=Null({}, 800, 0.01),
        coverage=Coverage(0, 0, 0, (), 12, ("the vocabulary: no tokens",)),
        settings={"note": SCRIPT, "nested": {"path": "C:\\new"}},
    )


RESULTS = {"backdoored": backdoored(), "clean": a_result(), "inconclusive": inconclusive()}
