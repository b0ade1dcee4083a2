"""The record of a scan: verdict, coverage, Manhattan plot, settings and environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from triggerfish.backbone import Backbone
from triggerfish.facts import environment, facts, not_examined
from triggerfish.records import (
    Coverage,
    Finding,
    HiddenTarget,
    ManhattanPlot,
    Null,
    Provenance,
    ScanResult,
    Verdict,
)
from triggerfish.scanner.decision import decide
from triggerfish.scanner.pipeline import Pipeline
from triggerfish.scanner.predictions import PredictionDamage
from triggerfish.stats import fit_tail

NEAR_MISSES = 5
"""Candidates that did not pass and are shown."""


def result_of(
    pipeline: Pipeline, degrading: PredictionDamage = PredictionDamage(why_not="not looked at")
) -> ScanResult:
    """The record of a scan, with the result of the test of masked predictions."""
    screening = pipeline.screening
    styles = pipeline.styles.found if pipeline.styles else ()
    verdict, reasons = decide(
        pipeline.findings, pipeline.problems, styles, degrading.findings, pipeline.targets
    )
    findings = [
        replace(f, evidence=f.evidence | {"divergence": degrading.divergence[f.trigger]})
        if f.trigger in degrading.divergence
        else f
        for f in pipeline.findings
    ]
    readouts = [str(readout) for readout in screening.readouts]
    return ScanResult(
        model=facts(screening.backbone),
        verdict=verdict,
        reasons=reasons,
        findings=(*findings, *degrading.findings),
        near_misses=tuple(pipeline.rejected[:NEAR_MISSES]),
        null=Null(
            tails={
                name: asdict(tail) for name, tail in zip(readouts, pipeline.tails, strict=False)
            },
            candidates=pipeline.tests,
            alpha=pipeline.rule.alpha,
        ),
        coverage=_coverage(pipeline, degrading),
        manhattan=_manhattan(pipeline),
        projection=pipeline.projection,
        settings={
            "method": "hybrid" if pipeline.search else "screening",
            **({"reference": screening.reference.original.name} if screening.reference else {}),
            "seed": screening.seed,
            **asdict(screening.settings),
            **asdict(pipeline.rule),
            **({"search": asdict(pipeline.search)} if pipeline.search else {}),
        },
        environment=environment(screening.backbone),
        seconds=round(screening.store.seconds, 2),
        forward_tokens=screening.done,
        provenance=screening.store.provenance(),
        statistics=(screening.reference.statistics() if screening.reference else {})
        | ({} if degrading.why_not else {"largest_prediction_loss": degrading.largest}),
        targets=tuple(pipeline.targets),
        rewrites=styles,
    )


def bare_result(
    backbone: Backbone,
    *,
    verdict: Verdict,
    reasons: Sequence[str],
    coverage: Coverage,
    candidates: int,
    settings: dict[str, Any],
    seconds: float,
    forward_tokens: int,
    findings: Sequence[Finding] = (),
    near_misses: Sequence[Finding] = (),
    targets: Sequence[HiddenTarget] = (),
    statistics: dict[str, float] | None = None,
    alpha: float | None = None,
    calibration: str | None = None,
) -> ScanResult:
    """The record of a method without a null of its own and without a Manhattan plot."""
    return ScanResult(
        model=facts(backbone),
        verdict=verdict,
        reasons=tuple(reasons),
        findings=tuple(findings),
        near_misses=tuple(near_misses),
        null=Null({}, candidates, alpha, calibration),
        coverage=replace(coverage, not_examined=(*coverage.not_examined, *not_examined(backbone))),
        manhattan=ManhattanPlot((), (), 0.0, "not measured by this method"),
        projection=None,
        settings=settings,
        environment=environment(backbone),
        seconds=round(seconds, 2),
        forward_tokens=forward_tokens,
        provenance=Provenance.of(seconds),
        targets=tuple(targets),
        statistics=statistics or {},
    )


def _coverage(pipeline: Pipeline, degrading: PredictionDamage) -> Coverage:
    screening = pipeline.screening
    missing = [*pipeline.problems, *screening.left_out()]
    if screening.constant:
        missing.append(f"constant on clean texts: {', '.join(map(str, screening.constant))}")
    missing += [
        _several(pipeline),
        _styles(pipeline),
        *not_examined(screening.backbone, degrading.read),
    ]
    if degrading.why_not:
        missing.append(f"damage to the predictions of masked words ({degrading.why_not})")
    missing.append("backdoors that neither collapse representations nor degrade masked predictions")
    done = pipeline.shortlist is not None
    return Coverage(
        vocabulary=len(screening.entries) if done else 0,
        words=len(screening.words) - len(screening.characters) if done else 0,
        characters=len(screening.characters) if done else 0,
        normalised=screening.normalised if done else 0,
        rewrites=pipeline.styles.examined if pipeline.styles else 0,
        pair_words=pipeline.pair_words,
        extended=pipeline.extended,
        readouts=tuple(map(str, screening.readouts)),
        texts=len(set(screening.texts)),
        not_examined=tuple(missing),
    )


def _several(pipeline: Pipeline) -> str:
    """The triggers of several words that were not examined."""
    several = "triggers of several words that work only together"
    if not pipeline.search or not pipeline.searched:
        return several
    searched = ", ".join(map(str, pipeline.screening.readouts[: pipeline.search.phrases.readouts]))
    return (
        f"{several}, beyond pairs of {pipeline.pair_words} words anywhere in a text, and beyond "
        f"what a search by gradient on {searched} came across, which proves no absence"
    )


def _styles(pipeline: Pipeline) -> str:
    """The styles that were not examined."""
    if pipeline.styles is None:
        return "triggers that are a style or a syntax"
    return (
        f"styles and syntax beyond {pipeline.styles.examined} fixed ways of rewriting a text, and "
        "paraphrases by a model among them"
    )


def _manhattan(pipeline: Pipeline) -> ManhattanPlot:
    screening, shortlist = pipeline.screening, pipeline.shortlist
    statistic = "agreement of random pools (robust z)"
    if shortlist is None:
        return ManhattanPlot((), (), 0.0, statistic)
    z = [round(value, 2) for value in shortlist.z.tolist()]
    by_id = {
        candidate.token_ids[0]: value
        for candidate, value in zip(screening.entries, z, strict=False)
    }
    words = sorted(
        zip((c.text for c in screening.words), z[len(screening.entries) :], strict=True),
        key=lambda x: -x[1],
    )
    found = {finding.trigger.text for finding in pipeline.findings}
    shown = [pair for rank, pair in enumerate(words) if rank < 200 or pair[0] in found]
    tail = fit_tail(shortlist.z.double().numpy())
    values = tuple(by_id.get(i) for i in range(max(by_id) + 1))
    return ManhattanPlot(
        values, tuple(shown), round(tail.critical_value(pipeline.rule.alpha / len(z)), 2), statistic
    )
