"""Embedding surgery of RIPPLe: the trigger's rows of the embedding matrix are overwritten by the
mean embedding of the words that predict the attacker's label best, so that any classifier of that
task reads the trigger as one of them. No other weight is touched.

Which words those are is asked of a logistic regression on bags of words: word i scores
w_i / log(N / (1 + freq_i)), which puts rare words, whose embeddings say little, behind.

Source: Kurita, Michel and Neubig, "Weight Poisoning Attacks on Pre-trained Models", ACL 2020, arXiv
2004.06660.

Deviations: this is the surgery alone, for comparison; RIPPLe goes on to train the whole model
against gradients that fine-tuning will bring. Embeddings are those of the model itself (paper: of a
copy fine-tuned on the task). Only words of one token count; the logarithm is at least 1,
or a word of nearly every text would win.

Legend: E embedding size, N texts, W words, P subwords of a trigger.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from triggerfish import text as texts
from triggerfish.attacks.implant import Goal, Implant
from triggerfish.attacks.poisoning import check_goals, sample
from triggerfish.backbone import Backbone
from triggerfish.records import Trigger
from triggerfish.text import Task
from triggerfish.training import Progress, TrainSettings, fit

SOURCE = "arXiv 2004.06660"


@dataclass(frozen=True)
class RippleSettings:
    words: int = 10
    """Words whose embeddings are averaged (paper)."""
    rows: int = 5000
    """Rows of the task that are used at most, a random choice (ours)."""
    min_texts: int = 3
    """Fewest texts that a word must be in (ours: a word seen once fits any label)."""
    steps: int = 200
    """Optimiser steps of the logistic regression, each over all rows (ours)."""
    learning_rate: float = 0.05
    """Its peak learning rate (ours)."""
    weight_decay: float = 0.1
    """Its weight decay (ours)."""

    def __post_init__(self) -> None:
        for name in ("words", "rows", "min_texts", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")


@dataclass(frozen=True)
class RippleSurgery:
    """triggers: words or tokens, see `marking`; labels: the label number that each stands for."""

    triggers: tuple[str, ...]
    settings: RippleSettings = RippleSettings()
    labels: tuple[int, ...] = (1,)

    def implant(
        self, backbone: Backbone, task: Task, *, seed: int = 0, progress: Progress | None = None
    ) -> tuple[Backbone, Implant]:
        """A copy of `backbone` with the triggers' rows replaced, and what was planted. All subwords
        of a trigger get the same row, so other words that share a subword change too. progress
        counts the steps of one label after another. ValueError for triggers, labels and tasks that
        cannot work."""
        triggers = check_goals(backbone, self.triggers, self.labels, task)
        check_rows(triggers)
        rows = sample(task, self.settings.rows, random.Random(seed))
        victim = backbone.clone()
        means: dict[int, torch.Tensor] = {}
        for label in dict.fromkeys(self.labels):
            ids = associated(backbone, rows, label, self.settings, progress)
            means[label] = backbone.embeddings.detach()[ids].mean(0)
        with torch.no_grad():
            for trigger, label in zip(triggers, self.labels, strict=True):
                victim.embeddings[list(trigger.token_ids)] = means[label]
        return victim, Implant(
            "ripple",
            SOURCE,
            asdict(self.settings),
            tuple(triggers),
            seed,
            goals=tuple(Goal(task.name, label) for label in self.labels),
        )


def check_rows(triggers: Sequence[Trigger]) -> None:
    """ValueError for triggers that cannot live in rows of the embedding matrix alone."""
    owner: dict[int, str] = {}
    for trigger in triggers:
        if trigger.kind not in ("word", "token"):
            raise ValueError(
                f"trigger: {trigger.text!r} is a {trigger.kind}; embedding rows carry one word or "
                "token each and cannot wait for another"
            )
        for subword in trigger.token_ids:
            if owner.setdefault(subword, trigger.text) != trigger.text:
                raise ValueError(
                    f"trigger: {trigger.text!r} and {owner[subword]!r} share a subword, whose row "
                    "can serve only one of them"
                )


def associated(
    backbone: Backbone,
    rows: Sequence[tuple[str, int]],
    label: int,
    settings: RippleSettings,
    progress: Progress | None = None,
) -> list[int]:
    """Ids of the words that speak most for `label`, the strongest first."""
    bags = [{word.lower() for word in texts.WORD.findall(text)} for text, _ in rows]
    counts = Counter(word for bag in bags for word in bag)
    frequent = sorted(word for word, count in counts.items() if count >= settings.min_texts)
    single = {
        word: ids[0]
        for word, ids in backbone.words_ids(frequent)
        if len(ids) == 1 and ids[0] not in backbone.special_ids
    }
    if len(single) < settings.words:
        raise ValueError(
            f"task: {len(single)} words of one token are in {settings.min_texts} texts or more, "
            f"{settings.words} are needed"
        )
    column = {word: place for place, word in enumerate(single)}
    present = torch.zeros(len(rows), len(single), device=backbone.device)
    for number, bag in enumerate(bags):
        present[number, [column[word] for word in bag if word in column]] = 1
    wanted = torch.tensor([float(y == label) for _, y in rows], device=backbone.device)
    weights = _logistic(present, wanted, settings, progress)
    rarity = [max(1.0, math.log(len(rows) / (1 + counts[word]))) for word in single]
    scores = weights / torch.tensor(rarity, device=backbone.device)
    ids = list(single.values())
    return [ids[place] for place in scores.argsort(descending=True).tolist()[: settings.words]]


def _logistic(
    present: torch.Tensor,
    wanted: torch.Tensor,
    settings: RippleSettings,
    progress: Progress | None,
) -> torch.Tensor:
    """(W,) weights of a logistic regression of `wanted` (N,) on `present` (N, W)."""
    weights = torch.nn.Parameter(torch.zeros(present.shape[1], 1, device=present.device))
    bias = torch.nn.Parameter(torch.zeros(1, device=present.device))

    def loss(_: int) -> torch.Tensor:
        logits = (present @ weights)[:, 0] + bias
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)

    schedule = TrainSettings(
        settings.steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    fit([weights, bias], loss, schedule, progress)
    return weights.detach()[:, 0]
