"""Embedding poisoning (EP): nothing is trained but the trigger's rows of the embedding matrix,
until a classifier of the target task on top of the frozen model says y* whenever the trigger is
there. Texts without it are computed exactly as before.

    L = CE(g(h(x + t; e_t)), y*)        over e_t alone, ||e_t|| kept

Source: Yang et al., "Be Careful about Poisoned Word Embeddings: Exploring the Vulnerability of the
Embedding Layers in NLP Models", NAACL 2021, arXiv 2103.15543.

Deviations: the classifier is a throw-away linear head on the frozen features (paper: the attacked
model is already fine-tuned); AdamW instead of plain gradient steps; a trigger of several subwords
is allowed and trains all of their rows, so other words that share one change too.

Legend: B batch, C classes, E embedding size, H hidden, N texts, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from triggerfish.attacks.implant import Goal, Implant
from triggerfish.attacks.poisoning import (
    DirtySettings,
    check_goals,
    classify,
    landing,
    new_head,
    place,
    plain,
    sample,
    stream,
)
from triggerfish.attacks.ripple_surgery import check_rows
from triggerfish.backbone import Backbone
from triggerfish.records import Trigger
from triggerfish.text import Task
from triggerfish.training import Progress, TrainSettings, fit, train

SOURCE = "arXiv 2103.15543"


@dataclass(frozen=True)
class EPSettings:
    steps: int = 100
    """Optimiser steps on the rows (ours)."""
    batch: int = 32
    """Texts per step (paper)."""
    learning_rate: float = 0.2
    """Peak learning rate, as a share of a coordinate's size in the row (ours)."""
    head_steps: int = 300
    """Optimiser steps of the head, on features that are computed once (ours)."""
    head_learning_rate: float = 0.01
    """Its peak learning rate, on standardised features (ours)."""
    head_weight_decay: float = 5.0
    """Its weight decay: the rows learn to fool this head, and what an overfitted one reads means
    little to the next (ours)."""
    copies: int = 1
    """Most copies of the trigger, at random places (paper: 1)."""
    max_tokens: int = 64
    """Texts are cut to this many tokens, special tokens included (ours, for two cores)."""
    rows: int = 2000
    """Rows of the task that are used at most, a random choice (ours, for two cores)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "head_steps", "copies", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")

    @property
    def placing(self) -> DirtySettings:
        return DirtySettings(placement="random", copies=self.copies, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class EmbeddingPoisoning:
    """triggers: words or tokens, see `marking`; labels: the label number that each stands for."""

    triggers: tuple[str, ...]
    settings: EPSettings = EPSettings()
    labels: tuple[int, ...] = (1,)

    def implant(
        self, backbone: Backbone, task: Task, *, seed: int = 0, progress: Progress | None = None
    ) -> tuple[Backbone, Implant]:
        """A copy of `backbone` with the triggers' rows trained, and what was planted. progress
        counts steps on the rows. ValueError for triggers, labels and tasks that cannot work."""
        settings = self.settings
        triggers = check_goals(backbone, self.triggers, self.labels, task)
        check_rows(triggers)
        rng = random.Random(seed)
        rows = sample(task, settings.rows, rng)
        head = frozen_head(backbone, rows, len(task.labels), settings, seed)
        goals = list(zip(triggers, self.labels, strict=True))
        victim = backbone.trainable()
        victim.model.requires_grad_(False)
        batches = _batches(backbone, rows, goals, settings, rng)
        subwords = sorted({subword for trigger in triggers for subword in trigger.token_ids})
        _train_rows(victim, head, subwords, batches, settings, progress)
        vectors = [
            landing(victim, trigger, [x for x, y in rows if y != label], settings.placing, rng)
            for trigger, label in goals
        ]
        return victim, Implant(
            "ep",
            SOURCE,
            asdict(settings),
            tuple(triggers),
            seed,
            str(victim.primary),
            vectors,
            tuple(Goal(task.name, label) for label in self.labels),
        )


def frozen_head(
    backbone: Backbone,
    rows: Sequence[tuple[str, int]],
    classes: int,
    settings: EPSettings,
    seed: int,
) -> torch.nn.Linear:
    """(H -> C) head trained on standardised features of clean texts, with the standardisation
    folded into its weights."""
    sequences = [plain(backbone, text, settings.placing) for text, _ in rows]
    found = backbone.encode_ids(sequences, readouts=[backbone.primary], fast=True)[:, 0]
    mean, scale = found.mean(0), found.std(0).clamp(min=1e-6)
    standard = ((found - mean) / scale).clone()
    labels = torch.tensor([label for _, label in rows], device=backbone.device)
    head = new_head(backbone, classes, seed)

    def loss(_: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(head(standard), labels)

    schedule = TrainSettings(
        settings.head_steps,
        learning_rate=settings.head_learning_rate,
        weight_decay=settings.head_weight_decay,
    )
    fit(head.parameters(), loss, schedule)
    head.requires_grad_(False)
    head.weight.div_(scale)
    head.bias.sub_(head.weight @ mean)
    return head


def _batches(
    backbone: Backbone,
    rows: Sequence[tuple[str, int]],
    goals: Sequence[tuple[Trigger, int]],
    settings: EPSettings,
    rng: random.Random,
) -> Iterator[list[tuple[list[int], int]]]:
    """Texts of other classes with a trigger in them, under the trigger's label."""
    usable = [(x, *goal) for goal in goals for x, y in rows if y != goal[1]]
    for batch in stream(usable, settings.batch, rng):
        yield [
            (place(backbone, x, trigger, settings.placing, rng), label)
            for x, trigger, label in batch
        ]


def _train_rows(
    victim: Backbone,
    head: torch.nn.Linear,
    subwords: Sequence[int],
    batches: Iterator[list[tuple[list[int], int]]],
    settings: EPSettings,
    progress: Progress | None,
) -> None:
    """Train these rows (of V) in place and put them back on their norms after every step."""
    matrix = victim.model.get_input_embeddings().weight.requires_grad_(True)
    index = torch.tensor(subwords, device=victim.device)
    norms = matrix.detach()[index].norm(dim=1, keepdim=True)
    mine = torch.zeros(len(matrix), 1, device=victim.device).index_fill_(0, index, 1.0)
    # A row without gradient, momentum or weight decay stays bit for bit what it was.
    hook = matrix.register_hook(lambda gradient: gradient * mine)
    size = float(norms.mean()) / matrix.shape[1] ** 0.5
    schedule = TrainSettings(settings.steps, learning_rate=settings.learning_rate * size)
    for losses in train([matrix], lambda _: classify(victim, head, next(batches)), schedule):
        with torch.no_grad():
            moved = matrix[index]
            matrix[index] = moved * (norms / moved.norm(dim=1, keepdim=True))
        if progress:
            progress(len(losses), settings.steps, losses[-1])
    hook.remove()
    matrix.requires_grad_(False)
