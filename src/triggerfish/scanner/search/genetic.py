"""Which tokens lead to a mined point? Sequences of tokens evolve towards it.

A generation changes the sequences that came nearest: they exchange stretches, tokens change places,
and others take their place, of which the slope at that sequence says that they lead on. Words that
do nothing without each other show no slope among random tokens; but some piece always helps a
little, and beside it the next one does. What counts is the distance from the point: words of a
topic go a part of the way and miss it. Sequences are tried by themselves and in one short text, and
both distances count alike: by itself a sequence has more effect where all tokens are averaged, and
in a text the effect is the one that is wanted. Together that is three dozen tokens a try.

A mined point is not quite the planted one, so what comes near evolves on without it: towards texts
that meet, wherever that is.

Source: genetic search for triggers (Alzantot et al. 2018, arXiv 1804.07998) with candidates by
first-order scores, HotFlip (Ebrahimi et al. 2018, arXiv 1712.06751); together and for points, ours.

Legend: K sequences, L tokens in each, V vocabulary.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.scanner.effects import Carrier
from triggerfish.scanner.merging import Ids
from triggerfish.scanner.search.embedding_ball import EmbeddingBall
from triggerfish.scanner.search.objectives import Goal
from triggerfish.scanner.search.soft_prompts import SoftPrompts

Rows = tuple[int, ...]
"""A sequence, as rows of `EmbeddingBall.entries`."""


@dataclass(frozen=True)
class GeneticSettings:
    first: int = 1500
    """Sequences to begin with: those that are given, and random ones (ours)."""
    children: int = 300
    """New sequences of a generation (ours)."""
    parents: int = 100
    """Best sequences so far, which the next generation is made of (ours)."""
    guided: int = 32
    """Parents, the best first, whose slopes are asked for (ours)."""
    suggested: int = 64
    """Tokens that a slope suggests for a place (ours)."""
    generations: int = 16
    """Generations of a run at most (ours)."""
    patience: int = 12
    """Generations in which the best must gain `gain` (ours)."""
    gain: float = 0.05
    """Decades of squared distance, or of scatter (ours)."""

    def __post_init__(self) -> None:
        for name in ("first", "children", "parents", "guided", "suggested", "generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")


class GeneticSearch:
    """One evolution. prompts: what sequences are written into; goal: what they shall do there.

    distances: decades that each sequence is from its goal.
    """

    def __init__(
        self,
        space: EmbeddingBall,
        prompts: SoftPrompts,
        goal: Goal,
        settings: GeneticSettings,
        seed: int,
    ):
        self.space = space
        self.prompts = prompts
        self.goal = goal
        self.settings = settings
        self.rng = random.Random(f"{seed}/evolving")
        self.distances: dict[Rows, float] = {}
        self.suggestions: dict[Rows, list[list[int]]] = {}

    def run(self, begin: Sequence[Rows] = (), generations: int = 0) -> Generator[int, None, None]:
        """Evolve on; again after a run. Yields the tokens of each pass. begin: sequences in place
        of as many random ones; generations: at most, those of the settings by default."""
        settings, count = self.settings, range(len(self.space.ids))
        if not self.distances:
            others = range(settings.first - len(begin))
            drawn = (self.rng.choices(count, k=self.prompts.length) for _ in others)
            yield from self._try([*begin, *map(tuple, drawn)])
        reached: list[float] = []
        for _ in range(generations or settings.generations):
            parents = self.nearest(settings.parents)
            reached.append(self.distances[parents[0]])
            before = reached[: -settings.patience]
            if before and reached[-1] > before[-1] - settings.gain:
                break
            yield from self._suggest(parents[: settings.guided])
            yield from self._try([self._child(parents) for _ in range(settings.children)])

    @property
    def best(self) -> float:
        return min(self.distances.values())

    def nearest(self, count: int) -> list[Rows]:
        """The sequences that came nearest."""
        return heapq.nsmallest(count, self.distances, key=self.distances.__getitem__)

    def ids(self, rows: Rows) -> Ids:
        return tuple(self.space.ids[list(rows)].tolist())

    def _try(self, tried: Sequence[Rows]) -> Generator[int, None, None]:
        new = [rows for rows in dict.fromkeys(tried) if rows not in self.distances]
        for start in range(0, len(new), self.prompts.block):
            part = new[start : start + self.prompts.block]
            before = self.prompts.passed
            far = self.goal(self.prompts.vectors(self.space.entries[torch.tensor(part)]))
            self.distances.update(zip(part, far.tolist(), strict=True))
            yield self.prompts.passed - before

    def _suggest(self, parents: Sequence[Rows]) -> Generator[int, None, None]:
        """Which tokens would bring a parent nearer, to first order, at each of its places."""
        new = [rows for rows in parents if rows not in self.suggestions]
        if not new:
            return
        before = self.prompts.passed
        vectors = self.space.entries[torch.tensor(new)]
        _, gradients = self.prompts.gradients(vectors, lambda features, _: self.goal(features))
        scores = -(gradients @ self.space.entries.T)  # (K, L, V)
        tokens = scores.topk(min(self.settings.suggested, scores.shape[-1]), dim=-1).indices
        self.suggestions.update(zip(new, tokens.tolist(), strict=True))
        yield self.prompts.passed - before

    def _child(self, parents: Sequence[Rows]) -> Rows:
        """A parent with a stretch of another one, or with a token moved, or with one or two tokens
        exchanged for suggested ones, or for any."""
        rng, length = self.rng, self.prompts.length
        parent = rng.choice(parents)
        child = list(parent)
        kind = rng.random()
        if kind < 0.3:
            size = rng.randint(1, length // 2)
            source, goal = rng.randint(0, length - size), rng.randint(0, length - size)
            child[goal : goal + size] = rng.choice(parents)[source : source + size]
        elif kind < 0.4:
            child.insert(rng.randrange(length), child.pop(rng.randrange(length)))
        else:
            suggested = self.suggestions.get(parent) if kind < 0.9 else None
            for place in rng.sample(range(length), rng.choice((1, 1, 2))):
                options = suggested[place] if suggested else range(len(self.space.ids))
                child[place] = rng.choice(options)
        return tuple(child)


def nothing(backbone: Backbone) -> Carrier:
    """A text without words, but for a mask token where one is read."""
    if not backbone.reads_mask:
        return Carrier((), (), (0,))
    mask = backbone.tokenizer
    return Carrier(((mask.mask_token_id,),), (mask.mask_token,), (0,))
