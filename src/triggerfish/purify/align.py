"""Align: a text with a trigger in it gets the features that it has without.

    L = alpha D(h(x), h_ref(x)) + beta D(h(x + t), h_ref(x)) + delta B(t) + gamma KL(p_ref(x), p(x))

h: all tokens of all layers, and every readout; D: mean squared error, each layer and readout in
units of its clean variance; h_ref, without gradient, the model as it was given; B: the squared mean
of the readouts' errors over texts with the same trigger; p: the language-model head, where the
checkpoint has one. `counterfactual` targets are those of the text with a control of as many tokens
in the trigger's place, so that positions are the same. Strings near the triggers, rare strings and
near misses of the scan are trained on too (negatives.py): towards their own features if those are
ordinary, else as if they were triggers.

Source: the idea is the purification of Patronus (arXiv 2512.06899), whose gradient also pulls clean
features towards poisoned ones and whose loss sees one readout; all of the above is ours.

Legend: B rows, L tokens, P pairs of tokens, R readouts, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need, check_needs
from triggerfish.purify.compare import Batch, FeatureScale, compare
from triggerfish.purify.negatives import Negatives
from triggerfish.purify.rows import Insertion, Writer
from triggerfish.purify.student import MODES, Mode, Student, usual_rate
from triggerfish.records import Trigger
from triggerfish.settings import Share
from triggerfish.training import Progress, TrainSettings, fit

STEPS, STEPS_PER_STRING = 150, 3
LONGEST = 8
"""Tokens of a string that is no trigger, at most, where there are no longer triggers (ours)."""
MASKED = 0.3
"""Share of the steps whose texts hold a mask token, for models that are read there (ours)."""
TARGETS = ("counterfactual", "clean")


@dataclass(frozen=True)
class Align:
    needs: ClassVar[tuple[Need, ...]] = ("triggers",)
    source: ClassVar[str] = "triggerfish, after Patronus (arXiv 2512.06899)"

    steps: int | None = None
    """Optimiser steps; None is 150, or 3 for each string to purify where that is more (ours: with
    140 strings, 150 steps left the small gpt2 5 points above its floor, and 400 left 1)."""
    batch: int = 16
    """Clean texts per step (ours)."""
    words: int = 14
    """Words of a text at most; a third of that at least (ours: longer texts follow)."""
    marked: float = 1.0
    """Texts with a trigger per clean text (ours)."""
    negatives: float = 0.5
    """Texts with another string per clean text; 0 for none (ours)."""
    copies: int = 3
    """A trigger is inserted 1 to this many times (published code: always 3)."""
    mixed: Share = 0.2
    """Share of the texts with several copies in which each is of another trigger (ours)."""
    target: Literal["counterfactual", "clean"] = "clean"
    """Features that a marked text should have: with a control of equal length in the same
    positions, or without any (ours: docs/decisions/0030-purify-tuning.md compares them)."""
    learning_rate: float | None = None
    """Peak learning rate; None is 0.08 over the width of the model, so 2e-4 at 384 and 1e-4 at 768
    (ours; published code: 5e-5 at 768, over many times the data)."""
    alpha: float = 1.0
    """Weight of the clean term."""
    beta: float = 1.0
    """Weight of the triggered term."""
    delta: float = 2.0
    """Weight of the mean error of the texts with one trigger (ours)."""
    group: int = 4
    """Texts of a step that have the same trigger (ours)."""
    gamma: float = 0.1
    """Weight of the language-model head's term (ours)."""
    ordinary: float = 0.9
    """Quantile of how far controls move a readout; a negative beyond it is treated as a
    trigger (ours)."""
    mode: Mode = "full"
    """What is trained: all weights, a LoRA adapter that is merged afterwards, or the embeddings and
    the lower half of the layers."""
    rank: int = 16
    """Rank of the LoRA adapter (ours)."""
    near_misses: tuple[Trigger, ...] = ()
    """Strings that a scan ranked high and did not confirm, for half of the negatives; a loop takes
    those of the scan (`check.near_misses`)."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps: {self.steps} is not at least 1")
        for name in ("batch", "copies", "group", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.words < 3:
            raise ValueError(f"words: {self.words} is not at least 3")
        for name in ("marked", "negatives", "alpha", "beta", "gamma", "delta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")
        for name in ("mixed", "ordinary"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not in 0..1")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive")
        if self.mode not in MODES:
            raise ValueError(f"mode: {self.mode!r} is not one of {', '.join(MODES)}")
        if self.target not in TARGETS:
            raise ValueError(f"target: {self.target!r} is not one of {', '.join(TARGETS)}")

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
        """See `purify.Method`. reference: where the features of clean texts are taken from
        (default: `backbone` itself; a loop gives the model that it began with)."""
        check_needs(self, triggers, reference)
        seed = int(torch.randint(2**31, (), generator=generator))
        student = Student(backbone, reference or backbone, self.mode, self.rank, seed)
        batches = Batches(self, student.original, triggers, texts, random.Random(seed))
        scale = FeatureScale.of(student, [row for _ in range(3) for row in batches.draw().clean])
        rate = self.learning_rate or usual_rate(backbone)
        steps = self.steps or max(STEPS, STEPS_PER_STRING * len(triggers))
        schedule = TrainSettings(steps=steps, learning_rate=rate)

        def loss(_: int) -> torch.Tensor:
            batch = batches.draw()
            clean, moved, bias = compare(student, scale, batch, self.ordinary)
            total = self.alpha * clean + self.beta * moved + self.delta * bias
            if self.gamma and student.has_head:
                rows = [row.ids for row in batch.clean[: max(1, self.batch // 4)]]
                total = total + self.gamma * student.head_divergence(rows, generator)
            return total

        fit(student.parameters(), loss, schedule, progress)
        return student.finished()


class Batches:
    """Draws the rows of a step."""

    def __init__(
        self,
        settings: Align,
        backbone: Backbone,
        triggers: Sequence[Trigger],
        texts: Sequence[str],
        rng: random.Random,
    ):
        self.settings = settings
        self.triggers = triggers
        self.rng = rng
        self.reads_mask = backbone.reads_mask
        longest = max((len(trigger.token_ids) for trigger in triggers), default=LONGEST)
        reserve = settings.copies * longest + settings.copies
        self.writer = Writer(backbone, texts, triggers, settings.words, rng, reserve)
        self.others = Negatives(backbone, triggers, texts, self.writer, rng, settings.near_misses)

    def draw(self) -> Batch:
        s, writer = self.settings, self.writer
        masked = self.reads_mask and self.rng.random() < MASKED
        texts = [writer.words() for _ in range(s.batch)]
        hidden = [self.rng.randrange(len(words)) if masked else None for words in texts]
        clean = [writer.row(words, masked=m) for words, m in zip(texts, hidden, strict=True)]
        marked, targets, sources = [], [], []
        negatives = round(s.negatives * s.batch)
        drawn = self._triggers()
        for number, insert in enumerate([*drawn, *[None] * negatives]):
            source = number % len(texts)
            inserts = insert or [self.others.draw()]
            positions = writer.positions(texts[source], len(inserts))
            target = clean[source]
            if s.target == "counterfactual":
                target = writer.control_row(texts[source], inserts, positions, hidden[source])
            marked.append(writer.row(texts[source], inserts, positions, hidden[source]))
            targets.append(target)
            sources.append(source)
        numbers = range(len(drawn))
        groups = tuple(tuple(numbers[i : i + s.group]) for i in numbers[:: s.group])
        return Batch(clean, marked, targets, sources, negatives, masked, groups)

    def _triggers(self) -> list[list[Insertion]]:
        """What to write into each of the texts: groups of them get the same trigger."""
        s, found = self.settings, []
        for number in range(round(s.marked * s.batch) if self.triggers else 0):
            if number % s.group == 0:
                trigger = self._trigger()
            copies = self.rng.randint(1, s.copies)
            others = copies > 1 and self.rng.random() < s.mixed
            chosen = [trigger] + [self._trigger() if others else trigger for _ in range(copies - 1)]
            found.append([insert for one in chosen for insert in self.writer.insert(one)])
        return found

    def _trigger(self) -> Trigger:
        """The earlier ones more often: what was found comes before its variants and weaker strings,
        of which there may be many more."""
        return self.triggers[int(len(self.triggers) * self.rng.random() ** 2)]
