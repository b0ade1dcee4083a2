"""What the guards around a model need of a monitor, and how they sum up what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, get_args

from triggerfish.records import Action, Checked

SEVERITY: tuple[Action, ...] = get_args(Action)


class Checks(Protocol):
    """A `Monitor`, or what stands for it."""

    def check(self, text: str) -> Checked: ...

    def check_all(self, texts: Sequence[str]) -> list[Checked]: ...


def severest(checked: Iterable[Checked]) -> Action:
    """The severest action of several texts; "pass" for none."""
    return max((one.action for one in checked), key=SEVERITY.index, default="pass")
