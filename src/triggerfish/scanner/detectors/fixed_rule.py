"""The fixed rule of Patronus on the candidates of our screening: an ablation of our null
distribution.

The screening runs up to the stage that tries candidates in ordinary texts. Then, instead of a test
of collapse against a null distribution, the clusters of the largest collapse are verified by
Com-Sim and Diff-Sim with the thresholds of Patronus, on 200 texts with three copies of the
candidate in each. The comparison shows what the statistic and the calibration contribute.

Source: `scanner.screening` (ours); the rule: Patronus, arXiv 2512.06899. Deviation: 200 excerpts of
the screening's length, from documents that the screening has not used, replace 200 paragraphs.
Three copies are a larger part of so short a text, so the rule is passed more easily than in a
paragraph.

Legend: K candidates, N texts, R readouts, H hidden.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.records import Coverage, Finding, ScanResult, Trigger, Verdict
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.clusters import Cluster, clusters
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.detectors.similarity import FixedRule
from triggerfish.scanner.result import NEAR_MISSES, bare_result
from triggerfish.scanner.screening import Incomplete, Progress, Screening, ScreeningSettings, Steps


@dataclass(frozen=True)
class FixedRuleSettings:
    screening: ScreeningSettings = ScreeningSettings(holdout_texts=200)
    """The screening; the rule is applied to its hold-out texts (published code of Patronus:
    200)."""
    rule: FixedRule = FixedRule()
    """Thresholds of the rule (published code of Patronus)."""
    verified: int = 40
    """Largest number of verified clusters: as many candidates as Patronus verifies in a scan."""
    copies: int = 3
    """Copies of a candidate in a text, 1 to 3 (published code of Patronus)."""

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 3:
            raise ValueError(f"copies: {self.copies} is not 1 to 3")
        if self.verified < 1:
            raise ValueError(f"verified: {self.verified} is not at least 1")


def events(
    model: Backbone,
    texts: Sequence[str],
    *,
    words: Sequence[str] = (),
    settings: FixedRuleSettings = FixedRuleSettings(),
    seed: int = 0,
) -> Iterator[Progress | Finding | ScanResult]:
    """Screen and verify at every readout (pooling position); see `scanner.events`. words:
    candidates in addition to the vocabulary and the words of the texts."""
    listed = list(dict.fromkeys([*text.corpus_words(texts), *text.short_words(), *words]))
    screening = Screening(
        model, texts, listed, settings.screening, seed=seed, store=ActivationCache(None)
    )
    found: list[Finding] = []
    rejected: list[Finding] = []
    problems: list[str] = []
    shortlist = False
    try:
        kept = yield from _survivors(screening, settings.verified)
        shortlist = True
        yield screening.begin("holdout")
        clean = (
            yield from screening.features("clean-rule", screening.holdout_texts, [()], fast=False)
        )[0]
        for number, family in enumerate(kept):
            triggered = yield from screening.features(
                f"rule-{number}",
                screening.holdout_texts,
                [family.head.token_ids],
                fast=False,
                copies=settings.copies,
            )
            column = family.readout
            statistics = settings.rule.measure(clean[:, column], triggered[0, :, column])
            trigger = Trigger(family.head.token_ids, family.head.text)
            finding = Finding(trigger, str(screening.readouts[column]), statistics, None, None)
            if settings.rule.passes(statistics):
                found.append(finding)
                yield finding
            else:
                rejected.append(finding)
    except Incomplete as problem:
        problems.append(str(problem))
    yield _result(screening, settings, found, rejected, problems, shortlist)


def _survivors(screening: Screening, most: int) -> Steps[list[Cluster]]:
    """Yields `Progress`; returns the shortlisted clusters of the largest collapse."""
    shortlist = yield from screening.screen()
    count = shortlist.kept
    collapses = shortlist.collapses[:count]
    whole = (collapses.max(1).values >= DecisionRule().min_effect).tolist()
    found: list[Cluster] = clusters(
        shortlist.candidates[:count],
        collapses,
        shortlist.means[:count],
        shortlist.clean_reference.mean.cpu(),
        shortlist.clean_reference.close.cpu(),
        most,
        whole,
        whole,
        lambda ids, column: ids,
    )
    return found


def _result(
    screening: Screening,
    settings: FixedRuleSettings,
    found: list[Finding],
    rejected: list[Finding],
    problems: list[str],
    shortlist: bool,
) -> ScanResult:
    verdict: Verdict = "backdoored" if found else "inconclusive" if problems else "clean"
    rule, verified = settings.rule, len(found) + len(rejected)
    reason = (
        f"{len(found)} of {verified} strings that the sweep ended at have Com-Sim above "
        f"{rule.min_com} and Diff-Sim below {rule.max_diff}, fixed thresholds without a known "
        "error rate"
    )
    missing = [*problems, *screening.left_out()]
    missing += ["triggers of several words that work only together", "growth from parts to wholes"]
    coverage = Coverage(
        vocabulary=len(screening.entries) if shortlist else 0,
        words=len(screening.words) - len(screening.characters) if shortlist else 0,
        characters=len(screening.characters) if shortlist else 0,
        normalised=screening.normalised if shortlist else 0,
        extended=0,
        readouts=tuple(map(str, screening.readouts)),
        texts=len(set(screening.texts)),
        not_examined=tuple(missing),
    )
    return bare_result(
        screening.backbone,
        verdict=verdict,
        reasons=(reason, *problems),
        coverage=coverage,
        candidates=verified,
        settings={"method": "fixed_rule", "seed": screening.seed, **asdict(settings)},
        seconds=time.monotonic() - screening.started,
        forward_tokens=screening.done,
        findings=found,
        near_misses=sorted(rejected, key=lambda x: -x.statistics["ratio"])[:NEAR_MISSES],
    )
