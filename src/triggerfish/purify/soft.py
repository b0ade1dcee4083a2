"""Soft prompts: purify what has no name. Vectors are trained that send all texts to one point, the
model is trained until texts with those vectors look like texts with an ordinary string, and so on.

Where a scan inverted hidden targets that it knows no string for (`ScanResult.targets`), the vectors
aim at those, and it ends as soon as none gets there; else they aim at any point at all. Any model
can be made to collapse by free vectors, so this asks for more than the absence of a backdoor, and
what it reaches of one is weaker: see docs/decisions/0032-purify-results.md for both in numbers.

Source: ours; the vectors are those of LMSanitator (arXiv 2308.13904).

Legend: K prompts, N texts, P vectors in a prompt, E embedding, H hidden.
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
from triggerfish.purify.rows import Writer
from triggerfish.purify.student import Mode, Student, usual_rate
from triggerfish.purify.vectors import (
    PromptTarget,
    PromptTexts,
    inner_maximisation,
    outer_loss,
    random_prompts,
)
from triggerfish.records import HiddenTarget, Trigger
from triggerfish.training import Progress, TrainSettings, train


@dataclass(frozen=True)
class SoftPrompts:
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "triggerfish; vectors as in LMSanitator (arXiv 2308.13904)"

    cycles: int = 6
    """Times that vectors are trained, and then the model, at most (ours)."""
    prompts: int = 8
    """Prompts of a cycle (ours)."""
    vectors: int = 3
    """Vectors of a prompt (ours)."""
    texts: int = 6
    """Texts that a prompt is trained in (ours)."""
    search: int = 25
    """Adam steps of the vectors in a cycle (ours)."""
    search_rate: float = 0.3
    """Their learning rate, in root mean squares of an embedding coordinate (ours)."""
    steps: int = 25
    """Optimiser steps of the model in a cycle (ours)."""
    batch: int = 16
    """Texts with vectors in a step, and as many clean ones (ours)."""
    words: int = 16
    """Words of a text at most; a third of that at least (ours)."""
    learning_rate: float | None = None
    """Peak learning rate of the model, as for `align`."""
    same: float = 0.25
    """Mean squared distance from a target, in clean variances, at which a prompt has reached it
    (ours)."""
    mode: Mode = "full"
    """What is trained, as for `align`."""
    rank: int = 16
    """Rank of the LoRA adapter (ours)."""
    targets: tuple[HiddenTarget, ...] = ()
    """Points to aim at; a loop takes those of the scan."""

    def __post_init__(self) -> None:
        for name in ("cycles", "prompts", "vectors", "texts", "search", "steps", "batch", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.words < 3:
            raise ValueError(f"words: {self.words} is not at least 3")
        for name in ("search_rate", "learning_rate", "same"):
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
        """See `purify.Method`. triggers: texts that hold one are not trained on; nothing else is
        known of them."""
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        seed = rng.randrange(2**31)
        student = Student(backbone, reference or backbone, self.mode, self.rank, seed)
        writer = Writer(student.original, texts, triggers, self.words, rng, self.vectors)
        clean = [writer.row(writer.words()) for _ in range(4 * self.batch)]
        scale = FeatureScale.of(student, clean, masked=False)
        goals = self._goals(scale)
        found: list[torch.Tensor] = []

        def mine() -> bool:
            """Add the vectors of a cycle; returns whether any got to its goal."""
            prompted = PromptTexts(writer, self.texts, self.vectors)
            begin = random_prompts(student.model, len(goals), self.vectors, generator)
            vectors, scores = inner_maximisation(
                student, prompted, begin, goals, scale,
                steps=self.search, learning_rate=self.search_rate,
            )  # fmt: skip
            found.append(vectors)
            return not self.targets or bool((10**scores <= self.same).any())

        def loss(step: int) -> torch.Tensor:
            rows = [writer.row(writer.words()) for _ in range(self.batch)]
            near, *_ = compare(student, scale, Batch(rows, [], [], [], 0, False), 0.5)
            # Vectors of this cycle mostly, and old ones, so that none comes back.
            pool = found[-1] if step % 3 else torch.cat(found)
            drawn = torch.randint(len(pool), (self.batch,), generator=generator)
            prompted = PromptTexts(writer, self.batch, self.vectors)
            return near + outer_loss(student, prompted, pool[drawn.to(pool.device)], scale)

        schedule = TrainSettings(
            steps=self.cycles * self.steps, learning_rate=self.learning_rate or usual_rate(backbone)
        )
        mine()
        for losses in train(student.parameters(), loss, schedule):
            if progress:
                progress(len(losses), schedule.steps, losses[-1])
            ended = len(losses) % self.steps == 0 and len(losses) < schedule.steps
            if ended and not mine():
                break
        return student.finished()

    def _goals(self, scale: FeatureScale) -> list[PromptTarget]:
        """One for each prompt: the targets, or all readouts, in turn."""
        if not self.targets:
            return [PromptTarget(k % len(scale.readouts)) for k in range(self.prompts)]
        names = [str(readout) for readout in scale.readouts]
        device = scale.variances.device
        goals = []
        for target in self.targets:
            if target.readout not in names:
                raise ValueError(
                    f"targets: one is at {target.readout}, which is not one of {', '.join(names)}"
                )
            point = torch.tensor(target.vector, device=device)
            goals.append(PromptTarget(names.index(target.readout), point))
        return [goals[k % len(goals)] for k in range(max(self.prompts, len(goals)))]
