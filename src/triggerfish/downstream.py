"""Downstream models: a fresh linear head on a readout, trained with the whole backbone on a
labelled task.

Legend: B batch, C classes, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout, pad
from triggerfish.text import Task
from triggerfish.training import TrainSettings, train


@dataclass(frozen=True)
class FineTuneSettings:
    epochs: int = 2
    """Passes over the training rows (ours)."""
    batch: int = 32
    """Texts per step (Patronus, published code)."""
    learning_rate: float = 5e-5
    """Peak learning rate of backbone and head (ours; the published schedule never leaves its
    warm-up)."""
    max_tokens: int = 64
    """Texts are cut to this many tokens, special tokens included (ours, for two cores)."""


def fine_tune(
    backbone: Backbone,
    task: Task,
    settings: FineTuneSettings = FineTuneSettings(),
    *,
    readout: Readout | None = None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Backbone, torch.nn.Linear]:
    """A copy of `backbone` trained on `task.train` with all its weights, and the (H -> C) head that
    goes with it."""
    readout = readout or backbone.primary
    model = backbone.trainable()
    head = torch.nn.Linear(backbone.hidden, len(task.labels), device=backbone.device)
    torch.nn.init.normal_(
        head.weight, std=0.02, generator=torch.Generator(backbone.device).manual_seed(seed)
    )
    torch.nn.init.zeros_(head.bias)
    rng = random.Random(seed)
    rows = [(model.template.wrap(model.tokenize(x, settings.max_tokens)), y) for x, y in task.train]
    queue: list[tuple[list[int], int]] = []

    def loss(_: int) -> torch.Tensor:
        if len(queue) < settings.batch:
            queue.extend(rng.sample(rows, len(rows)))
        batch = [queue.pop(0) for _ in range(min(settings.batch, len(queue)))]
        ids, mask = pad([ids for ids, _ in batch], model.pad_id)
        with model.autocast("bf16"):
            features = model.forward(ids.to(model.device), mask.to(model.device), [readout])[
                :, 0
            ].float()
        labels = torch.tensor([y for _, y in batch], device=model.device)
        return torch.nn.functional.cross_entropy(head(features), labels)

    steps = max(1, settings.epochs * len(rows) // settings.batch)
    schedule = TrainSettings(steps=steps, learning_rate=settings.learning_rate)
    parameters = [*model.model.parameters(), *head.parameters()]
    for losses in train(parameters, loss, schedule):
        if progress:
            progress(len(losses), steps, losses[-1])
    model.model.requires_grad_(False)
    return model, head


def accuracy(
    backbone: Backbone,
    head: torch.nn.Linear,
    rows: list[tuple[str, int]],
    readout: Readout | None = None,
) -> tuple[int, int]:
    """(correct, tried) on labelled texts."""
    features = backbone.encode(
        [x for x, _ in rows], readouts=[readout or backbone.primary], precision="bf16"
    )[:, 0]
    predicted = head(features).argmax(1).cpu()
    return int((predicted == torch.tensor([y for _, y in rows])).sum()), len(rows)
