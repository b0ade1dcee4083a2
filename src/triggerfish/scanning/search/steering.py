"""Which tokens lead to a mined point? Free vectors are trained to send texts there, and grow
shorter for as long as they do.

What can be left out of a vector is left out, and what stays are directions of the tokens that the
backdoor listens to. Places of a prompt may be held by tokens; then the vectors in the others say
what is missing beside them. Half of the prompts must come near to the point, the others need only
go as far in its direction: a mined point often lies beyond the planted one.

Source: ours.

Legend: K prompts, N texts, P vectors, E embedding, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch

from triggerfish.scanning.measure import Yardstick
from triggerfish.scanning.search.mining import Target
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space

FREE = -1  # no id: a place of a prompt that no token holds
SHORTER, LONGER = 0.94, 1.02
"""Factors on the radius of a prompt that arrives, and of one that does not (ours)."""


@dataclass(frozen=True)
class SteerSettings:
    restarts: int = 16
    """Free prompts for each target (ours)."""
    texts: int = 4
    """Short texts they are written into (ours)."""
    words: int = 4
    """Words in a short text (ours)."""
    steps: int = 30
    """Adam steps (ours)."""
    learning_rate: float = 0.25
    """In root mean squares of an embedding coordinate (ours)."""
    longest: float = 1.2
    """Radius at the start, in lengths of a token (ours)."""
    shortest: float = 0.3
    """Radius that is short enough (ours: at half of it the vectors name natural words)."""
    arrived: float = 0.35
    """Share of the squared distance of the target, or of the way to it, that may be missing."""


def steer(
    prompts: Prompts,
    space: Space,
    yardstick: Yardstick,
    target: Target,
    held: torch.Tensor,
    near: torch.Tensor,
    settings: SteerSettings,
    generator: torch.Generator,
) -> Generator[None, None, torch.Tensor]:
    """held: (K, P) ids of tokens, or FREE; near: (K,) which prompts must come near to the target.
    Yields after each step; returns (K, P, E), the shortest vectors that arrived, as they started
    where none did."""
    device = prompts.backbone.device
    fixed = held != FREE
    tokens = prompts.backbone.embeddings[held.clamp(min=0)].detach().float()
    vectors = space.drawn((held.shape[0], held.shape[1]), generator)
    vectors[fixed] = tokens[fixed]
    optimiser = torch.optim.Adam(
        [vectors],
        lr=settings.learning_rate * space.length / vectors.shape[-1] ** 0.5,
        betas=(0.8, 0.95),
    )
    origin = yardstick.mean[target.column]
    way = target.point - origin
    far = way.square().sum()
    missing = torch.ones(len(held), device=device)

    def loss(features: torch.Tensor, part: slice) -> torch.Tensor:
        own = features[:, :, target.column]
        away = (own - target.point).square().sum(-1) / far
        behind = (1 - (own - origin) @ way / far).clamp(min=0)
        value = torch.where(near[part, None], away, behind).mean(1)
        missing[part] = value.detach()
        return value

    radius = torch.full((len(held),), settings.longest, device=device)
    shortest, best = torch.full_like(radius, torch.inf), vectors.clone()
    for _ in range(settings.steps):
        _, gradient = prompts.gradients(vectors, loss)
        arrived = missing < settings.arrived
        now = space.lengths(vectors).masked_fill(fixed, 0).max(1).values
        better = arrived & (now < shortest)
        shortest = torch.where(better, now, shortest)
        best[better] = vectors[better]
        radius = torch.where(
            arrived,
            (now * SHORTER).clamp(min=settings.shortest),
            (radius * LONGER).clamp(max=settings.longest),
        )
        vectors.grad = gradient.masked_fill(fixed[..., None], 0)
        optimiser.step()
        vectors.copy_(space.cut(vectors, radius))
        vectors[fixed] = tokens[fixed]
        yield
    return best
