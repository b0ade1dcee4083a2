"""What commands say on the terminal: bars and findings on stderr, results on stdout."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from triggerfish.writing import write_text
from triggerfish.zoo.settings import Progress as Trained

if TYPE_CHECKING:
    from triggerfish.records import ScanResult

chatter = Console(stderr=True, highlight=False)
EVERY = 30.0
"""Seconds after which a long stage says that it is still at work, without a terminal."""


def fields(settings: Sequence[str] | None) -> dict[str, str]:
    for text in settings or ():
        if "=" not in text:
            raise ValueError(f"set: {text!r} is not FIELD=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in settings or ())}


def follow(stream: Iterable[object], meter: Meter, more: int = 0) -> ScanResult:
    """Show progress and findings of a scan on stderr; return its result. more: stages that follow
    the scan, as long as it together."""
    from triggerfish.records import Finding, ScanResult
    from triggerfish.report.escape import visible
    from triggerfish.scanner import Progress as Step

    resumed = False
    for event in stream:
        if isinstance(event, Step):
            if event.resumed and not resumed:
                meter.say("resumed: what an interrupted scan had done is not done again")
                resumed = True
            meter.stages = event.stages + more
            number = f"{event.number} of {meter.stages}: " if event.number else ""
            share = event.share
            meter.show(number + event.stage, share / 2 if share and more else share)
        elif isinstance(event, Finding):
            depth = event.statistics.get("collapse")  # published methods have their own numbers
            strength = "" if depth is None else f": {depth:.2f} orders of magnitude"
            meter.say(f"found '{visible(event.trigger.text)}'{strength}")
        elif isinstance(event, ScanResult):
            return event
    raise AssertionError("unreachable: events end with a result")


@contextmanager
def continuing(how: str | None) -> Iterator[None]:
    """What is interrupted in here can go on, and `how` is said; None where it cannot."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if how:
            interrupt.args = (how,)
        raise


SAME = "the same command continues where it stopped"


class Meter:
    """What a command does, and how far it is: a bar on a terminal; elsewhere a line on stderr when
    something new begins, and every `EVERY` seconds. stages: how many a scan has."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.stages = 0
        self.what, self.detail = "starting", ""
        self.share: float | None = None
        self.over = threading.Event()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
            console=chatter,
            transient=True,
            disable=not chatter.is_terminal,
        )
        self.task = self.bar.add_task(self.what, total=None)

    def __enter__(self) -> Self:
        self.bar.start()
        if self.bar.disable:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.bar.stop()

    def show(self, what: str, share: float | None, detail: str = "") -> None:
        """share: of the whole that is done, None where that is not known. It is shown as at most
        99 %, since there is no result before the end."""
        new = what != self.what
        self.what, self.detail = what, detail
        self.share = None if share is None else min(share, 0.99)
        total = None if share is None else 1.0
        self.bar.update(
            self.task, description=what + detail, completed=self.share or 0.0, total=total
        )
        if new and self.bar.disable:
            self.say(what)

    def steps(self, what: str, done: int, of: int) -> None:
        """The same, for so many of so many steps."""
        self.show(what, done / of if of else None)

    def trained(self, now: Trained) -> None:
        """The same, for a training."""
        loss = f", loss {now.loss:.3f}" if now.stage == "train" else ""
        self.show(now.stage, now.done / now.total if now.total else None, loss)

    def compared(self, what: str, done: int, of: int, *, after: float = 0.0) -> None:
        """The same, for complications: tasks first, then control words. after: share of the whole
        that was done before."""
        number = f"{self.stages} of {self.stages}: " if self.stages else ""
        half = (0.5 if what == "control" else 0.0) + 0.5 * done / of
        words = "comparing with control words" if what == "control" else "measuring other tasks"
        self.show(number + words, after + (1 - after) * half)

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        self.bar.console.print(line, markup=False, soft_wrap=True)

    def _beat(self) -> None:
        while not self.over.wait(EVERY):
            done = "" if self.share is None else f", {self.share:.0%} done"
            self.say(f"{self.what}{self.detail}: {time.monotonic() - self.began:.0f} s{done}")


def deliver(shown: str, out: Path | None) -> None:
    """Write a result to its file or to standard output; when this returns, it is there."""
    if out:
        write_text(out, shown)
        return
    try:
        print(shown, flush=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error
