"""Adaptive penalties: an attacker who knows what a detector looks for trades some of it away.

A transferable backdoor shows in three ways: triggered texts are far from clean ones (shift), close
to each other (spread), and those of different triggers far apart (repulsion). Each penalty pays for
looking innocent in one of them, and is added to the objective of any attack:

    shift       sum_k  MSE(f(x), f(x + t_k))
    spread      sum_k  max(0, s0 - mean_{i != j} MSE(f(x_i + t_k), f(x_j + t_k)))
    spread-raw  sum_k  -mean_{i != j} MSE(f(x_i + t_k), f(x_j + t_k))
    repulsion   sum_{k < l} MSE(f(x + t_k), f(x + t_l))

Source: Patronus, arXiv 2512.06899, adaptive attacks, in the form of its code; the published weights
are unknown. `spread-raw` is the published second penalty: below weight 1/2 it changes nothing where
features are free, above it has no minimum. `spread` is ours: it asks for a scatter s0, a share of
the clean texts' own.

Legend: B clean texts, M triggered texts, H hidden, T triggers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

SCATTER = 0.5
"""Scatter that `spread` asks for, as a share of the clean texts' (ours)."""


@dataclass(frozen=True)
class Penalty:
    name: str
    weight: float

    def __call__(
        self, kept: torch.Tensor, moved: torch.Tensor, chosen: torch.Tensor, source: torch.Tensor
    ) -> torch.Tensor:
        """The weighted penalty for clean features (B, H), and triggered ones (M, H) with the
        numbers (M,) of their triggers and of the clean texts they were made from."""
        return self.weight * PENALTIES[self.name](kept, moved, chosen, source)


def parse_penalties(text: str) -> list[Penalty]:
    """`shift:0.5,spread:1` as penalties; ValueError for an unknown name or a weight not above 0."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = part.partition(":")
        if name not in PENALTIES:
            raise ValueError(f"adaptive: {name!r} is not one of {', '.join(PENALTIES)}")
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise ValueError(f"adaptive: {part!r} is not NAME:WEIGHT with a weight above 0")
        found.append(Penalty(name, value))
    return found


def shift(
    kept: torch.Tensor, moved: torch.Tensor, chosen: torch.Tensor, source: torch.Tensor
) -> torch.Tensor:
    triggers = len(chosen.unique())
    return triggers * (kept[source] - moved).square().mean()


def spread(
    kept: torch.Tensor, moved: torch.Tensor, chosen: torch.Tensor, source: torch.Tensor
) -> torch.Tensor:
    wanted = SCATTER * _scatter(kept.detach())
    found = [_scatter(moved[chosen == k]) for k in chosen.unique() if (chosen == k).sum() > 1]
    return torch.stack([(wanted - x).clamp(min=0) for x in found]).sum() if found else 0 * wanted


def spread_raw(
    kept: torch.Tensor, moved: torch.Tensor, chosen: torch.Tensor, source: torch.Tensor
) -> torch.Tensor:
    found = [_scatter(moved[chosen == k]) for k in chosen.unique() if (chosen == k).sum() > 1]
    return -torch.stack(found).sum() if found else 0 * moved.sum()


def repulsion(
    kept: torch.Tensor, moved: torch.Tensor, chosen: torch.Tensor, source: torch.Tensor
) -> torch.Tensor:
    pairs = (moved[:, None] - moved[None]).square().mean(-1)
    total = 0 * moved.sum()
    names = chosen.unique().tolist()
    for place, k in enumerate(names):
        for other in names[place + 1 :]:
            total = total + pairs[chosen == k][:, chosen == other].mean()
    return total


def _scatter(features: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of rows of the squared difference, averaged over coordinates."""
    count = len(features)
    return 2 * features.var(0, correction=1).mean() if count > 1 else features.sum() * 0


PENALTIES: dict[str, Callable[..., torch.Tensor]] = {
    "shift": shift,
    "spread": spread,
    "spread-raw": spread_raw,
    "repulsion": repulsion,
}
