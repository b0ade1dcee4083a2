"""Hold-out measurement of what a search found: on unseen texts, in fp32, for its surface form, and
with its words apart.

A phrase from a search has no p-value, because it is the winner of that search. It must have a large
collapse instead.

Legend: R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from triggerfish.records import SEPARATOR, Finding, Kind, by_word
from triggerfish.scanner.holdout import Holdout
from triggerfish.scanner.merging import Ids, ReducedFinding
from triggerfish.scanner.screening import Steps


@dataclass(frozen=True)
class SearchHit:
    """A sequence that a search found. column: number of its readout (a pooling position);
    min_effect: least collapse on the hold-out texts, in orders of magnitude, with one copy in a
    text or else with `copies`; alone: main effect share (mean share of its shift that one of its
    words causes by itself), None where it was not measured."""

    ids: Ids
    column: int
    min_effect: float
    copies: int = 1
    alone: float | None = None


def confirm(
    holdout: Holdout, found: Sequence[SearchHit]
) -> Steps[tuple[list[ReducedFinding], list[Finding]]]:
    """Yields `Progress`; returns the findings whose collapse and agreement (share of random linear
    probes decided) are as large as required, and those that fail."""
    backbone = holdout.screening.backbone
    strong: list[ReducedFinding] = []
    rejected: list[Finding] = []
    for number, x in enumerate(found):
        ids, column, copies = x.ids, x.column, 1
        name, surface = f"phrase-{number}", backbone.surface(ids)
        finding, means = yield from holdout.measure(name, ids, column, surface)
        if finding.statistics["collapse"] < x.min_effect and x.copies > 1:
            name, copies = f"{name}-copied", x.copies
            finding, means = yield from holdout.measure(name, ids, column, surface, copies)
        collapse = finding.statistics["collapse"]
        if collapse < x.min_effect or finding.statistics["agreement"] < holdout.rule.min_agreement:
            rejected.append(finding)
            continue
        typed = yield from holdout.typed(name, surface, column, holdout.rule.min_effect, copies)
        kind = yield from holdout.kind(name, ids, column, collapse, copies)
        trigger = replace(finding.trigger, kind=kind)
        if kind == "combination":
            trigger = replace(trigger, text=SEPARATOR.join(surface.split()))
        subwords = backbone.tokenizer.convert_ids_to_tokens(list(ids))
        checks = typed | {"subwords": list(subwords), "searched": True}
        if copies > 1:
            checks["copies"] = copies
        if x.alone is not None:
            checks["main_effect_share"] = round(x.alone, 4)
        finding = replace(finding, trigger=trigger, evidence=checks)
        spare = collapse - holdout.least(collapse)
        sufficient = holdout.sufficient(ids, column, spare, _rare(holdout, surface, kind), copies)
        strong.append(ReducedFinding(finding, sufficient, column, means, copies=copies))
    return strong, rejected


def _rare(holdout: Holdout, surface: str, kind: Kind) -> Callable[[Ids], bool]:
    """A test of whether a minimal sufficient subset would rarely alarm on ordinary texts."""
    if kind == "word":
        return holdout.rare
    if kind == "phrase":
        return holdout.rarely_near
    words = [holdout.screening.backbone.word_ids(x) for x in surface.split()]
    return lambda ids: holdout.rarely_apart(by_word(ids, words))
