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
    hunt: Pipeline, spoilt: PredictionDamage = PredictionDamage(why_not="not looked at")
) -> ScanResult:
    """The record of a scan, with the result of the test of masked predictions."""
    sweep = hunt.sweep
    styles = hunt.styles.found if hunt.styles else ()
    verdict, reasons = decide(hunt.findings, hunt.problems, styles, spoilt.findings, hunt.targets)
    findings = [
        replace(f, evidence=f.evidence | {"divergence": spoilt.divergence[f.trigger]})
        if f.trigger in spoilt.divergence
        else f
        for f in hunt.findings
    ]
    readouts = [str(readout) for readout in sweep.readouts]
    return ScanResult(
        model=facts(sweep.backbone),
        verdict=verdict,
        reasons=reasons,
        findings=(*findings, *spoilt.findings),
        near_misses=tuple(hunt.rejected[:NEAR_MISSES]),
        null=Null(
            tails={name: asdict(tail) for name, tail in zip(readouts, hunt.tails, strict=False)},
            candidates=hunt.tests,
            alpha=hunt.rule.alpha,
        ),
        coverage=_coverage(hunt, spoilt),
        manhattan=_manhattan(hunt),
        projection=hunt.projection,
        settings={
            "method": "hybrid" if hunt.search else "screening",
            **({"reference": sweep.reference.original.name} if sweep.reference else {}),
            "seed": sweep.seed,
            **asdict(sweep.settings),
            **asdict(hunt.rule),
            **({"search": asdict(hunt.search)} if hunt.search else {}),
        },
        environment=environment(sweep.backbone),
        seconds=round(sweep.store.seconds, 2),
        forward_tokens=sweep.done,
        provenance=sweep.store.provenance(),
        statistics=(sweep.reference.statistics() if sweep.reference else {})
        | ({} if spoilt.why_not else {"largest_prediction_loss": spoilt.largest}),
        targets=tuple(hunt.targets),
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


def _coverage(hunt: Pipeline, spoilt: PredictionDamage) -> Coverage:
    sweep = hunt.sweep
    missing = [*hunt.problems, *sweep.left_out()]
    if sweep.constant:
        missing.append(f"constant on clean texts: {', '.join(map(str, sweep.constant))}")
    missing += [_several(hunt), _styles(hunt), *not_examined(sweep.backbone, spoilt.read)]
    if spoilt.why_not:
        missing.append(f"damage to the predictions of masked words ({spoilt.why_not})")
    missing.append("backdoors that neither collapse representations nor degrade masked predictions")
    done = hunt.screened is not None
    return Coverage(
        vocabulary=len(sweep.entries) if done else 0,
        words=len(sweep.words) - len(sweep.characters) if done else 0,
        characters=len(sweep.characters) if done else 0,
        normalised=sweep.normalised if done else 0,
        rewrites=hunt.styles.examined if hunt.styles else 0,
        pair_words=hunt.pair_words,
        extended=hunt.extended,
        readouts=tuple(map(str, sweep.readouts)),
        texts=len(set(sweep.texts)),
        not_examined=tuple(missing),
    )


def _several(hunt: Pipeline) -> str:
    """The triggers of several words that were not examined."""
    several = "triggers of several words that work only together"
    if not hunt.search or not hunt.searched:
        return several
    searched = ", ".join(map(str, hunt.sweep.readouts[: hunt.search.phrases.readouts]))
    return (
        f"{several}, beyond pairs of {hunt.pair_words} words anywhere in a text, and beyond what a "
        f"search by gradient on {searched} came across, which proves no absence"
    )


def _styles(hunt: Pipeline) -> str:
    """The styles that were not examined."""
    if hunt.styles is None:
        return "triggers that are a style or a syntax"
    return (
        f"styles and syntax beyond {hunt.styles.examined} fixed ways of rewriting a text, and "
        "paraphrases by a model among them"
    )


def _manhattan(hunt: Pipeline) -> ManhattanPlot:
    sweep, screened = hunt.sweep, hunt.screened
    statistic = "agreement of random pools (robust z)"
    if screened is None:
        return ManhattanPlot((), (), 0.0, statistic)
    z = [round(value, 2) for value in screened.z.tolist()]
    by_id = {
        candidate.token_ids[0]: value for candidate, value in zip(sweep.entries, z, strict=False)
    }
    words = sorted(
        zip((c.text for c in sweep.words), z[len(sweep.entries) :], strict=True),
        key=lambda x: -x[1],
    )
    found = {finding.trigger.text for finding in hunt.findings}
    shown = [pair for rank, pair in enumerate(words) if rank < 200 or pair[0] in found]
    tail = fit_tail(screened.z.double().numpy())
    values = tuple(by_id.get(i) for i in range(max(by_id) + 1))
    return ManhattanPlot(
        values, tuple(shown), round(tail.critical_value(hunt.rule.alpha / len(z)), 2), statistic
    )
