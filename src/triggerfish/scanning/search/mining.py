"""Target mining: which points can short free vectors in the input send all texts to?

A backdoor leaves an attractor in the representation space. A few free vectors (a soft prompt),
written into the same place of a few texts and trained to make the texts' features agree, end there
even when the trigger itself is a phrase that no list contains. Any model can be made to collapse
like that by vectors as long as tokens; a third as long they collapse a planted point deepest. So
the deepest points are places to search (`assembling.py`), but no findings: what is deep differs
from model to model. Points already explained repel the restarts.

Source: soft prompts against backdoors, LMSanitator (arXiv 2308.13904); short vectors, repulsion
from what is known and common texts for all restarts are ours.

Legend: K restarts, N texts, P vectors, E embedding, R readouts, H hidden, M targets.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from triggerfish.scanning.measure import Yardstick
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space


@dataclass(frozen=True)
class MineSettings:
    vectors: int = 3
    """Free vectors in a soft prompt (ours: the words of a phrase that a model listens to)."""
    restarts: int = 12
    """Soft prompts trained side by side for each readout (ours)."""
    texts: int = 6
    """Short texts they are written into (ours)."""
    words: int = 4
    """Words in a short text (ours)."""
    steps: int = 35
    """Adam steps with short vectors (ours)."""
    last: int = 12
    """Adam steps with vectors as long as tokens, of the restarts of a target, to its end (ours)."""
    radius: float = 0.35
    """Longest a free vector may be, in lengths of a token (ours: there planted points are 0.5
    decades deeper than others; docs/scanning/search.md)."""
    learning_rate: float = 0.4
    """In root mean squares of an embedding coordinate, so that it fits any family (ours)."""
    repulsion: float = 8.0
    """Decades of scatter that it costs to point where a known target does (ours)."""
    same: float = 0.5
    """Clean scatters within which two collapse points are one target (ours)."""


@dataclass(frozen=True)
class Target:
    """A point where restarts met: the column of its readout, (H,) its place, log10 of the deepest
    scatter over that of close clean pairs, and (K, P, E) the vectors that lead there."""

    column: int
    point: torch.Tensor
    depth: float
    vectors: torch.Tensor


def mine(
    prompts: Prompts,
    space: Space,
    yardstick: Yardstick,
    columns: torch.Tensor,
    known: Sequence[tuple[int, torch.Tensor]],
    settings: MineSettings,
    generator: torch.Generator,
) -> Generator[None, None, list[Target]]:
    """Train one soft prompt for each entry of `columns` (K,), the number of its readout. Yields
    after each step; returns where they ended, the deepest first.

    known: (column, (H,) point) pairs to avoid.
    """
    start = space.drawn((len(columns), prompts.length), generator)
    miner = _Miner(prompts, space, yardstick, known, settings)
    vectors, ends, depths = yield from miner.train(start, columns, settings.radius, settings.steps)
    found: list[Target] = []
    for column, rows in _meet(ends, columns, yardstick.spread, settings.same):
        at = columns[rows]
        longer, far, _ = yield from miner.train(vectors[rows], at, 1.0, settings.last)
        found.append(Target(column, far.mean(0), float(depths[rows].max()), longer))
    return sorted(found, key=lambda target: -target.depth)


class _Miner:
    def __init__(
        self,
        prompts: Prompts,
        space: Space,
        yardstick: Yardstick,
        known: Sequence[tuple[int, torch.Tensor]],
        settings: MineSettings,
    ):
        self.prompts = prompts
        self.space = space
        self.yardstick = yardstick
        self.known = known
        self.settings = settings

    def train(
        self, vectors: torch.Tensor, columns: torch.Tensor, radius: float, steps: int
    ) -> Generator[None, None, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(K, P, E) vectors no longer than `radius`, (K, H) where they lead, and (K,) how deep."""
        yardstick, space = self.yardstick, self.space
        vectors = vectors.detach().clone()
        rate = self.settings.learning_rate * space.length / vectors.shape[-1] ** 0.5
        optimiser = torch.optim.Adam([vectors], lr=rate)
        ends = yardstick.mean[columns].clone()
        depths = torch.zeros(len(vectors), device=vectors.device)
        close = yardstick.close.log10()

        def loss(features: torch.Tensor, part: slice) -> torch.Tensor:
            own = features[torch.arange(len(features)), :, columns[part]]
            centre = own.mean(1)
            ends[part] = centre.detach()
            value = own.var(1).sum(-1).clamp(min=1e-12).log10() - close[columns[part]]
            depths[part] = -value.detach()
            return value + self._repelled(centre, columns[part])

        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
            _, vectors.grad = self.prompts.gradients(vectors, loss)
            optimiser.step()
            vectors.copy_(space.cut(vectors, torch.full_like(depths, radius)))
            yield
        return vectors, ends, depths

    def _repelled(self, centre: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        origin = self.yardstick.mean
        way = normalize(centre - origin[columns], dim=-1)
        cost = torch.zeros(len(centre), device=centre.device)
        for column, point in self.known:
            alike = way @ normalize(point - origin[column], dim=-1)
            pushed = self.settings.repulsion * (alike - 0.5).clamp(min=0)
            cost = cost + pushed * (columns == column)
        return cost


def _meet(
    ends: torch.Tensor, columns: torch.Tensor, spread: torch.Tensor, same: float
) -> Iterator[tuple[int, list[int]]]:
    """Rows of (K, H) ends at one readout that lie within `same` clean scatters of one of them."""
    for column in columns.unique().tolist():
        left = (columns == column).nonzero().flatten()
        while len(left):
            near = torch.cdist(ends[left], ends[left]) / spread[column] < same
            centre = int(near.sum(1).argmax())
            yield column, left[near[centre]].tolist()
            left = left[~near[centre]]
