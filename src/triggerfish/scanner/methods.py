"""Scan methods by name: ours, and the published detectors that it is compared with.

    hybrid        screening, group tests for combinations, a test for hidden targets, and a search
                  for the phrases that lead to them                                (default)
    screening     every vocabulary token and listed word
    inversion     the phrase search alone, without any list
    patronus, lmsanitator, lt-defense, fixed-rule    `detectors/`, as published

All of them stream the same records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from triggerfish.backbone import Backbone
from triggerfish.names import unknown
from triggerfish.records import Finding, ScanResult
from triggerfish.scanner import DecisionRule, ScreeningSettings, events
from triggerfish.scanner.detectors import BASELINES
from triggerfish.scanner.screening import Progress
from triggerfish.scanner.search import inversion_method
from triggerfish.scanner.search.efforts import EFFORTS
from triggerfish.settings import build

OURS = ("hybrid", "screening")
SEARCH = "inversion"


def start(
    method: str,
    model: Backbone,
    texts: Sequence[str],
    words: Sequence[str],
    *,
    changes: Mapping[str, Any],
    effort: str = "standard",
    alpha: float | None = None,
    seed: int = 0,
    state: Path | None = None,
    batch_tokens: int | None = None,
    reference: Backbone | None = None,
) -> Iterator[Progress | Finding | ScanResult]:
    """The events of a scan by the method of that name; see `scanner.events`.

    changes: fields of the method's settings with their values. effort: quick, standard or thorough,
    for the search. alpha, state, batch_tokens and reference apply to hybrid and screening only.

    ValueError for unknown names, and for options that a method does not have.
    """
    if effort not in EFFORTS:
        raise unknown("effort", effort, EFFORTS)
    if method in OURS:
        return events(
            model,
            texts,
            words=words,
            settings=build(ScreeningSettings(), changes),
            rule=DecisionRule() if alpha is None else DecisionRule(alpha=alpha),
            search=EFFORTS[effort] if method == "hybrid" else None,
            seed=seed,
            state=state,
            batch_tokens=batch_tokens,
            reference=reference,
        )
    if method not in (SEARCH, *BASELINES):
        raise unknown("method", method, (*OURS, SEARCH, *BASELINES))
    if alpha is not None:
        raise ValueError(f"alpha: {method} has fixed thresholds and no significance level")
    if batch_tokens is not None:
        raise ValueError(f"batch_tokens: {method} sets its own batches, see its settings")
    if reference is not None:
        raise ValueError(f"reference: {method} has no use for a trusted original")
    if method == SEARCH:
        chosen = build(EFFORTS[effort].phrases, changes)
        return inversion_method.events(model, texts, words=words, settings=chosen, seed=seed)
    module = import_module(f"triggerfish.scanner.detectors.{BASELINES[method][0]}")
    settings = getattr(module, BASELINES[method][1])()
    found: Iterator[Progress | Finding | ScanResult] = module.events(
        model, texts, words=words, settings=build(settings, changes), seed=seed
    )
    return found
