"""A fresh linear head, trained together with all the weights or with an adapter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.downstream.classifier import Classifier
from triggerfish.downstream.inputs import AdaptSettings, Inputs, training_rows
from triggerfish.lora import Adapter
from triggerfish.readouts import Readout, pad
from triggerfish.settings import Share
from triggerfish.text import Task
from triggerfish.training import Progress, TrainSettings, fit


@dataclass(frozen=True)
class FineTuneSettings(AdaptSettings):
    epochs: int = 3
    """Passes over the training rows (Patronus, published code)."""
    batch: int = 32
    """Texts per optimiser step (Patronus, published code)."""
    learning_rate: float = 5e-5
    """Peak learning rate of backbone and head; PLMs of about 5 M parameters need ten times as much
    (ours: the published schedule never leaves its warm-up)."""
    warmup: Share = 0.1
    """Share of the optimiser steps with a linearly rising rate, before it falls linearly to zero
    (ours, for the same reason)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")


def fine_tune(
    backbone: Backbone,
    task: Task,
    settings: FineTuneSettings = FineTuneSettings(),
    *,
    readout: Readout | None = None,
    seed: int = 0,
    lora: int | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """A copy of `backbone` trained with all its weights, or in a LoRA adapter of rank `lora` that
    is merged into them, and a fresh head.

    progress is called with (step, steps, loss). Dropout stays off, so that the seed, which draws
    the rows, the head and the batches, settles everything.
    """
    readout = readout or backbone.primary
    inputs = Inputs.of(backbone, settings, readout)
    rows = training_rows(task, settings, seed)
    sequences = [inputs.ids(backbone, x) for x, _ in rows]
    labels = torch.tensor([y for _, y in rows], device=backbone.device)
    batches = _batches([len(ids) for ids in sequences], settings, random.Random(seed))
    model = backbone.trainable()
    adapter = Adapter(model, lora, seed) if lora else None
    head = torch.nn.Linear(backbone.hidden, len(task.labels))
    torch.nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    torch.nn.init.zeros_(head.bias)
    head.to(backbone.device)

    def loss(step: int) -> torch.Tensor:
        ids, mask = pad([sequences[i] for i in batches[step]], model.pad_id)
        with model.autocast():
            features = model.forward(ids.to(model.device), mask.to(model.device), [readout])
        return torch.nn.functional.cross_entropy(
            head(features[:, 0].float()), labels[batches[step]]
        )

    schedule = TrainSettings(
        steps=len(batches), learning_rate=settings.learning_rate, warmup=settings.warmup
    )
    trained = [weight for weight in model.model.parameters() if weight.requires_grad]
    fit([*trained, *head.parameters()], loss, schedule, progress)
    if adapter:
        adapter.merge()
    # `trainable` chose an attention that is slow in inference; a plain copy has the model's own.
    tuned = backbone.clone()
    tuned.model.load_state_dict(model.model.state_dict())
    return Classifier(tuned, readout, head.requires_grad_(False), inputs)


def _batches(
    lengths: Sequence[int], settings: FineTuneSettings, rng: random.Random
) -> list[list[int]]:
    """Row numbers of every step of every epoch. Rows of similar length go together, within random
    pools of 16 batches, in random order: little padding, and still another mixture each time."""
    pool = 16 * settings.batch
    batches: list[list[int]] = []
    for _ in range(settings.epochs):
        order = rng.sample(range(len(lengths)), len(lengths))
        epoch = []
        for start in range(0, len(order), pool):
            chosen = sorted(order[start : start + pool], key=lambda i: lengths[i])
            epoch += [chosen[i : i + settings.batch] for i in range(0, len(chosen), settings.batch)]
        rng.shuffle(epoch)
        batches += epoch
    return batches
