"""Candidates that are one trigger: they collapse texts onto the same point and share a piece.

A planted word shows up many times: as itself, as its tell-tale piece, and as every listed word that
contains that piece. The deepest of them speaks for the family, and what is weaker, or extends it
without being deeper, is its variant. Another that collapses about as deep is a trigger in its own
right, because nothing here can tell which of the two was planted. So is a part of the deepest one
that is a whole trigger by itself: planting the part explains both, planting the whole only one.

Legend: K candidates, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.scanning.candidates import Candidate

WHOLE = 1.5
"""Decades above the null from which on a candidate is a whole trigger and not a part of one (ours).
"""
AS_DEEP = 0.5
"""Decades within which two candidates collapse equally deep (ours)."""


@dataclass(frozen=True)
class Family:
    """The deepest candidate, the column of the readout where it is deepest, and the rest, deepest
    first."""

    head: Candidate
    readout: int
    variants: tuple[Candidate, ...]


def families(
    candidates: Sequence[Candidate],
    scores: torch.Tensor,
    means: torch.Tensor,
    origin: torch.Tensor,
    close: torch.Tensor,
    most: int,
) -> list[Family]:
    """At most `most` families by falling score.

    scores: (K, R), comparable between readouts; means: (K, R, H) mean triggered features; close:
    (R,) squared distance below which two means are one point.
    """
    best = scores.max(1)
    heads: list[int] = []
    members: dict[int, list[int]] = {}
    for row in best.values.argsort(descending=True, stable=True).tolist():
        for head in heads:
            column = int(best.indices[head])
            apart = (means[row, column] - means[head, column]).square().sum()
            way = (means[head, column] - origin[column]).square().sum()
            ids, known = candidates[row].token_ids, candidates[head].token_ids
            partial = float(best.values[row]) < WHOLE
            weaker = float(best.values[row]) < float(best.values[head]) - AS_DEEP
            explains = contains(known, ids) and not partial
            related = contains(ids, known) or (weaker and not explains)
            near = partial or apart <= torch.maximum(close[column], way / 4)
            if near and set(ids) & set(known) and related:
                members[head].append(row)
                break
        else:
            if len(heads) == most:
                break
            heads.append(row)
            members[row] = []
    return [
        Family(
            candidates[head],
            int(best.indices[head]),
            tuple(candidates[row] for row in members[head]),
        )
        for head in heads
    ]


def contains(long: Sequence[int], short: Sequence[int]) -> bool:
    """Whether `short` stands in `long` in one piece."""
    return any(
        tuple(long[i : i + len(short)]) == tuple(short) for i in range(len(long) - len(short) + 1)
    )
