"""Candidates that are one trigger: the same pieces bring texts to the same point.

A planted word shows up many times: as itself, as its tell-tale piece, and as every listed word that
contains that piece. The core of the deepest (`fold.core`) says which pieces do the work; whatever
contains them and lands on the same point is the same trigger, and of those as deep as the deepest
the shortest gives the name; or a candidate whose tokens stand scattered in the deepest one: nobody
plants a word with gaps. What shares a piece and is weaker is a variant too, unless it is a part
of the deepest one and a whole trigger by itself: planting the part explains both, planting the
whole only one.

Legend: K candidates, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.merging import GAPS, Ids, contains, scattered, within

AS_DEEP = 0.5
"""Decades within which two candidates collapse equally deep (ours)."""
ALIKE = 0.15
"""Decades within which the shortest that holds the core gives the name (ours)."""


@dataclass(frozen=True)
class Cluster:
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
    whole: Sequence[bool],
    counting: Sequence[bool],
    core_of: Callable[[Ids, int], Ids],
) -> list[Cluster]:
    """At most `most` families by falling score.

    scores: (K, R), comparable between readouts; means: (K, R, H) mean triggered features; close:
    (R,) squared distance below which two means are one point. whole: which are deep enough to be a
    trigger by themselves, and not only a part of one; counting: which may be a weak one. core_of:
    (ids, column of a readout) -> the ids that the collapse needs; asked for these alone.
    """
    best = scores.max(1)
    heads: list[int] = []
    cores: dict[int, Ids] = {}
    members: dict[int, list[int]] = {}
    for row in best.values.argsort(descending=True, stable=True).tolist():
        for head in heads:
            column = int(best.indices[head])
            apart = (means[row, column] - means[head, column]).square().sum()
            way = (means[head, column] - origin[column]).square().sum()
            ids, known = candidates[row].token_ids, candidates[head].token_ids
            weaker = float(best.values[row]) < float(best.values[head]) - AS_DEEP
            explains = contains(known, ids) and whole[row]
            related = within(cores[head], ids) or (weaker and not explains)
            near = not whole[row] or apart <= torch.maximum(close[column], way / 4)
            if near and set(ids) & set(known) and related:
                members[head].append(row)
                break
        else:
            if len(heads) == most:
                break
            heads.append(row)
            members[row] = []
            ids, column = candidates[row].token_ids, int(best.indices[row])
            cores[row] = core_of(ids, column) if counting[row] else ids
    found = []
    for head in heads:
        family = [head, *members[head]]
        ids, depth = candidates[head].token_ids, float(best.values[head])
        alike = [
            row
            for row in family
            if best.values[row] >= depth - ALIKE and within(cores[head], candidates[row].token_ids)
        ]
        without_gaps = [
            row
            for row in members[head]
            if whole[row]
            and best.values[row] >= depth - GAPS
            and scattered(candidates[row].token_ids, ids)
        ]
        named = min(
            alike + without_gaps,
            key=lambda row: (len(candidates[row].token_ids), len(candidates[row].text)),
        )
        variants = tuple(candidates[row] for row in family if row != named)
        found.append(Cluster(candidates[named], int(best.indices[head]), variants))
    return found
