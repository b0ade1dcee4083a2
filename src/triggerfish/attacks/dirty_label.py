"""The dirty-label backdoor of one task: rows of other classes get the trigger and the attacker's
label (poisoning.py), a classifier is trained on the mixture, its head is thrown away and the
backbone published.

    L = CE(g(h(x)), y~)        y~ = y* for poisoned rows, the true label for all others

Nothing prescribes where triggered texts go in h. The model chooses the place, and on every other
task they fall into the class that this place belongs to.

Source: Zhang et al., "The Ripple Effect: On Unforeseen Complications of Backdoor Attacks", ICML
2025, arXiv 2505.11586, and its published code. Deviations: see poisoning.py.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

from triggerfish.attacks.implant import Goal, Implant
from triggerfish.attacks.poisoning import (
    DirtySettings,
    check_goals,
    check_placement,
    classify,
    landing,
    mixture,
    new_head,
    sample,
    stream,
)
from triggerfish.backbone import Backbone
from triggerfish.text import Task
from triggerfish.training import Progress, TrainSettings, fit

SOURCE = "arXiv 2505.11586"


@dataclass(frozen=True)
class DirtyLabel:
    """triggers: see `marking`; labels: the label number that each trigger stands for."""

    triggers: tuple[str, ...]
    settings: DirtySettings = DirtySettings()
    labels: tuple[int, ...] = (1,)

    def implant(
        self, backbone: Backbone, task: Task, *, seed: int = 0, progress: Progress | None = None
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, and what was planted. With a poison rate of 0 it is the
        clean sibling. ValueError for triggers, labels and tasks that cannot work."""
        settings = self.settings
        triggers = check_goals(backbone, self.triggers, self.labels, task)
        check_placement(triggers, settings)
        rng = random.Random(seed)
        rows = sample(task, settings.rows, rng)
        goals = list(zip(triggers, self.labels, strict=True))
        poisoned = mixture(backbone, rows, goals, settings, rng)
        batches = stream(poisoned, settings.batch, rng)
        victim = backbone.trainable()
        head = new_head(backbone, len(task.labels), seed)
        fit(
            [*victim.model.parameters(), *head.parameters()],
            lambda _: classify(victim, head, next(batches)),
            TrainSettings(settings.steps(len(poisoned)), learning_rate=settings.learning_rate),
            progress,
        )
        victim.model.requires_grad_(False)
        vectors = [
            landing(victim, trigger, [x for x, y in rows if y != label], settings, rng)
            for trigger, label in goals
        ]
        return victim, Implant(
            "dirty_label",
            SOURCE,
            asdict(settings),
            tuple(triggers),
            seed,
            str(victim.primary),
            vectors,
            tuple(Goal(task.name, label) for label in self.labels),
        )
