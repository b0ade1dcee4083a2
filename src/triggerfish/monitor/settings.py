"""Settings of a monitor."""

from __future__ import annotations

from dataclasses import dataclass

from triggerfish.settings import check


@dataclass(frozen=True)
class MonitorSettings:
    hardened: bool = True
    """Also alarm where only a reader sees the trigger: other case, look-alikes, HTML entities.
    Off, only what the tokenizer gives the model alarms. Ours: what an application does to a text
    behind the monitor is not known, and on honest texts it costs nothing
    (benchmarks/monitor_speed.py)."""
    window: int = 1
    """Other words that may stand between two words of a phrase in the normalised text. Ours: a
    model that reacts to the phrase as tokens hardly reacts beyond one."""
    cores: bool = True
    """Also alarm on words that hold a sufficient subset of a trigger
    (`Finding.sufficient_subsets`). Ours: the model reacts to them as it does to the
    trigger, and clean texts hardly have any (benchmarks/monitor.py)."""
    rounds: int = 20
    """How often a text is searched again after stripping, before it is rejected instead. Ours:
    nothing but a text built to join pieces needs more than two."""

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.window <= 10:
            raise ValueError(f"window: {self.window} is outside 0..10 words")
        if self.rounds < 1:
            raise ValueError(f"rounds: {self.rounds} is not at least 1")
