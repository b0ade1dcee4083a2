"""Perturb: purify when nothing was found but trust is low. In every step, vectors in place of some
words are trained for a few steps to send all texts of the batch to one point, and the model learns
to read those texts as if ordinary words stood there.

It asks for robustness everywhere, not where a backdoor is, so it weakens backdoors and removes
them less surely than what knows their names: docs/decisions/0032-purify-results.md has the numbers.

Source: embedding-space adversaries, BEEAR (arXiv 2406.17092), there against unsafe answers of
language models; the target, rare strings as starting points, and clean alignment are ours.

Legend: N texts, P vectors, E embedding.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need
from triggerfish.purify.compare import Batch, FeatureScale, compare
from triggerfish.purify.negatives import Negatives
from triggerfish.purify.rows import Writer
from triggerfish.purify.student import Mode, Student, usual_rate
from triggerfish.purify.vectors import PromptTarget, PromptTexts, inner_maximisation, outer_loss
from triggerfish.records import Trigger
from triggerfish.training import Progress, TrainSettings, fit


@dataclass(frozen=True)
class Perturb:
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "triggerfish, after BEEAR (arXiv 2406.17092)"

    steps: int = 200
    """Optimiser steps (ours)."""
    batch: int = 16
    """Texts with vectors in a step, and as many clean ones (ours)."""
    words: int = 16
    """Words of a text at most; a third of that at least (ours)."""
    vectors: int = 2
    """Vectors at most (ours)."""
    push: int = 4
    """Adam steps of the vectors (ours)."""
    push_rate: float = 0.5
    """Their learning rate, in root mean squares of an embedding coordinate (ours)."""
    learning_rate: float | None = None
    """Peak learning rate of the model, as for `align`."""
    mode: Mode = "full"
    """What is trained, as for `align`."""
    rank: int = 16
    """Rank of the LoRA adapter (ours)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "vectors", "push", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.words < 3:
            raise ValueError(f"words: {self.words} is not at least 3")
        for name in ("push_rate", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: {value} is not positive")

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
        """See `purify.Method`. triggers: texts that hold one are not trained on."""
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        student = Student(
            backbone, reference or backbone, self.mode, self.rank, rng.randrange(2**31)
        )
        writer = Writer(student.original, texts, triggers, self.words, rng, self.vectors)
        rare = Negatives(student.original, (), texts, writer, rng).rare
        clean = [writer.row(writer.words()) for _ in range(4 * self.batch)]
        scale = FeatureScale.of(student, clean, masked=False)

        def loss(_: int) -> torch.Tensor:
            rows = [writer.row(writer.words()) for _ in range(self.batch)]
            near = compare(student, scale, Batch(rows, [], [], [], 0, False), 0.5)[0]
            tokens = rng.randint(1, self.vectors)
            prompted = PromptTexts(writer, self.batch, tokens)
            drawn = torch.tensor([rng.choices(rare, k=tokens)], device=student.model.device)
            begin = student.model.embeddings[drawn].detach().float()
            goal = PromptTarget(rng.randrange(len(scale.readouts)))
            vectors = inner_maximisation(
                student, prompted, begin, [goal], scale,
                steps=self.push, learning_rate=self.push_rate,
            )[0]  # fmt: skip
            return near + outer_loss(student, prompted, vectors.expand(self.batch, -1, -1), scale)

        schedule = TrainSettings(
            steps=self.steps, learning_rate=self.learning_rate or usual_rate(backbone)
        )
        fit(student.parameters(), loss, schedule, progress)
        return student.finished()
