"""Progress of a run for a terminal, or as one line for each job that ended where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from triggerfish.bench.costs import duration
from triggerfish.bench.runner import Progress
from triggerfish.report.escape import shorten, visible

_WIDTH = 60


@contextmanager
def watch(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show on `console`, until the block ends, what `run_grid` tells the callback that this gives.

    The console should be that of standard error.
    """
    bar = Bar(
        TextColumn(
            "{task.completed:.0f}/{task.total:.0f} cells", table_column=Column(no_wrap=True)
        ),
        BarColumn(20),
        _Remaining(table_column=Column(no_wrap=True)),
        # A narrow terminal cuts the jobs, not the counts.
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        expand=True,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("starting", total=1, until=None, failed=0)

    def show(now: Progress) -> None:
        ended = now.skipped + now.done + now.failed
        if now.news:
            line = f"[{ended}/{now.total}] {now.news}" if bar.disable else now.news
            if bar.disable or now.news.startswith("failed"):
                console.print(visible(line), markup=False, highlight=False, soft_wrap=True)
        bar.update(
            task,
            description=_jobs(now.current),
            completed=ended,
            total=now.total,
            until=time.monotonic() + now.remaining,
            failed=now.failed,
        )

    with bar:
        yield show


def _jobs(current: tuple[str, ...]) -> str:
    first = shorten(current[0], _WIDTH) if current else ""
    return first + (f" and {len(current) - 1} more" if len(current) > 1 else "")


class _Remaining(ProgressColumn):
    """Time left, counted down between the runner's estimates, and failed cells."""

    def render(self, task: Task) -> Text:
        until, failed = task.fields["until"], task.fields["failed"]
        left = "" if until is None else f"{duration(max(0.0, until - time.monotonic()))} left"
        return Text(left + (f", {failed} failed" if failed else ""))
