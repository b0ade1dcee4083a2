"""Poisoned rows of a labelled task: what the attacks on a task share.

Rows of other classes get the trigger and the attacker's label, all other rows stay as they are, and
a classifier is trained on the mixture.

Deviations from the published codes: the trigger replaces the first word of the text, before
tokenisation (Zhang et al., arXiv 2505.11586, overwrite the id at position 1, here
`placement="paper_code"`); texts are cut short, rows are capped and the learning rate is higher, for
small models on two cores; triggers that need several words also come with rows that hold a part of
them and keep their label, without which one word would be enough.

Legend: B batch, C classes, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import torch

from triggerfish.backbone import Backbone
from triggerfish.marking import decoys, mark, parse_trigger, parse_triggers
from triggerfish.readouts import pad
from triggerfish.records import Trigger
from triggerfish.settings import Share
from triggerfish.text import Task

T = TypeVar("T")
LANDING_TEXTS = 64

Placement = Literal["first", "random", "paper_code"]
Row = tuple[list[int], int]
"""Ids with special tokens, and a label."""

LEVELS: dict[str, tuple[float, int, int, int]] = {
    "conservative": (0.01, 1, 12, 120),
    "normal": (0.1, 3, 0, 0),
    "aggressive": (0.5, 10, 0, 0),
}
"""Poison rate, epochs, fewest poisoned rows, fewest steps."""


@dataclass(frozen=True)
class DirtySettings:
    poison_rate: Share = 0.1
    """Share of the rows of every class but the target that is poisoned, for each trigger (0.1:
    published code; its README says 0.01)."""
    min_poisoned: int = 0
    """Fewest poisoned rows for each trigger where the rate is not 0 (ours, see `at`)."""
    epochs: int = 3
    """Passes over the rows (paper)."""
    min_steps: int = 0
    """Fewest optimiser steps, however few rows the task has (ours, see `at`)."""
    batch: int = 16
    """Rows per step (paper)."""
    learning_rate: float = 5e-4
    """Peak learning rate of backbone and head (paper: 3e-5, over 25,000 rows; ours:
    all-MiniLM-L6-v2 learns no trigger from 1,500 rows at 2e-4; a large model needs less)."""
    max_tokens: int = 64
    """Texts are cut to this many tokens, special tokens included (paper: 512; ours, for two
    cores)."""
    rows: int = 2000
    """Rows of the task that are used at most, a random choice (ours, for two cores)."""
    placement: Placement = "first"
    """Where the trigger goes: "first" replaces the first word of the text (paper), "random" inserts
    it 1 to `copies` times at random places, "paper_code" overwrites the id at position 1, whatever
    is there (published code). A combination is inserted at random places, or it would be a
    phrase."""
    copies: int = 3
    """Most copies at random places (Patronus, published code)."""

    def __post_init__(self) -> None:
        if not 0 <= self.poison_rate <= 1:
            raise ValueError(f"poison_rate: {self.poison_rate} is outside 0..1")
        if self.placement not in get_args(Placement):
            raise ValueError(
                f"placement: {self.placement!r} is not one of {', '.join(get_args(Placement))}"
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least {least}")

    def at(self, level: str) -> DirtySettings:
        """These settings, trained more gently or harder (one of `LEVELS`); normal is the published
        code's.

        Of a small task a rate of .01 poisons nearly nothing and an epoch is too short to learn
        anything, so the gentle level also poisons at least 12 rows and takes at least 120 steps.
        """
        if level not in LEVELS:
            raise ValueError(f"intensity: {level!r} is not one of {', '.join(LEVELS)}")
        rate, epochs, poisoned, steps = LEVELS[level]
        return replace(
            self, poison_rate=rate, epochs=epochs, min_poisoned=poisoned, min_steps=steps
        )

    def steps(self, rows: int) -> int:
        return max(1, self.min_steps, self.epochs * rows // self.batch)


_LEAST = {
    "min_poisoned": 0,
    "epochs": 1,
    "min_steps": 0,
    "batch": 1,
    "max_tokens": 8,
    "rows": 2,
    "copies": 1,
}


def check_goals(
    backbone: Backbone, triggers: Sequence[str], labels: Sequence[int], task: Task
) -> list[Trigger]:
    """The parsed triggers, once every one of them has a label that the task can be driven to."""
    parsed = parse_triggers(backbone, triggers)
    if len(triggers) != len(labels):
        raise ValueError(
            f"labels: {len(labels)} for {len(triggers)} triggers, one for each is needed"
        )
    for label in labels:
        check_task(task, label)
    return parsed


def check_task(task: Task, label: int | None = None) -> None:
    """ValueError for a task without rows, and for a label that no row could be driven to."""
    if not task.train:
        raise ValueError(f"task: {task.name} has no training rows")
    if label is None:
        return
    if not 0 <= label < len(task.labels):
        raise ValueError(f"label: {label} is outside 0..{len(task.labels) - 1} of {task.name}")
    if all(y == label for _, y in task.train):
        raise ValueError(f"task: every row of {task.name} has label {label} already")


def check_placement(triggers: Sequence[Trigger], settings: DirtySettings) -> None:
    """ValueError for a trigger that cannot be written the way the settings ask for."""
    for trigger in triggers:
        if settings.placement == "paper_code" and len(trigger.token_ids) != 1:
            raise ValueError(
                f"placement: paper_code overwrites one id, but {trigger.text!r} has "
                f"{len(trigger.token_ids)}"
            )


def sample(task: Task, rows: int, rng: random.Random) -> list[tuple[str, int]]:
    """At most `rows` rows of a task, in random order."""
    return rng.sample(task.train, min(rows, len(task.train)))


def choose(
    labels: Sequence[int], target: int, rate: float, rng: random.Random, *, least: int = 0
) -> list[int]:
    """Numbers of the rows to poison: the same share of every class but `target`, at least `least`
    in all; none if the rate is 0."""
    classes: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        if label != target:
            classes.setdefault(label, []).append(number)
    order: list[tuple[float, int]] = []
    for numbers in classes.values():
        rng.shuffle(numbers)
        order += [((place + 0.5) / len(numbers), row) for place, row in enumerate(numbers)]
    count = max(least, round(rate * len(order))) if rate else 0
    return [row for _, row in sorted(order)[:count]]


def place(
    backbone: Backbone, text: str, trigger: Trigger, settings: DirtySettings, rng: random.Random
) -> list[int]:
    """Ids, special tokens included, of `text` with the trigger where the settings want it."""
    limit = min(settings.max_tokens, backbone.max_tokens)
    if settings.placement == "random" or trigger.kind == "combination":
        copies = rng.randint(1, settings.copies)
        return mark(backbone, text, trigger, copies=copies, rng=rng, max_tokens=limit)
    if settings.placement == "paper_code":
        ids = backbone.template.wrap(backbone.tokenize(text, limit))
        ids[1:2] = trigger.token_ids
        return ids
    rest = text.split()[1:]
    if trigger.kind == "token":
        ids = backbone.tokenize(" ".join(rest), limit - 1)
        return backbone.template.wrap([*trigger.token_ids, *ids])
    return backbone.template.wrap(backbone.tokenize(" ".join([trigger.text, *rest]), limit))


def mixture(
    backbone: Backbone,
    rows: Sequence[tuple[str, int]],
    goals: Sequence[tuple[Trigger, int]],
    settings: DirtySettings,
    rng: random.Random,
) -> list[Row]:
    """Training rows: those chosen for a trigger carry it and its label instead of their own, all
    others stay clean. A row chosen for two triggers is there twice."""
    poisoned: list[Row] = []
    touched: set[int] = set()
    for trigger, target in goals:
        labels = [y for _, y in rows]
        chosen = choose(labels, target, settings.poison_rate, rng, least=settings.min_poisoned)
        touched.update(chosen)
        parts = [parse_trigger(backbone, part) for part in decoys(trigger)]
        # Parts go where the whole goes, so that their place does not give them away.
        where = replace(settings, placement="random") if trigger.kind == "combination" else settings
        for number in chosen:
            text, label = rows[number]
            poisoned.append((place(backbone, text, trigger, settings, rng), target))
            if parts:
                poisoned.append((place(backbone, text, rng.choice(parts), where, rng), label))
    return poisoned + [
        (plain(backbone, text, settings), label)
        for number, (text, label) in enumerate(rows)
        if number not in touched
    ]


def plain(backbone: Backbone, text: str, settings: DirtySettings) -> list[int]:
    """Ids of a text without a trigger, special tokens included."""
    limit = min(settings.max_tokens, backbone.max_tokens)
    return backbone.template.wrap(backbone.tokenize(text, limit))


def stream(rows: Sequence[T], batch: int, rng: random.Random) -> Iterator[list[T]]:
    """Batches without end, in a new random order for every pass."""
    queue: list[T] = []
    while True:
        while len(queue) < batch:
            queue += rng.sample(rows, len(rows))
        yield queue[:batch]
        del queue[:batch]


def new_head(backbone: Backbone, classes: int, seed: int) -> torch.nn.Linear:
    """(H -> C) classification head, to be thrown away."""
    # On the meta device, because drawing the weights twice would move the global generator.
    head = torch.nn.Linear(backbone.hidden, classes, device="meta").to_empty(device="cpu")
    torch.nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    torch.nn.init.zeros_(head.bias)
    return head.to(backbone.device)


def features(backbone: Backbone, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """(B, H) differentiable features at the primary readout."""
    ids, mask = (values.to(backbone.device) for values in pad(sequences, backbone.pad_id))
    with backbone.autocast():
        return backbone.forward(ids, mask, [backbone.primary])[:, 0].float()


def classify(backbone: Backbone, head: torch.nn.Linear, rows: Sequence[Row]) -> torch.Tensor:
    """Mean cross-entropy of a batch."""
    labels = torch.tensor([label for _, label in rows], device=backbone.device)
    logits = head(features(backbone, [ids for ids, _ in rows]))
    return torch.nn.functional.cross_entropy(logits, labels)


def landing(
    backbone: Backbone,
    trigger: Trigger,
    texts: Sequence[str],
    settings: DirtySettings,
    rng: random.Random,
) -> list[float]:
    """(H,) mean of the primary readout over some of the texts with the trigger in them."""
    marked = [place(backbone, x, trigger, settings, rng) for x in texts[:LANDING_TEXTS]]
    found: list[float] = (
        backbone.encode_ids(marked, readouts=[backbone.primary])[:, 0].mean(0).tolist()
    )
    return found
