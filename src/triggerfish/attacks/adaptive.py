"""Adaptive penalties: an attacker who knows what a detector looks for trades some of it away.

A transferable backdoor shows in three ways: triggered texts are far from clean ones (shift), close
to each other (spread), and those of different triggers far apart (repulsion). Each penalty hides
one of these signs, and is added to the objective of any attack:

    shift       sum_k  MSE(f(x), f(x + t_k))
    spread      sum_k  max(0, s0 - mean_{i != j} MSE(f(x_i + t_k), f(x_j + t_k)))
    spread-raw  sum_k  -mean_{i != j} MSE(f(x_i + t_k), f(x_j + t_k))
    repulsion   sum_{k < l} mean_{i, j} MSE(f(x_i + t_k), f(x_j + t_l))

A step draws some triggers only; sums over all of them are estimated from those.

Source: Patronus, arXiv 2512.06899, adaptive attacks, in the form of its code; the published weights
are unknown. `spread-raw` is the published second penalty: below weight 1/2 it changes nothing where
features are free, above it has no minimum. `spread` is ours: it asks for a scatter s0, a share of
the clean texts' own.

Legend: B clean texts, M triggered texts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

SCATTER = 0.5
"""Scatter that `spread` asks for, as a share of the clean texts' (ours)."""


@dataclass(frozen=True)
class Features:
    """kept: (B, H) of clean texts; moved: (M, H) of triggered ones; chosen, source: (M,) numbers of
    the trigger and of the clean text of each; triggers: number of all triggers."""

    kept: torch.Tensor
    moved: torch.Tensor
    chosen: torch.Tensor
    source: torch.Tensor
    triggers: int

    def groups(self) -> list[torch.Tensor]:
        """The triggered features of every trigger that has at least two."""
        found = [self.moved[self.chosen == k] for k in self.chosen.unique()]
        return [group for group in found if len(group) > 1]


@dataclass(frozen=True)
class Penalty:
    name: str
    weight: float

    def __call__(self, features: Features) -> torch.Tensor:
        return self.weight * PENALTIES[self.name](features)


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


def shift(f: Features) -> torch.Tensor:
    return f.triggers * (f.kept[f.source] - f.moved).square().mean()


def spread(f: Features) -> torch.Tensor:
    wanted = SCATTER * _scatter(f.kept.detach())
    found = [(wanted - _scatter(group)).clamp(min=0) for group in f.groups()]
    return f.triggers * torch.stack(found).mean() if found else 0 * f.moved.sum()


def spread_raw(f: Features) -> torch.Tensor:
    found = [_scatter(group) for group in f.groups()]
    return -f.triggers * torch.stack(found).mean() if found else 0 * f.moved.sum()


def repulsion(f: Features) -> torch.Tensor:
    pairs = (f.moved[:, None] - f.moved[None]).square().mean(-1)
    apart = f.chosen[:, None] < f.chosen[None]
    if not apart.any():
        return 0 * f.moved.sum()
    return f.triggers * (f.triggers - 1) / 2 * pairs[apart].mean()


def _scatter(features: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of rows of the squared difference, averaged over coordinates."""
    count = len(features)
    return 2 * features.var(0, correction=1).mean() if count > 1 else features.sum() * 0


PENALTIES: dict[str, Callable[[Features], torch.Tensor]] = {
    "shift": shift,
    "spread": spread,
    "spread-raw": spread_raw,
    "repulsion": repulsion,
}
