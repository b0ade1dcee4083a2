"""Patronus, the purifier, at its published settings: features stay where they were on clean text,
and triggered features are pulled onto clean ones, at the readout alone.

    L = MSE(f(x), f_ref(x)) + MSE(f(x), f(x + t))

The gradient flows through both sides of the second term, so clean features also move towards
triggered ones. f_ref is the backdoored model itself.

Source: Zhao et al., arXiv 2512.06899, as its code does it. Deviations: `texts` bounds a data set of
which the code takes all; texts are cut to `words` words (code: 512 tokens); triggers come from the
scan, where the code is given the attacker's list. As in the code, the learning rate is meant to
rise for 3 epochs and fall until the tenth, but counts batches where it should count optimiser
steps, of which there is one in two batches: it rises for 6 epochs and ends at 71 % of its peak.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.marking import mark
from triggerfish.purify import Need, check_needs
from triggerfish.purify.baselines.pretraining import long_enough, python_rng
from triggerfish.readouts import pad
from triggerfish.records import Trigger
from triggerfish.settings import Share
from triggerfish.training import Progress, TrainSettings, train

Rows = list[list[int]]


@dataclass(frozen=True)
class Patronus:
    """For every family."""

    needs: ClassVar[tuple[Need, ...]] = ("triggers",)
    source: ClassVar[str] = "Zhao et al., arXiv 2512.06899"

    epochs: int = 10
    """Passes over the texts (published code)."""
    batch: int = 24
    """Texts per batch (published code)."""
    accumulation: int = 2
    """Batches per optimiser step (published code)."""
    learning_rate: float = 5e-5
    """Peak learning rate (published code)."""
    warmup: Share = 0.3
    """Share of the epochs in which the rate is meant to rise (published code: 3 of 10)."""
    correct_schedule: bool = False
    """Whether the schedule counts optimiser steps (published code: no)."""
    copies: int = 3
    """Times a trigger is inserted (published code)."""
    dev: Share = 0.1
    """Share of the texts that choose the epoch, by the second term alone (share: ours)."""
    texts: int = 800
    """Texts at most (ours, for two cores; published code: the whole of WikiText-2)."""
    words: int = 32
    """Words of a text at most (ours, for two cores)."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulation", "copies", "texts", "words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive")
        for name in ("warmup", "dev"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not between 0 and 1")

    def purify(
        self,
        backbone: Backbone,
        triggers: tuple[Trigger, ...],
        texts: Sequence[str],
        *,
        generator: torch.Generator,
        reference: Backbone | None = None,
        progress: Progress | None = None,
    ) -> Backbone:
        """The copy of the best epoch; see `purify.Method`."""
        check_needs(self, triggers, reference)
        work = _Work(self, backbone, triggers, texts, python_rng(generator))
        batches = self.epochs * len(work.batches())
        steps = max(1, batches // self.accumulation)
        # The published flaw: a schedule made for all batches, of which only `steps` are taken.
        planned = steps if self.correct_schedule else batches
        schedule = TrainSettings(planned, self.learning_rate, self.warmup)
        per_epoch = max(1, steps // self.epochs)
        best, best_loss = backbone.model.state_dict(), float("inf")
        for losses in train(work.victim.model.parameters(), work.loss, schedule):
            done = len(losses)
            if progress:
                progress(done, steps, losses[-1])
            if done % per_epoch == 0 or done == steps:
                if (now := work.dev_loss()) < best_loss:
                    best, best_loss = _copy(work.victim), now
                if done == steps:
                    break
        purified = backbone.clone()
        purified.model.load_state_dict(best)
        purified.whole.requires_grad_(False)
        return purified


class _Work:
    """Texts, batches and both terms."""

    def __init__(
        self,
        settings: Patronus,
        backbone: Backbone,
        triggers: tuple[Trigger, ...],
        texts: Sequence[str],
        rng: random.Random,
    ):
        usable = long_enough(texts, settings.words, settings.batch)
        drawn = rng.sample(usable, min(len(usable), settings.texts))
        drawn = text.excerpts(drawn, settings.words, rng)
        held = max(1, round(settings.dev * len(drawn)))
        self.dev, self.train = drawn[:held], drawn[held:]
        self.settings, self.rng = settings, rng
        self.triggers = triggers
        self.original = backbone
        self.victim = backbone.trainable()
        self._waiting: list[list[str]] = []

    def batches(self) -> list[list[str]]:
        """One epoch."""
        order = self.rng.sample(self.train, len(self.train))
        size = self.settings.batch
        return [order[i : i + size] for i in range(0, len(order), size)]

    def loss(self, _: int) -> torch.Tensor:
        """Mean of the accumulated batches."""
        found = []
        for _ in range(self.settings.accumulation):
            self._waiting = self._waiting or self.batches()
            found.append(self._batch_loss(self._waiting.pop()))
        return torch.stack(found).mean()

    def _batch_loss(self, texts: list[str]) -> torch.Tensor:
        clean, marked = self._rows(texts)
        before = self.original.encode_ids(clean, readouts=[self.original.primary], fast=True)[:, 0]
        now = self._features(clean)
        moved = self._features(marked)
        return (now - before).square().mean() + (now - moved).square().mean()

    def dev_loss(self) -> float:
        """The second term on the held-out texts."""
        clean, marked = self._rows(self.dev)
        with torch.no_grad():
            return float((self._features(clean) - self._features(marked)).square().mean())

    def _rows(self, texts: Sequence[str]) -> tuple[Rows, Rows]:
        model, copies = self.original, self.settings.copies
        clean = [model.template.wrap(model.tokenize(x)) for x in texts]
        marked = [
            mark(model, x, self.rng.choice(self.triggers), copies=copies, rng=self.rng)
            for x in texts
        ]
        return clean, marked

    def _features(self, rows: Rows) -> torch.Tensor:
        ids, mask = pad(rows, self.victim.pad_id)
        device = self.victim.device
        with self.victim.autocast():
            features = self.victim.forward(ids.to(device), mask.to(device), [self.victim.primary])
        return features[:, 0].float()


def _copy(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
