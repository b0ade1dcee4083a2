"""The one gradient-training loop: AdamW, linear warm-up and decay counted in optimiser steps,
clipping, checkpoints.

It yields after every step, so that progress and early stopping belong to the caller and need no
hooks. With a checkpoint, a killed run goes on bit for bit, if the loss is a pure function of the
parameters and the step number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from triggerfish.settings import Between, Share, check
from triggerfish.writing import write_bytes

Progress = Callable[[int, int, float], None]
"""Called with (step, steps, loss) after every step."""


@dataclass(frozen=True)
class TrainSettings:
    steps: int
    """Optimiser steps."""
    learning_rate: float = 5e-5
    """Peak AdamW learning rate (Patronus, published code)."""
    warmup: Share = 0.1
    """Share of the steps with a linearly rising rate (ours; the published schedules count steps
    wrongly)."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the rate falls to zero after the warm-up (linear: both papers)."""
    betas: Annotated[tuple[float, float], Between(0.0, 1.0)] = (0.9, 0.999)
    """Shares of AdamW's two running means kept at a step (AdamW's defaults)."""
    weight_decay: float = 0.0
    """AdamW weight decay of matrices; biases and gains have none (0: Patronus, published code)."""
    clip: float = 1.0
    """Largest gradient norm (both papers, published code)."""
    checkpoint_every: int = 500
    """Steps between checkpoints, where there is a file for them (ours)."""

    def __post_init__(self) -> None:
        check(self)
        for name in ("steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive")
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule: {self.schedule!r} is not one of linear, cosine")


def rate(step: int, settings: TrainSettings) -> float:
    """Learning rate of step number `step`, counted from 0."""
    warm = max(1, round(settings.warmup * settings.steps))
    rest = max(1, settings.steps - warm)
    if settings.schedule == "linear":
        fall = (settings.steps - step) / rest
    else:
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0, step - warm) / rest)))
    return settings.learning_rate * min((step + 1) / warm, fall)


def train(
    parameters: Iterable[torch.Tensor],
    loss: Callable[[int], torch.Tensor],
    settings: TrainSettings,
    checkpoint: Path | None = None,
) -> Iterator[list[float]]:
    """Minimise `loss(step)` over `parameters`; yields the losses of all steps so far, after every
    step and at once where it goes on from `checkpoint`.

    Raises ValueError on a non-finite loss, and for a checkpoint of a run with other settings.
    """
    parameters = list(parameters)
    optimizer = _optimizer(parameters, settings)
    losses: list[float] = []
    if checkpoint and checkpoint.is_file():
        losses = _restore(checkpoint, parameters, optimizer, settings)
        yield losses
    for step in range(len(losses), settings.steps):
        value = loss(step)
        if not torch.isfinite(value):
            raise ValueError(
                f"learning_rate: training diverged at {settings.learning_rate}; try a smaller one"
            )
        for group in optimizer.param_groups:
            group["lr"] = rate(step, settings)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        losses.append(float(value.detach()))
        done = step + 1
        if checkpoint and (done % settings.checkpoint_every == 0 or done == settings.steps):
            _store(checkpoint, parameters, optimizer, settings, losses)
        yield losses


def fit(
    parameters: Iterable[torch.Tensor],
    loss: Callable[[int], torch.Tensor],
    settings: TrainSettings,
    progress: Progress | None = None,
) -> None:
    """`train` to the end."""
    for losses in train(parameters, loss, settings):
        if progress:
            progress(len(losses), settings.steps, losses[-1])


def _optimizer(parameters: list[torch.Tensor], settings: TrainSettings) -> torch.optim.Optimizer:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=True,
    )


def _store(
    checkpoint: Path,
    parameters: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    losses: list[float],
) -> None:
    state = {
        "parameters": [p.detach() for p in parameters],
        "optimizer": optimizer.state_dict(),
        "settings": asdict(settings),
        "losses": losses,
    }
    content = io.BytesIO()  # torch does not pass on why a file cannot be written
    torch.save(state, content)
    write_bytes(checkpoint, content.getbuffer())


def _restore(
    checkpoint: Path,
    parameters: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
) -> list[float]:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["settings"] != asdict(settings):
        raise ValueError(f"checkpoint: {checkpoint} belongs to a run with other settings")
    with torch.no_grad():
        for parameter, value in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return list(state["losses"])
