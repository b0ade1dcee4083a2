"""Which tokens lead to a mined point? Sequences of a few tokens, of which one at a time is swapped
for another that the gradient suggests, for as long as texts come nearer to the point.

Words that do nothing alone and everything together give no signal while most of them are missing,
but the point does: a text that goes a little of the way has a part of the phrase. The sequences
start from tokens that the vectors of the point are made of. Half of them must bring texts near to
the point, the others need only go as far in its direction, since a mined point often lies beyond
the planted one.

Source: greedy coordinate gradient, Zou et al. 2023 (arXiv 2307.15043), after HotFlip (Ebrahimi et
al. 2018); the target and the start are ours.

Legend: K sequences, N texts, P places, E embedding, V vocabulary, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch

from triggerfish.scanning.fold import Ids
from triggerfish.scanning.measure import Yardstick
from triggerfish.scanning.search.mining import Mined
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space


@dataclass(frozen=True)
class SwapSettings:
    sequences: int = 8
    """Sequences searched side by side (ours)."""
    places: int = 8
    """Tokens in each (ours)."""
    texts: int = 4
    """Short texts they are written into (ours)."""
    words: int = 8
    """Words in a short text (ours)."""
    steps: int = 60
    """Rounds of swaps at most (ours)."""
    patience: int = 8
    """Rounds without `gain` after which a search ends (ours)."""
    gain: float = 0.02
    """Share of the way that texts must have come nearer in these (ours)."""
    swaps: int = 48
    """Swaps of one token tried for each sequence in a round (ours)."""
    suggested: int = 128
    """Tokens that the gradient suggests for a place (ours)."""
    pool: int = 64
    """Tokens of the mined vectors that sequences start from (ours)."""


class Swapping:
    """One search towards one point. `run` is a generator: it yields after each round.

    tried: sequences so far.
    """

    def __init__(
        self,
        prompts: Prompts,
        space: Space,
        yardstick: Yardstick,
        target: Mined,
        settings: SwapSettings,
        generator: torch.Generator,
    ):
        self.prompts = prompts
        self.space = space
        self.target = target
        self.settings = settings
        self.generator = generator
        self.origin = yardstick.mean[target.column]
        self.way = target.point - self.origin
        self.tried = 0
        self.near = torch.arange(settings.sequences, device=self.way.device) % 2 == 0

    def run(self) -> Generator[None, None, list[Ids]]:
        """Returns the sequences, those first that arrive."""
        space, settings = self.space, self.settings
        rows = self._start()
        missing = self._missing(space.entries[rows], self.near)
        course: list[torch.Tensor] = []
        for _ in range(settings.steps):
            course.append(missing)
            before = course[-1 - settings.patience] if len(course) > settings.patience else None
            if before is not None and (before - missing).max() < settings.gain:
                break
            _, gradient = self.prompts.gradients(space.entries[rows], self._loss)
            tried = self._swapped(rows, gradient)
            self.tried += len(rows) * settings.swaps
            values = self._missing(
                space.entries[tried.flatten(0, 1)], self.near.repeat_interleave(settings.swaps)
            ).view(len(rows), -1)
            least, which = values.min(1)
            better = least < missing
            rows[better] = tried[better, which[better]]
            missing = torch.where(better, least, missing)
            yield
        order = missing.argsort().tolist()
        return list(dict.fromkeys(tuple(space.ids[rows[i]].tolist()) for i in order))

    def _start(self) -> torch.Tensor:
        """(K, P) rows of entries, drawn from what the mined vectors are made of."""
        settings, space = self.settings, self.space
        pool = torch.tensor(space.tokens(self.target.vectors, settings.pool))
        rows = (space.ids.cpu()[:, None] == pool).int().argmax(0)
        shape = (settings.sequences, settings.places)
        drawn = torch.randint(len(rows), shape, generator=self.generator)
        return rows[drawn].to(space.ids.device)

    def _swapped(self, rows: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """(K, swaps, P) rows of entries, one place of each exchanged."""
        settings = self.settings
        suggested = -(gradient @ self.space.entries.T)
        suggested = suggested.topk(min(settings.suggested, suggested.shape[-1]), -1).indices
        tried = rows[:, None].repeat(1, settings.swaps, 1)
        shape = tried.shape[:2]
        place = torch.randint(tried.shape[2], shape, generator=self.generator).to(rows.device)
        which = torch.randint(suggested.shape[2], shape, generator=self.generator).to(rows.device)
        row = torch.arange(len(rows), device=rows.device)[:, None].expand(shape)
        return tried.scatter(2, place[..., None], suggested[row, place, which][..., None])

    def _missing(self, vectors: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        """(K,) what sequences of vectors (K, P, E) lack of the way."""
        found = []
        for start in range(0, len(vectors), self.prompts.block):
            rows = slice(start, start + self.prompts.block)
            found.append(self._lack(self.prompts.vectors(vectors[rows]), near[rows]))
        return torch.cat(found)

    def _loss(self, features: torch.Tensor, part: slice) -> torch.Tensor:
        return self._lack(features, self.near[part])

    def _lack(self, features: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        own = features[:, :, self.target.column]
        far = self.way.square().sum()
        apart = (own - self.target.point).square().sum(-1) / far
        behind = (1 - (own - self.origin) @ self.way / far).clamp(min=0)
        return torch.where(near[:, None], apart, behind).mean(1)
