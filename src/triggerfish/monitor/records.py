"""What the guards around a model need of a monitor, and how they sum up what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, get_args

from triggerfish.records import Action, Alarm, Checked

SEVERITY: tuple[Action, ...] = get_args(Action)
SHOWN = 100
"""Spans of one alarm that a record holds: a hostile text may have hundreds of thousands."""


class Checks(Protocol):
    """A `Monitor`, or what stands for it."""

    def check_all(self, texts: Sequence[str]) -> list[Checked]: ...


def severest(checked: Iterable[Checked]) -> Action:
    """The severest action of several texts; "pass" for none."""
    return max((one.action for one in checked), key=SEVERITY.index, default="pass")


def record(alarm: Alarm) -> dict[str, Any]:
    """An alarm as plain JSON: its first `SHOWN` spans, and in `places` how many there are."""
    return {
        "trigger": alarm.trigger,
        "kind": alarm.kind,
        "spans": [list(span) for span in alarm.spans[:SHOWN]],
        "places": len(alarm.spans),
        "policy": alarm.policy,
        "seen_by": alarm.seen_by,
    }
