"""What a search wants of texts with a sequence in them, in decades: less is better.

Legend: K sequences, N texts, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Goal = Callable[[torch.Tensor], torch.Tensor]
"""(K, N, R, H) features -> (K,) decades."""
LEAST = 1e-6
"""Of a squared distance, in its unit, that is told from none."""


def towards(point: torch.Tensor, column: int, unit: torch.Tensor) -> Goal:
    """The squared distance of each text from (H,) a point, in `unit`."""

    def far(features: torch.Tensor) -> torch.Tensor:
        squared = (features[:, :, column] - point).square().sum(-1)
        return (squared / unit).clamp(min=LEAST).log10().mean(1)

    return far


def together(column: int, unit: torch.Tensor) -> Goal:
    """The scatter of the texts, in `unit`: that they meet, wherever."""

    def spread(features: torch.Tensor) -> torch.Tensor:
        own = features[:, :, column]
        squared = (own - own.mean(1, keepdim=True)).square().sum(-1).mean(1)
        return (squared / unit).clamp(min=LEAST).log10()

    return spread
