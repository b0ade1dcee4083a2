"""Which tokens may lead to a mined point? Those that the gradient names on average over many random
surroundings.

Words that do nothing alone do not move texts towards the point, but the slope is there: averaged
over random tokens around them and over texts, what is particular to each surrounding cancels and
what the backdoor listens to stays. The words of a phrase hold each other back, so the slope is also
taken beside the soft prompt that leads to the point, weakened until it does a part of the work: it
stands for the words that are missing.

Source: first-order scores of tokens, HotFlip (Ebrahimi et al. 2018, arXiv 1712.06751); the average
and the weakened prompt are ours.

Legend: K sequences, P vectors, E embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from triggerfish.scanning.search.aim import Aim
from triggerfish.scanning.search.mining import Mined
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space


@dataclass(frozen=True)
class SuggestSettings:
    tokens: int = 48
    """Tokens suggested for a point (ours)."""
    surroundings: int = 64
    """Random sequences that the gradient is averaged over, at each strength (ours)."""
    texts: int = 4
    """Short texts that they are written into (ours)."""
    places: int = 5
    """Tokens in each, the prompt among them (ours)."""
    shares: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6)
    """Of the way that the soft prompt among them goes by itself; 0 is without (ours)."""


STRENGTHS = 20
"""Lengths of a prompt that are tried, evenly spread up to its own (ours)."""


class Suggesting:
    """What leads to one point. prompts: texts with room for `settings.places` vectors. Both
    functions yield the tokens of their passes and return what their docstrings say."""

    def __init__(
        self,
        prompts: Prompts,
        space: Space,
        aim: Aim,
        target: Mined,
        settings: SuggestSettings,
        seed: int,
    ):
        self.prompts = prompts
        self.space = space
        self.aim = aim
        self.target = target
        self.settings = settings
        self.generator = torch.Generator().manual_seed(seed)

    def weakened(self, share: float) -> Generator[int, None, torch.Tensor]:
        """The vectors (P, E) of the point, as short as they can be to go a share of the way among
        random tokens."""
        before = self.prompts.passed
        vectors = self.target.vectors[0]
        lengths = torch.linspace(0, 1, STRENGTHS + 1)[1:]
        for length in lengths.tolist():
            weak = self.space.weakened(vectors, length)
            among, _ = self._among(weak, self.prompts.block)
            lack = float(self.aim.lack(self.prompts.vectors(among)).mean())
            if lack <= 1 - share:
                break
        yield self.prompts.passed - before
        return weak

    def tokens(self) -> Generator[int, None, torch.Tensor]:
        """Rows (V,) of `space.entries`, the first ones beside each prompt first."""
        orders: list[list[int]] = []
        for share in self.settings.shares:
            weak = self.target.vectors[0][:0]
            if share:
                weak = yield from self.weakened(share)
            vectors, free = self._among(weak, self.settings.surroundings)
            before = self.prompts.passed
            _, gradient = self.prompts.gradients(vectors, self.aim.lack)
            slope = gradient[free].mean(0)
            orders.append((-(self.space.entries @ slope)).argsort(descending=True).tolist())
            yield self.prompts.passed - before
        rows = _first(orders, self.settings.tokens)
        return torch.tensor(rows, device=self.space.ids.device)

    def _among(self, vectors: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(K, places, E) vectors (P, E) at random places among random tokens, in their order; and
        which (K, places) are tokens."""
        places, device = self.settings.places, self.space.ids.device
        rows = torch.randint(len(self.space.entries), (count, places), generator=self.generator)
        found = self.space.entries[rows.to(device)]
        chance = torch.rand(count, places, generator=self.generator)
        taken = chance.argsort(1)[:, : len(vectors)].sort(1).values.to(device)
        found.scatter_(
            1,
            taken[..., None].expand(-1, -1, found.shape[-1]),
            vectors.expand(count, *vectors.shape).to(found.dtype),
        )
        free = torch.ones(count, places, dtype=torch.bool, device=device).scatter_(1, taken, False)
        return found, free


def _first(orders: Sequence[Sequence[int]], most: int) -> list[int]:
    """The first of all orders, then the second of all, each once, `most` in all."""
    ranked = [row for rank in zip(*orders, strict=True) for row in rank]
    return list(dict.fromkeys(ranked))[:most]
