"""The one gradient-training loop: AdamW, linear warm-up and decay counted in optimiser steps,
clipping.

It yields after every step, so that progress, early stopping and checkpoints belong to the caller
and need no hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TrainSettings:
    steps: int
    """Optimiser steps."""
    learning_rate: float = 5e-5
    """Peak AdamW learning rate (Patronus, published code)."""
    warmup: float = 0.1
    """Share of the steps with a linearly rising rate (ours; the published schedules count steps
    wrongly)."""
    weight_decay: float = 0.0
    """AdamW weight decay (Patronus, published code)."""
    clip: float = 1.0
    """Largest gradient norm (both papers, published code)."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps} is not at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive")


def train(
    parameters: Iterable[torch.nn.Parameter],
    loss: Callable[[], torch.Tensor],
    settings: TrainSettings,
) -> Iterator[float]:
    """Minimise `loss()` over `parameters`; yields the loss of every step. Stops with ValueError on
    a non-finite loss."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    warm = max(1, round(settings.warmup * settings.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warm, (settings.steps - step) / max(1, settings.steps - warm)
        ),
    )
    for _ in range(settings.steps):
        value = loss()
        if not torch.isfinite(value):
            raise ValueError(
                f"learning_rate: training diverged at {settings.learning_rate}; try a smaller one"
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        schedule.step()
        yield float(value.detach())
