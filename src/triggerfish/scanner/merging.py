"""Merge findings that are the same trigger: one contains the minimal sufficient subset of the
other, their subsets share tokens, and both send texts to the same target embedding.

A minimal sufficient subset is what remains of a finding when tokens are dropped for as long as the
collapse persists. If one token of a planted word causes the collapse, every listed word with that
token is as good a trigger, and nothing in the model distinguishes them. The strongest finding
represents the group, or the shortest of those as strong. If the tokens of a shorter finding occur
in the strongest with gaps, the shorter one represents the group, because a planted word has no gaps
(docs/decisions/0009).

Legend: K candidates, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from triggerfish.records import SUBSET_TOKENS, Finding

Ids = tuple[int, ...]
Scatter = Callable[[Sequence[Ids]], torch.Tensor]
"""(K candidates) -> (K,) log10 dispersion of texts with the candidate inserted. Low values are a
collapse."""

SPARE = 0.1
"""Orders of magnitude of dispersion that dropping one token may cost (ours)."""
SPARE_IN_ALL = 0.4
"""Orders of magnitude that all dropped tokens may cost together (ours)."""
GAPS = 0.25
"""Largest lead in collapse, in orders of magnitude, of a longer finding over a word whose tokens it
contains with gaps (docs/decisions/0009)."""
EQUAL = 0.05
"""Orders of magnitude within which findings are equally strong (docs/decisions/0009)."""


@dataclass(frozen=True)
class Variant:
    """A neighbour: another candidate that is the same trigger. depth: its collapse."""

    token_ids: Ids
    text: str
    collapse: float


@dataclass(frozen=True)
class ReducedFinding:
    """A finding, its minimal sufficient subset, the index of its readout, (R, H) mean triggered
    features, its neighbours, strongest first, and the number of copies per text that it was
    measured with."""

    finding: Finding
    minimal_subset: Ids
    column: int
    means: torch.Tensor
    variants: tuple[Variant, ...] = ()
    copies: int = 1


def minimal_subset(
    ids: Ids,
    scatter: Scatter,
    *,
    spare: float = SPARE,
    in_all: float = SPARE_IN_ALL,
    allowed: Callable[[Ids], bool] = lambda _: True,
) -> Ids:
    """The minimal sufficient subset: `ids` without the tokens, at any place, that the collapse does
    not need.

    spare: orders of magnitude that dropping one token may cost. in_all: what all dropped tokens may
    cost together. allowed: which subsets are permitted.
    """
    start = now = float(scatter([ids])[0])
    while shorter := [one for one in _shorter(ids) if allowed(one)]:
        values = scatter(shorter)
        lowest = int(values.argmin())
        if values[lowest] > min(now + spare, start + in_all):
            break
        ids, now = shorter[lowest], float(values[lowest])
    return ids


def _shorter(ids: Ids) -> list[Ids]:
    """`ids` with one token less; nothing for a single token."""
    return [ids[:i] + ids[i + 1 :] for i in range(len(ids))] if len(ids) > 1 else []


def merge(
    found: Sequence[ReducedFinding], origin: torch.Tensor, close: torch.Tensor
) -> list[ReducedFinding]:
    """One finding per trigger, with the merged findings and their neighbours as its neighbours.

    origin: (R, H) clean means. close: (R,) squared distance within which two means are the same
    target.
    """
    groups: list[list[ReducedFinding]] = []
    for one in sorted(found, key=lambda x: -x.finding.statistics["collapse"]):
        for group in groups:
            if any(_same(one, other, origin, close) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return [_speaker(group) for group in groups]


def one_point(
    one: ReducedFinding, other: ReducedFinding, origin: torch.Tensor, close: torch.Tensor
) -> bool:
    """Whether both findings send texts to the same target, at the readout of `other`."""
    column = other.column
    apart = (one.means[column] - other.means[column]).square().sum()
    way = (other.means[column] - origin[column]).square().sum()
    return bool(apart <= torch.maximum(close[column], way / 4))


def _same(
    one: ReducedFinding, other: ReducedFinding, origin: torch.Tensor, close: torch.Tensor
) -> bool:
    # A long word may contain another trigger's subset by chance and work by other tokens.
    if not one_point(one, other, origin, close) or set(one.minimal_subset).isdisjoint(
        other.minimal_subset
    ):
        return False
    return within(one.minimal_subset, other.finding.trigger.token_ids) or within(
        other.minimal_subset, one.finding.trigger.token_ids
    )


def within(short: Ids, long: Ids) -> bool:
    """Whether the tokens of `short` occur in `long` in order, gaps allowed."""
    rest = iter(long)
    return all(token in rest for token in short)


def near(short: Ids, long: Ids) -> bool:
    """Whether the tokens of `short` occur in `long` in order, within `SUBSET_TOKENS`."""
    starts = (i for i, token in enumerate(long) if token == short[0])
    return any(within(short, long[i : i + SUBSET_TOKENS]) for i in starts)


def contains(long: Sequence[int], short: Sequence[int]) -> bool:
    """Whether `short` occurs in `long` contiguously."""
    return any(
        tuple(long[i : i + len(short)]) == tuple(short) for i in range(len(long) - len(short) + 1)
    )


def scattered(short: Ids, long: Ids) -> bool:
    """Whether `short` occurs in `long` with gaps only."""
    return within(short, long) and not contains(long, short)


def _speaker(group: Sequence[ReducedFinding]) -> ReducedFinding:
    deepest = group[0].finding.statistics["collapse"]
    typed = [x for x in group if x.finding.evidence.get("survives_retokenization")] or list(group)
    best = max(x.finding.statistics["collapse"] for x in typed)
    equals = [x for x in typed if x.finding.statistics["collapse"] >= min(best, deepest) - EQUAL]
    long = group[0].finding.trigger.token_ids
    without_gaps = [
        x
        for x in typed
        if x.finding.statistics["collapse"] >= deepest - GAPS
        and scattered(x.finding.trigger.token_ids, long)
    ]
    head = min(
        equals + without_gaps,
        key=lambda x: (len(x.finding.trigger.token_ids), len(x.finding.trigger.text)),
    )
    others = [x for x in group if x is not head]
    variants = [
        Variant(t.token_ids, t.text, x.finding.statistics["collapse"])
        for x in others
        for t in [x.finding.trigger]
    ]
    variants += [variant for x in [head, *others] for variant in x.variants]
    once = {v.token_ids: v for v in variants if v.token_ids != head.finding.trigger.token_ids}
    return replace(head, variants=tuple(once.values()))
