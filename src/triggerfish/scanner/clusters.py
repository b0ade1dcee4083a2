"""Clusters of candidates that are the same trigger: they share subword tokens and send texts to the
same target embedding.

A planted word appears many times among the candidates: as itself, as its most indicative subword
token, and as every listed word that contains this token. The strongest candidate leads a cluster,
and its minimal sufficient subset (`merging.core`) tells which tokens cause the collapse. A
candidate joins the cluster if it contains that subset. A weaker candidate that shares a token joins
too, unless it is contiguous in the strongest one and a complete trigger by itself: a planted part
explains both candidates, a planted whole explains only one. A complete trigger must also reach the
target of the cluster.

The cluster is named after the shortest candidate that is about as strong as the strongest, or after
one whose tokens occur in the strongest with gaps (docs/decisions/0009).

Legend: K candidates, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.merging import GAPS, Ids, contains, scattered, within

AS_DEEP = 0.5
"""Orders of magnitude within which two candidates count as equally strong (ours)."""
ALIKE = 0.15
"""Orders of magnitude within which the shortest candidate that contains the minimal sufficient
subset names the cluster (ours)."""


@dataclass(frozen=True)
class Cluster:
    """The candidate that names the cluster, the index of the readout (a pooling position) where the
    cluster is strongest, and the other candidates, strongest first."""

    head: Candidate
    readout: int
    variants: tuple[Candidate, ...]


def clusters(
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
    """At most `most` clusters in order of falling score.

    scores: (K, R), comparable between readouts. means: (K, R, H) mean triggered features. origin:
    (R, H) clean means. close: (R,) squared distance below which two means are the same target.
    whole: whether each candidate is strong enough to be a complete trigger and not only part of
    one. counting: whether each candidate may count as a weak trigger. core_of: (ids, index of a
    readout) -> minimal sufficient subset; called only for leading candidates that count.
    """
    best = scores.max(1)
    agreement: list[int] = []
    sufficient_subsets: dict[int, Ids] = {}
    members: dict[int, list[int]] = {}
    for row in best.values.argsort(descending=True, stable=True).tolist():
        for head in agreement:
            column = int(best.indices[head])
            apart = (means[row, column] - means[head, column]).square().sum()
            way = (means[head, column] - origin[column]).square().sum()
            ids, known = candidates[row].token_ids, candidates[head].token_ids
            weaker = float(best.values[row]) < float(best.values[head]) - AS_DEEP
            explains = contains(known, ids) and whole[row]
            related = within(sufficient_subsets[head], ids) or (weaker and not explains)
            near = not whole[row] or apart <= torch.maximum(close[column], way / 4)
            if near and set(ids) & set(known) and related:
                members[head].append(row)
                break
        else:
            if len(agreement) == most:
                break
            agreement.append(row)
            members[row] = []
            ids, column = candidates[row].token_ids, int(best.indices[row])
            sufficient_subsets[row] = core_of(ids, column) if counting[row] else ids
    found = []
    for head in agreement:
        family = [head, *members[head]]
        ids, collapse = candidates[head].token_ids, float(best.values[head])
        alike = [
            row
            for row in family
            if best.values[row] >= collapse - ALIKE
            and within(sufficient_subsets[head], candidates[row].token_ids)
        ]
        without_gaps = [
            row
            for row in members[head]
            if whole[row]
            and best.values[row] >= collapse - GAPS
            and scattered(candidates[row].token_ids, ids)
        ]
        named = min(
            alike + without_gaps,
            key=lambda row: (len(candidates[row].token_ids), len(candidates[row].text)),
        )
        variants = tuple(candidates[row] for row in family if row != named)
        found.append(Cluster(candidates[named], int(best.indices[head]), variants))
    return found
