"""How often does each trigger alarm on texts that nobody attacked? A trigger that is an ordinary
word costs its users; counting on their own texts, before it is switched on, tells how much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from triggerfish.monitor.monitor import Monitor
from triggerfish.records import Action, Checked, Measurement

BUDGET = 0.001
"""Share of ordinary texts that a trigger may alarm on. Ours: one in a thousand is what rare words
such as "zugzwang" stay far below and ordinary ones such as "lantern" do not always."""


@dataclass(frozen=True)
class FalseAlarms:
    """Alarms on `texts` texts. overall: texts with any alarm; triggers: texts with that one, by
    `Trigger.text`; actions: texts by what was to be done; over: triggers above the budget."""

    texts: int
    overall: Measurement
    triggers: dict[str, Measurement]
    actions: dict[Action, int]
    budget: float

    @property
    def over(self) -> tuple[str, ...]:
        return tuple(name for name, rate in self.triggers.items() if rate.rate > self.budget)

    def warnings(self) -> list[str]:
        """One sentence for each trigger above the budget."""
        return [
            f"{name!r} alarms on {counted(self.triggers[name])}: above the budget of "
            f"{self.budget:.2%}. If these texts are ordinary ones, so is the word: flag or strip "
            "it, or have its alarms confirmed"
            for name in self.over
        ]


class Tally:
    """Counts what a monitor said, text by text."""

    def __init__(self, monitor: Monitor, budget: float = BUDGET):
        if not 0 <= budget <= 1:
            raise ValueError(f"budget: {budget} is not a share of texts, 0 to 1")
        self.budget = budget
        self.texts = 0
        self._triggers = Counter({trigger.text: 0 for trigger in monitor.triggers})
        self._actions: Counter[Action] = Counter()

    def add(self, checked: Checked) -> None:
        self.texts += 1
        self._actions[checked.action] += 1
        if checked.alarms:
            self._triggers.update({alarm.trigger for alarm in checked.alarms})

    def result(self) -> FalseAlarms:
        quiet = self._actions["pass"]
        return FalseAlarms(
            self.texts,
            Measurement(self.texts - quiet, self.texts),
            {name: Measurement(k, self.texts) for name, k in self._triggers.items()},
            dict(self._actions),
            self.budget,
        )


def measure(monitor: Monitor, texts: Iterable[str], *, budget: float = BUDGET) -> FalseAlarms:
    """Alarms on texts that carry no planted trigger; the monitor's `confirm` has its say.

    budget: share of texts that a trigger may alarm on. ValueError for no texts.
    """
    tally = Tally(monitor, budget)
    for text in texts:
        tally.add(monitor.check(text))
    if not tally.texts:
        raise ValueError("texts: there is none, so there is no rate")
    return tally.result()


def counted(rate: Measurement) -> str:
    """A rate for people: what was counted, and its exact interval."""
    if not rate.n:
        return "0 of 0 texts"
    low, high = rate.interval
    return f"{rate.k} of {rate.n} texts (95 % interval {low:.3%} to {high:.3%})"
