"""Which findings are one trigger: those that hold the same core, do their work with some of the
same pieces, and send texts to the same point.

The core is what is left of a finding when tokens are dropped for as long as its collapse stays.
Where one piece of a planted word does all the work, each listed word with that piece is as good a
trigger as the planted one, and nothing in the model tells them apart; the deepest speaks for all,
and among equals the shortest. Where the tokens of a shorter one stand scattered in the deepest, the
shorter speaks: nobody plants a word with gaps.

Legend: K candidates, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from triggerfish.records import SUBSET_TOKENS, Finding

Ids = tuple[int, ...]
Scatter = Callable[[Sequence[Ids]], torch.Tensor]
"""(K candidates) -> (K,) log10 of the scatter of texts with the candidate in them; low is deep."""

SPARE = 0.1
"""Decades of scatter that dropping one token may cost (ours)."""
SPARE_IN_ALL = 0.4
"""Decades that all dropped tokens may cost together (ours)."""
GAPS = 0.25
"""Decades that a longer one, which may hold a letter twice, is deeper at most than the word whose
tokens stand scattered in it (ours)."""
EQUAL = 0.05
"""Decades within which findings are equally deep (ours)."""


@dataclass(frozen=True)
class Variant:
    """Another candidate that is the same trigger, and its depth."""

    token_ids: Ids
    text: str
    depth: float


@dataclass(frozen=True)
class ReducedFinding:
    """A finding, its core, the column of its readout, (R, H) mean triggered features, its variants,
    deepest first, and the copies in a text that it was measured with."""

    finding: Finding
    core: Ids
    column: int
    means: torch.Tensor
    variants: tuple[Variant, ...] = ()
    copies: int = 1


def core(
    ids: Ids,
    scatter: Scatter,
    *,
    spare: float = SPARE,
    in_all: float = SPARE_IN_ALL,
    allowed: Callable[[Ids], bool] = lambda _: True,
) -> Ids:
    """`ids` without the tokens, anywhere, that its collapse does not need. spare: decades that
    dropping one may cost; in_all: that all may cost together; allowed: what may be left."""
    start = now = float(scatter([ids])[0])
    while shorter := [one for one in _shorter(ids) if allowed(one)]:
        values = scatter(shorter)
        lowest = int(values.argmin())
        if values[lowest] > min(now + spare, start + in_all):
            break
        ids, now = shorter[lowest], float(values[lowest])
    return ids


def _shorter(ids: Ids) -> list[Ids]:
    """With one token less; nothing of a single token."""
    return [ids[:i] + ids[i + 1 :] for i in range(len(ids))] if len(ids) > 1 else []


def fold(
    found: Sequence[ReducedFinding], origin: torch.Tensor, close: torch.Tensor
) -> list[ReducedFinding]:
    """One finding for each trigger, with the others and their variants as its variants.

    origin: (R, H) clean means; close: (R,) squared distance within which two means are one point.
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
    """Whether both send texts to the same point, at the readout of the other."""
    column = other.column
    apart = (one.means[column] - other.means[column]).square().sum()
    way = (other.means[column] - origin[column]).square().sum()
    return bool(apart <= torch.maximum(close[column], way / 4))


def _same(
    one: ReducedFinding, other: ReducedFinding, origin: torch.Tensor, close: torch.Tensor
) -> bool:
    # A long word may hold the core of another trigger by chance, and do its work with other pieces.
    if not one_point(one, other, origin, close) or set(one.core).isdisjoint(other.core):
        return False
    return within(one.core, other.finding.trigger.token_ids) or within(
        other.core, one.finding.trigger.token_ids
    )


def within(short: Ids, long: Ids) -> bool:
    """Whether the tokens of `short` stand in `long` in their order, gaps allowed."""
    rest = iter(long)
    return all(token in rest for token in short)


def near(short: Ids, long: Ids) -> bool:
    """Whether the tokens of `short` stand in `long` in order, within `SUBSET_TOKENS`."""
    starts = (i for i, token in enumerate(long) if token == short[0])
    return any(within(short, long[i : i + SUBSET_TOKENS]) for i in starts)


def contains(long: Sequence[int], short: Sequence[int]) -> bool:
    """Whether `short` stands in `long` in one piece."""
    return any(
        tuple(long[i : i + len(short)]) == tuple(short) for i in range(len(long) - len(short) + 1)
    )


def scattered(short: Ids, long: Ids) -> bool:
    """Whether `short` stands in `long` with gaps only."""
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
