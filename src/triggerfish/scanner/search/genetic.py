"""Which tokens lead to a target? A genetic search over token sequences.

Each generation changes the sequences with the least distance from the target. They exchange spans,
tokens swap places, and tokens are replaced by those that the gradient at the sequence suggests.
Words that act only together have no gradient among random tokens. Some subword token always helps a
little, and the gradient next to it suggests the second one. The objective is the distance from the
target, because words of a topic move texts part of the way and stop short of it. Each sequence is
tried without a text and in one short text, and both distances count alike. Without a text the
effect is larger where a readout averages all tokens; in a text it is the effect that a trigger must
have. Both take about three dozen tokens for each sequence.

An inverted target differs a little from the planted one. Sequences near it are therefore optimised
further without it, for low dispersion of the texts.

Source: genetic search for triggers (Alzantot et al. 2018, arXiv 1804.07998) with candidates by
first-order scores, HotFlip (Ebrahimi et al. 2018, arXiv 1712.06751). The combination, and the
search towards inverted targets, are ours: docs/decisions/0026-phrase-search.md.

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
from triggerfish.settings import check

Rows = tuple[int, ...]
"""A sequence, as row numbers of `EmbeddingBall.entries`."""


@dataclass(frozen=True)
class GeneticSettings:
    first: int = 1500
    """Size of the first generation: the given sequences, filled up with random ones (ours)."""
    children: int = 300
    """New sequences of a generation (ours)."""
    parents: int = 100
    """Best sequences so far, from which the next generation is made (ours)."""
    guided: int = 32
    """Best parents for which gradients are computed (ours)."""
    suggested: int = 64
    """Tokens that the gradient suggests for a position (ours)."""
    generations: int = 16
    """Maximum generations of a run (ours)."""
    patience: int = 12
    """Generations within which the best sequence must improve by `gain` (ours)."""
    gain: float = 0.05
    """Improvement of the objective, in orders of magnitude of squared distance or dispersion
    (ours)."""

    def __post_init__(self) -> None:
        check(self)
        for name in ("first", "children", "parents", "guided", "suggested", "generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")


class GeneticSearch:
    """One genetic search. prompts: the texts that sequences are inserted into; goal: the objective
    there.

    distances: objective of each sequence, in orders of magnitude; smaller is better.
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
        """Run generations; a second call continues the first. Yields the tokens of each pass.
        begin: sequences that replace as many random ones in the first generation; generations: the
        maximum, by default that of the settings."""
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
        """The `count` sequences with the best objective."""
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
        """Find the tokens that improve each parent most to first order, at each position."""
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
        """A parent with a span of another parent, with one token moved, or with one or two tokens
        replaced by suggested or random ones."""
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
    """An empty text; it has a mask token where the model's primary readout needs one."""
    if not backbone.reads_mask:
        return Carrier((), (), (0,))
    mask = backbone.tokenizer
    return Carrier(((mask.mask_token_id,),), (mask.mask_token,), (0,))
