"""What a search found, on texts that it did not see: unseen texts, fp32, typed strings, and whether
the words work apart as well.

A searched phrase has no p-value, since it is the winner of a search; it must be deep instead.

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
    """What a search has found. min_effect: decades of collapse on the hold-out that are asked of
    it, with one copy in a text or else with `copies`; alone: share of the way to where it sends
    texts that one of its words goes by itself, where that was measured."""

    ids: Ids
    column: int
    min_effect: float
    copies: int = 1
    alone: float | None = None


def confirm(
    gauge: Holdout, found: Sequence[SearchHit]
) -> Steps[tuple[list[ReducedFinding], list[Finding]]]:
    """Yields `Progress`; returns what is as deep and decides as many heads as the rule asks for,
    and the findings that do not."""
    backbone = gauge.sweep.backbone
    strong: list[ReducedFinding] = []
    rejected: list[Finding] = []
    for number, x in enumerate(found):
        ids, column, copies = x.ids, x.column, 1
        name, surface = f"phrase-{number}", backbone.surface(ids)
        finding, means = yield from gauge.measure(name, ids, column, surface)
        if finding.statistics["collapse"] < x.min_effect and x.copies > 1:
            name, copies = f"{name}-copied", x.copies
            finding, means = yield from gauge.measure(name, ids, column, surface, copies)
        depth = finding.statistics["collapse"]
        if depth < x.min_effect or finding.statistics["agreement"] < gauge.rule.min_agreement:
            rejected.append(finding)
            continue
        typed = yield from gauge.typed(name, surface, column, gauge.rule.min_effect, copies)
        kind = yield from gauge.kind(name, ids, column, depth, copies)
        trigger = replace(finding.trigger, kind=kind)
        if kind == "combination":
            trigger = replace(trigger, text=SEPARATOR.join(surface.split()))
        pieces = backbone.tokenizer.convert_ids_to_tokens(list(ids))
        checks = typed | {"subwords": list(pieces), "searched": True}
        if copies > 1:
            checks["copies"] = copies
        if x.alone is not None:
            checks["main_effect_share"] = round(x.alone, 4)
        finding = replace(finding, trigger=trigger, evidence=checks)
        spare = depth - gauge.least(depth)
        enough = gauge.enough(ids, column, spare, _rare(gauge, surface, kind), copies)
        strong.append(ReducedFinding(finding, enough, column, means, copies=copies))
    return strong, rejected


def _rare(gauge: Holdout, surface: str, kind: Kind) -> Callable[[Ids], bool]:
    """Which cores would hardly alarm on ordinary texts."""
    if kind == "word":
        return gauge.rare
    if kind == "phrase":
        return gauge.rarely_near
    words = [gauge.sweep.backbone.word_ids(x) for x in surface.split()]
    return lambda ids: gauge.rarely_apart(by_word(ids, words))
