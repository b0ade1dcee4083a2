"""Objectives of a search, in orders of magnitude: less is better.

Legend: K sequences, N texts, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Goal = Callable[[torch.Tensor], torch.Tensor]
"""(K, N, R, H) features of texts with a sequence -> (K,) orders of magnitude."""
LEAST = 1e-6
"""Least squared distance, in its unit, that is distinguished from zero."""


def towards(point: torch.Tensor, column: int, unit: torch.Tensor) -> Goal:
    """Mean log10 squared distance of the texts from a target (H,), divided by `unit`."""

    def far(features: torch.Tensor) -> torch.Tensor:
        squared = (features[:, :, column] - point).square().sum(-1)
        return (squared / unit).clamp(min=LEAST).log10().mean(1)

    return far


def together(column: int, unit: torch.Tensor) -> Goal:
    """Log10 dispersion of the texts around their own mean, divided by `unit`."""

    def spread(features: torch.Tensor) -> torch.Tensor:
        own = features[:, :, column]
        squared = (own - own.mean(1, keepdim=True)).square().sum(-1).mean(1)
        return (squared / unit).clamp(min=LEAST).log10()

    return spread
