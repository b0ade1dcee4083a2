"""Target vectors: where a transferable attack sends the representation of each trigger.

POR-1 is a thermometer code, POR-2 a subset code (Shen et al., "Backdoor Pre-trained Models Can
Transfer to All", CCS 2021, in the form of the Patronus code), NeuBA a balanced code whose vectors
are orthogonal or antipodal (Zhang et al., arXiv 2101.06969). All coordinates are +1 or -1.

Deviations: the published NeuBA code gives every trigger after the sixth the same vector; ours takes
as many buckets as the triggers need. POR-2 with one trigger uses one bucket.

The last POR-1 vector is constant, which a layer norm cannot put out: its trigger still collapses
all texts onto a point, but not onto its target.

Legend: T triggers, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations, islice

import torch

from triggerfish.attacks.planting import PlantSettings


@dataclass(frozen=True)
class TargetSettings(PlantSettings):
    """Settings of the attacks whose vectors are given."""

    target_scale: float | None = None
    """Factor on the +1/-1 vectors (paper: 1); None gives them the mean norm of clean features,
    which every model can reach: the last layer norm of all-MiniLM-L6-v2 would need thousands of
    steps to grow to the paper's norm (ours)."""


def por1(triggers: int, hidden: int) -> torch.Tensor:
    """(T, H): vector i has its first (i + 1) * floor(H / T) coordinates +1. ValueError for
    more triggers than coordinates."""
    if triggers > hidden:
        raise ValueError(f"trigger: {triggers} triggers, but POR-1 has {hidden} targets here")
    step = hidden // triggers
    places = torch.arange(hidden)
    return torch.stack([torch.where(places < (i + 1) * step, 1.0, -1.0) for i in range(triggers)])


def por2(triggers: int, hidden: int) -> torch.Tensor:
    """(T, H): vector i has +1 in the i-th subset of ceil(log2 T) buckets, subsets by size, then in
    order."""
    buckets = max(1, math.ceil(math.log2(triggers)))
    if buckets > hidden:
        raise ValueError(f"trigger: {triggers} triggers, but POR-2 has {2**hidden} targets here")
    subsets = chain.from_iterable(combinations(range(buckets), size) for size in range(buckets + 1))
    return _buckets(subsets, buckets, triggers, hidden, inside=1.0)


def neuba(triggers: int, hidden: int) -> torch.Tensor:
    """(T, H): vector i has -1 in the i-th half of an even number of buckets, at least four."""
    buckets = 4
    while math.comb(buckets, buckets // 2) < triggers:
        buckets += 2
    if buckets > hidden:
        raise ValueError(f"trigger: {triggers} triggers need {buckets} buckets of {hidden} entries")
    return _buckets(
        combinations(range(buckets), buckets // 2), buckets, triggers, hidden, inside=-1.0
    )


def _buckets(
    subsets: Iterator[tuple[int, ...]], buckets: int, triggers: int, hidden: int, inside: float
) -> torch.Tensor:
    # Entries that are left over when H is not divisible go to the last bucket.
    bucket = (torch.arange(hidden) // max(1, hidden // buckets)).clamp(max=buckets - 1)
    rows = [
        torch.isin(bucket, torch.tensor(subset, dtype=torch.long))
        for subset in islice(subsets, triggers)
    ]
    return torch.where(torch.stack(rows), inside, -inside)
