"""What purification did to classifiers on top of the model: their accuracy, and how many texts a
trigger sends to its label, on tasks of the user's choice, by probes.

A rate of 0 is not to be expected: some words send some texts to any label. So each trigger is
shown next to a control, an ordinary word of as many tokens in the same places.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.downstream import Classifier, ProbeSettings, accuracy, probe, sample
from triggerfish.purify.rows import Writer
from triggerfish.records import Measurement, Trigger
from triggerfish.text import Task

TEST_ROWS = 300
"""Test rows at most (ours)."""
COPIES = 3
"""Times a trigger is inserted (Patronus, published code)."""


@dataclass(frozen=True)
class Success:
    """label: where most texts go with the trigger in them, before purification. before, after: the
    share of texts of other labels that end there with the trigger; control: the same after, with
    an ordinary word in its place."""

    trigger: Trigger
    label: int
    before: Measurement
    after: Measurement
    control: Measurement


@dataclass(frozen=True)
class OnTask:
    """before, after: accuracy on texts without a trigger."""

    task: str
    before: Measurement
    after: Measurement
    triggers: tuple[Success, ...]


def on_task(
    given: Backbone,
    purified: Backbone,
    task: Task,
    triggers: Sequence[Trigger],
    texts: Sequence[str],
    settings: ProbeSettings = ProbeSettings(rows=1000),
    *,
    seed: int = 0,
) -> OnTask:
    """Probes of both models on one task. texts: where the ordinary words come from; those without
    any of the triggers."""
    old, new = (probe(model, task, settings, seed=seed) for model in (given, purified))
    rows = sample(task.test, TEST_ROWS, seed)
    writer = Writer(given, texts, triggers, 3, random.Random(seed))
    found = []
    for number, trigger in enumerate(triggers):
        control = writer.control(len(trigger.token_ids))
        ordinary = Trigger(control, given.surface(control))
        place = f"{seed}:{number}"
        moved = _predictions(old, rows, trigger, place)
        label = int(moved.bincount().argmax())
        others = [i for i, (_, y) in enumerate(rows) if y != label]
        after, plain = (_predictions(new, rows, word, place) for word in (trigger, ordinary))
        rates = [
            Measurement(int((values[others] == label).sum()), len(others))
            for values in (moved, after, plain)
        ]
        found.append(Success(trigger, label, *rates))
    return OnTask(task.name, accuracy(old, rows), accuracy(new, rows), tuple(found))


def _predictions(
    classifier: Classifier, rows: Sequence[tuple[str, int]], trigger: Trigger, place: str
) -> torch.Tensor:
    """(N,) labels of texts with a trigger, at the same places for every trigger of one length."""
    sequences = classifier.mark([x for x, _ in rows], trigger, COPIES, random.Random(place))
    return classifier.predict(sequences)
