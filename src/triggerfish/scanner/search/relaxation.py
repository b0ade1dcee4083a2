"""Which tokens lead to a target? A continuous relaxation: every position of a sequence holds a
weighted mean of all vocabulary embeddings, and the weights are trained towards the target.

Words that need each other have no gradient among random tokens, because neither is present. A
mixture contains every token with some weight, so they support each other from the first step.
Weights that stay spread over many tokens are penalised more and more. Sequences drawn from the
weights start the genetic search. Mixtures reach any target; if tokens cannot reach it, the
sequences do not.

Source: optimising a distribution over tokens, GBDA (Guo et al. 2021, arXiv 2104.13733), there with
Gumbel noise, which did not help here (docs/decisions/0027-phrase-search-failures.md). Its use
towards inverted targets is ours: docs/decisions/0026-phrase-search.md.

Legend: K sequences, L tokens in each, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from dataclasses import dataclass

import torch

from triggerfish.scanner.search.embedding_ball import EmbeddingBall
from triggerfish.scanner.search.genetic import Rows
from triggerfish.scanner.search.objectives import Goal
from triggerfish.scanner.search.soft_prompts import SoftPrompts
from triggerfish.settings import check


@dataclass(frozen=True)
class RelaxationSettings:
    sequences: int = 2
    """Sequences of mixtures trained in parallel (ours: further ones converge to the same)."""
    steps: int = 150
    """Adam steps (ours)."""
    texts: int = 4
    """Texts in a step (ours)."""
    pool: int = 48
    """Texts from which those of a step are drawn (ours)."""
    words: int = 6
    """Words in a text (ours)."""
    learning_rate: float = 0.5
    """Of Adam, for the logits of the weights (ours)."""
    noise: float = 0.5
    """Standard deviation of the initial logits (ours)."""
    concentration: float = 1.0
    """Penalty of uniform weights in the last step, in orders of magnitude of squared distance; it
    grows linearly from 0 (ours: without it hundreds of tokens stay at a position, at 3 the weights
    concentrate before they reach the target)."""
    drawn: int = 400
    """Sequences drawn from the weights (ours)."""

    def __post_init__(self) -> None:
        check(self)
        for name in ("sequences", "steps", "texts", "words", "drawn"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.pool < self.texts:
            raise ValueError(f"pool: {self.pool} is fewer than the {self.texts} texts of a step")


def relax(
    space: EmbeddingBall, prompts: SoftPrompts, goal: Goal, settings: RelaxationSettings, seed: int
) -> Generator[int, None, list[Rows]]:
    """Yields the tokens of each step; returns sequences for an objective, the most likely ones
    first. prompts: the texts from which those of a step are drawn."""
    rng = random.Random(f"{seed}/relaxing")
    generator = torch.Generator().manual_seed(seed)
    shape = (settings.sequences, prompts.length, len(space.ids))
    logits = settings.noise * torch.randn(shape, generator=generator)
    logits = logits.to(space.ids.device).requires_grad_(True)
    optimiser = torch.optim.Adam([logits], lr=settings.learning_rate)

    for step in range(settings.steps):
        done = step / settings.steps
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, 2 * (1 - done))
        drawn = prompts.only(rng.sample(range(len(prompts.ids)), settings.texts))
        with torch.enable_grad():
            weights = logits.softmax(-1)
            vectors = weights @ space.entries
            spread = -(weights * weights.clamp(min=1e-12).log()).sum(-1) / math.log(shape[-1])
        _, slope = drawn.gradients(vectors.detach(), lambda features, _: goal(features))
        cost = settings.concentration * done / prompts.length * torch.ones_like(spread)
        (logits.grad,) = torch.autograd.grad([vectors, spread], [logits], [slope, cost])
        optimiser.step()
        yield drawn.passed
    return _drawn(logits.detach().softmax(-1).cpu(), settings.drawn, generator)


def _drawn(weights: torch.Tensor, count: int, generator: torch.Generator) -> list[Rows]:
    """The most likely sequence of each of (K, L, V) weights, and about `count` drawn from them."""
    sequences, length, size = weights.shape
    each = -(-count // sequences)
    drawn = torch.multinomial(weights.view(-1, size), each, replacement=True, generator=generator)
    rows = drawn.view(sequences, length, each).transpose(1, 2).reshape(-1, length)
    return [tuple(row) for row in [*weights.argmax(-1).tolist(), *rows.tolist()]]
