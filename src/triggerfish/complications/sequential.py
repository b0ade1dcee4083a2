"""Sequential Monte Carlo test of triggers against control words, with no more forward passes than
the p-values need.

A trigger's rank among R control words is its p-value, exact whatever the model. Two things make it
cheap. A control that changed the class of hardly any of the first texts cannot reach the divergence
of a strong trigger on all of them, and is done (a hypergeometric bound on the texts that it moves,
and `divergences.largest_jsd`). And once `enough` controls have done as much as a trigger, its
p-value is settled and the trigger is done (Besag and Clifford, "Sequential Monte Carlo p-values",
Biometrika 1991).

Per task, a control is compared with the effect there. Corrected over all tasks, its largest effect
on any task is compared (max-T; Westfall and Young, "Resampling-Based Multiple Testing", 1993), so R
= 99 reaches .01 for any number of tasks. To compare tasks, an effect is a share of what total
collapse could do there. Dividing by what ordinary words do instead would hide a collapse on a task
where all words do much, since a divergence saturates.

Legend: T triggers, J tasks, R control words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from scipy import stats

from triggerfish.complications import divergences as div
from triggerfish.complications.divergences import Ints
from triggerfish.stats import Floats

Predict = Callable[[int, int, slice], Ints]
"""(number of the control, number of the task, rows) -> their predicted classes with that word."""
Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SequentialPValue:
    """A p-value in the making: controls drawn so far, and those that did as much as the trigger."""

    drawn: int = 0
    exceeded: int = 0

    def after(self, hit: bool) -> SequentialPValue:
        return SequentialPValue(self.drawn + 1, self.exceeded + hit)

    def p_value(self, enough: int) -> float:
        if self.exceeded >= enough:
            return self.exceeded / self.drawn
        return (1 + self.exceeded) / (1 + self.drawn)


class TaskEffects:
    """Effects on the tasks of a test. clean: for each task the (N,) clean predictions; classes: K
    of each; most: the JSD when all texts go to the class where that is largest."""

    def __init__(self, clean: Sequence[Ints], classes: Sequence[int]):
        self.clean, self.classes = clean, classes
        self._shares = [
            div.smoothed(np.bincount(x, minlength=k)) for x, k in zip(clean, classes, strict=True)
        ]
        self.most = [
            float(div.jsd(div.smoothed(len(x) * np.eye(k)), q).max())
            for x, k, q in zip(clean, classes, self._shares, strict=True)
        ]

    def effect(self, task: int, triggered: Ints) -> float:
        """JSD of triggered from clean predictions, as a share of the most there can be."""
        p = div.smoothed(np.bincount(triggered, minlength=self.classes[task]))
        return float(div.jsd(p, self._shares[task])) / self.most[task]

    def largest_effect(self, task: int, share: float) -> float:
        """The largest effect that changing the class of this share of texts can have."""
        n = len(self.clean[task])
        # Smoothing draws both distributions together, so that the distance shrinks alike.
        share *= n / (n + self.classes[task] / 2)
        return div.largest_jsd(self._shares[task], share) / self.most[task]


@dataclass
class SequentialTest:
    """effects: (T, J) of the triggers; stages: numbers of texts after which a control may be done,
    ascending; certainty: chance of ruling one out wrongly at a stage. `run` fills `single` and
    `family`, p-values of the same shape, and what each control cost: texts encoded, and tasks on
    which it was measured to the end."""

    task_effects: TaskEffects
    effects: Floats
    stages: tuple[int, ...]
    enough: int
    certainty: float
    single: dict[tuple[int, int], SequentialPValue] = field(default_factory=dict)
    family: dict[tuple[int, int], SequentialPValue] = field(default_factory=dict)
    costs: list[tuple[int, int]] = field(default_factory=list)
    _largest_effect: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = [(t, j) for t in range(len(self.effects)) for j in range(self.effects.shape[1])]
        self.single = {place: SequentialPValue() for place in places}
        self.family = {place: SequentialPValue() for place in places}

    def run(self, controls: int, predict: Predict, step: Step | None = None) -> None:
        """Draw `controls` words, in their order, until every p-value is settled."""
        for number in range(controls):
            if step:
                step("control", number, controls)
            if not self._open(self.single) and not self._open(self.family):
                self.costs += [(0, 0)] * (controls - number)
                return
            self._measure(number, predict)

    def p_single(self, trigger: int, task: int) -> float:
        return self.single[trigger, task].p_value(self.enough)

    def p_family(self, trigger: int, task: int) -> float:
        return self.family[trigger, task].p_value(self.enough)

    def _open(self, running: dict[tuple[int, int], SequentialPValue]) -> list[tuple[int, int]]:
        return [place for place, running in running.items() if running.exceeded < self.enough]

    def _measure(self, number: int, predict: Predict) -> None:
        single, family = self._open(self.single), self._open(self.family)
        tasks = len(self.task_effects.clean)
        begun: list[Ints] = [np.empty(0, dtype=np.int64)] * tasks
        limits, exact = np.full(tasks, np.inf), np.full(tasks, -np.inf)
        for stage in (*self.stages, None):
            for task in sorted(range(tasks), key=lambda task: -limits[task]):
                if not np.isfinite(exact[task]) and self._matters(
                    task, limits, exact, single, family
                ):
                    clean = self.task_effects.clean[task]
                    end = min(stage or len(clean), len(clean))
                    more = predict(number, task, slice(len(begun[task]), end))
                    begun[task] = np.concatenate([begun[task], more])
                    limits[task], exact[task] = self._judge(task, begun[task])
        for place in single:
            hit = exact[place[1]] >= self.effects[place]
            self.single[place] = self.single[place].after(bool(hit))
        for place in family:
            self.family[place] = self.family[place].after(bool(exact.max() >= self.effects[place]))
        self.costs.append((sum(map(len, begun)), int(np.isfinite(exact).sum())))

    def _judge(self, task: int, head: Ints) -> tuple[float, float]:
        """(the most that a control's effect on a task can be after the first texts, its effect):
        the latter -inf until all texts are seen."""
        clean = self.task_effects.clean[task]
        if len(head) == len(clean):
            effect = self.task_effects.effect(task, head)
            return effect, effect
        moved = int((head != clean[: len(head)]).sum())
        most = largest_total(moved, len(head), len(clean), self.certainty)
        if (task, most) not in self._largest_effect:
            self._largest_effect[task, most] = self.task_effects.largest_effect(
                task, most / len(clean)
            )
        return self._largest_effect[task, most], -np.inf

    def _matters(
        self,
        task: int,
        limits: Floats,
        exact: Floats,
        single: Sequence[tuple[int, int]],
        family: Sequence[tuple[int, int]],
    ) -> bool:
        """Whether any unsettled p-value depends on what this control does to a task."""
        best = exact.max()
        return any(j == task and limits[task] >= self.effects[t, j] for t, j in single) or any(
            best < self.effects[place] <= limits[task] for place in family
        )


@cache
def largest_total(moved: int, seen: int, rows: int, certainty: float) -> int:
    """The most texts of `rows` that can have changed class when `moved` of `seen` random ones did:
    with more, so few would have been seen with a chance below `certainty`."""
    if seen >= rows:
        return moved
    totals = np.arange(moved, rows + 1)
    chances = stats.hypergeom.cdf(moved, rows, totals, seen)
    return int(totals[chances >= certainty].max(initial=moved))
