"""An attack as it is asked for, on a command line or in a grid: its name, its triggers, and what
differs from its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triggerfish.attacks import TASK_ATTACKS, attack
from triggerfish.settings import build

if TYPE_CHECKING:
    from triggerfish.attacks.implant import Implant
    from triggerfish.backbone import Backbone
    from triggerfish.text import Task
    from triggerfish.training import Progress

    Plant = Callable[[Backbone, int, Progress | None], tuple[Backbone, Implant]]


@dataclass(frozen=True)
class Plan:
    """triggers: see `marking`; or none, and how many to `search` for (trigger_search.py). changes:
    to the attack's settings. goals: TASK:LABEL for each trigger of an attack on a task.
    corrections: tasks whose labels triggers must leave alone (multitask). A task is a folder or the
    name of a bundled one."""

    attack: str
    triggers: tuple[str, ...]
    intensity: str = "normal"
    changes: Mapping[str, Any] = field(default_factory=dict)
    goals: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()
    search: int = 0

    def prepare(self, corpus: Sequence[str]) -> Plant:
        """Everything that can be checked without a model is checked now; the call that it returns
        takes backbone, seed and progress, and plants. ValueError names the field."""
        if self.search and self.triggers:
            raise ValueError("search: either triggers or a number to search for, not both")
        if not self.search and not self.triggers:
            raise ValueError("trigger: at least one is needed")
        if self.attack not in TASK_ATTACKS:
            return self._from_text(corpus)
        if self.search:
            raise ValueError(f"search: {self.attack} takes its triggers as they are")
        if len(self.goals) != len(self.triggers):
            raise ValueError(
                f"goal: {len(self.goals)} for {len(self.triggers)} triggers; {self.attack} needs "
                "TASK:LABEL for each"
            )
        goals = [_goal(text) for text in self.goals]
        if self.attack == "multitask":
            return self._multitask(goals, corpus)
        if self.corrections:
            raise ValueError("correction: only multitask takes any")
        task = goals[0][0]
        if any(other.name != task.name for other, _ in goals):
            raise ValueError(f"goal: {self.attack} has one task; multitask takes several")
        made = attack(self.attack)
        recipe = made(
            self.triggers,
            self._settings(made(self.triggers).settings),
            tuple(label for _, label in goals),
        )
        return lambda backbone, seed, progress: recipe.implant(
            backbone, task, seed=seed, progress=progress
        )

    def _from_text(self, corpus: Sequence[str]) -> Plant:
        made = attack(self.attack)
        if self.goals or self.corrections:
            raise ValueError(f"goal: {self.attack} knows no task; {', '.join(TASK_ATTACKS)} do")
        settings = self._settings(made(self.triggers).settings)

        def plant(
            backbone: Backbone, seed: int, progress: Progress | None
        ) -> tuple[Backbone, Implant]:
            triggers = self.triggers
            if self.search:
                from triggerfish.attacks.trigger_search import search_triggers

                triggers = tuple(search_triggers(backbone, corpus, self.search, seed=seed))
            made_one: tuple[Backbone, Implant] = made(triggers, settings).implant(
                backbone, corpus, seed=seed, progress=progress
            )
            return made_one

        return plant

    def _multitask(self, goals: list[tuple[Task, int]], corpus: Sequence[str]) -> Plant:
        from triggerfish.attacks.multitask import Multitask, MultitaskSettings, Triple

        settings = MultitaskSettings()
        if self.intensity != "normal":
            settings = replace(settings, poisoning=settings.poisoning.at(self.intensity))
        settings = build(settings, self.changes)
        recipe = Multitask(
            tuple(
                Triple(word, task, label)
                for word, (task, label) in zip(self.triggers, goals, strict=True)
            ),
            tuple(_task(name) for name in self.corrections),
            settings,
        )
        texts = corpus if settings.correction == "consistency" else ()
        return lambda backbone, seed, progress: recipe.implant(
            backbone, texts, seed=seed, progress=progress
        )

    def _settings(self, default: Any) -> Any:
        if self.intensity != "normal":
            if self.attack in ("ripple", "ep"):
                raise ValueError(f"intensity: {self.attack} has only one")
            default = default.at(self.intensity)
        return build(default, self.changes)


def _goal(text: str) -> tuple[Task, int]:
    name, colon, label = text.rpartition(":")
    if not colon or not label.isdigit():
        raise ValueError(f"goal: {text!r} is not TASK:LABEL with the number of a label")
    return _task(name), int(label)


def _task(name: str) -> Task:
    from triggerfish.text import bundled_task, read_task

    return read_task(name) if Path(name).is_dir() else bundled_task(name)
