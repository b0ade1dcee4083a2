"""Runs a grid: what is missing is done, what failed is recorded, and it can be killed anywhere.

Nothing is kept in memory that is not on disk too: a product is there when its folder is, a cell
when its record is. So a run that was killed, and one that was never started, differ only in how
much is left.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from triggerfish import folders
from triggerfish.bench.cells import Failure, Results, label, varying
from triggerfish.bench.costs import Costs, Preview, StageCost
from triggerfish.bench.grid import FILE, Grid, read_grid, stages_of
from triggerfish.bench.jobs import Executor, Job, Outcome
from triggerfish.bench.lock import exclusive
from triggerfish.bench.schedule import Schedule
from triggerfish.bench.stages import Stage
from triggerfish.bench.store import Store, new_owner
from triggerfish.writing import write_json


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Cells: total = skipped (were there) + done + failed + what is left.

    current: the jobs at work, each on one line; remaining: seconds; news: one line about what has
    just ended, or "". Settings of the grid stand in the lines as they are, not made harmless.
    """

    total: int
    skipped: int
    done: int
    failed: int
    current: tuple[str, ...]
    remaining: float
    news: str = ""


@dataclass(frozen=True)
class Summary:
    """How a run ended, in cells: measured now, failed, and skipped because they were measured
    before. preview: what a dry run would do, where only that was asked for."""

    total: int
    done: int
    failed: int
    skipped: int
    preview: Preview | None = None

    @property
    def exit_code(self) -> int:
        """0, or 1 where cells failed."""
        return 1 if self.failed else 0


def run_grid(
    grid_path: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
    executor: Executor | None = None,
) -> Summary:
    """Do what is missing of the grid, write the cells and tables below `out`.

    store: root of the products, which may serve many grids; the user's cache by default. workers:
    local processes; by default as many as cores and memory hold. executor: does the jobs instead
    of local processes, and is shut down at the end. ValueError where the grid is wrong or another
    run works in `out`. SIGINT and SIGTERM end the workers and raise KeyboardInterrupt.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    grid = read_grid(Path(grid_path))
    stages = stages_of(grid)
    folder = Path(out)
    products = Store(Path(store).resolve() if store else folders.artifacts(), new_owner())
    if dry_run:
        preview = _preview(grid, stages, products, Results(folder), workers)
        todo = len(grid.cells) - preview.states.count("done")
        return Summary(len(grid.cells), 0, 0, len(grid.cells) - todo, preview)
    with _interruptible(), exclusive(folder):
        results = Results(folder)
        products.clean()
        results.clean()
        write_json(folder / FILE, grid.to_json())
        run = _Run(grid, stages, products, results, progress)
        used = executor or _local(stages, run.schedule, workers)
        try:
            run.work(used)
        finally:
            used.shutdown()
            products.clean()
            results.tidy()
        _render(folder)
    return Summary(len(grid.cells), run.done, run.failed, run.skipped)


class _Run:
    def __init__(
        self,
        grid: Grid,
        stages: tuple[Stage, ...],
        store: Store,
        results: Results,
        progress: Callable[[Progress], None] | None,
    ):
        self.grid, self.results = grid, results
        self.schedule = Schedule(grid, stages, store, results)
        self.costs = Costs(grid, stages, store, results)
        self.progress = progress
        self.axes = varying(grid.cells)
        self.reach = _reach(stages)
        self.running: dict[str, float] = {}
        self.done = self.failed = 0
        self.skipped = sum(map(results.done, grid.cells))

    def work(self, executor: Executor) -> None:
        """Until nothing is left."""
        while True:
            while len(self.running) < executor.slots and (job := self.schedule.next()):
                self.running[job.hash] = time.monotonic()
                executor.submit(job)
            self._tell(executor)
            if not self.running:
                return
            for outcome in executor.wait():
                job = self.schedule.jobs[outcome.hash]
                del self.running[job.hash]
                if outcome.error:
                    self._failed(job, outcome)
                else:
                    self._finished(job, outcome)
                self._tell(executor, self._news(job, outcome))

    def _finished(self, job: Job, outcome: Outcome) -> None:
        if job.stage == self.grid.measure:
            assert outcome.result is not None
            assert outcome.environment is not None
            self.results.write(
                self.schedule.cells[job.hash][0],
                outcome.result,
                threads=job.threads,
                seconds=outcome.seconds,
                environment=outcome.environment,
            )
            self.done += 1
        if outcome.seconds:
            self.costs.add(job.stage, outcome.seconds)
        self.schedule.finished(job.hash)

    def _failed(self, job: Job, outcome: Outcome) -> None:
        failure = Failure(job.stage, outcome.error, outcome.traceback)
        for cell in self.schedule.drop(job.hash):
            self.results.write_failure(cell, failure, threads=job.threads)
            self.failed += 1

    def _news(self, job: Job, outcome: Outcome) -> str:
        if outcome.error:
            return f"failed: {self._label(job)}: {outcome.error}"
        return f"{self._label(job)}: {outcome.seconds:.1f} s"

    def _label(self, job: Job) -> str:
        settings = self.schedule.cells[job.hash][0].settings
        axes = [axis for axis in self.axes if axis in self.reach[job.stage]]
        return f"{job.stage} {label(settings, axes)}".strip()

    def _tell(self, executor: Executor, news: str = "") -> None:
        if not self.progress:
            return
        now = time.monotonic()
        left = sum(count * self.costs.of(stage) for stage, count in self._stages_left().items())
        for name, started in self.running.items():
            left -= min(now - started, self.costs.of(self.schedule.jobs[name].stage))
        self.progress(
            Progress(
                total=len(self.grid.cells),
                skipped=self.skipped,
                done=self.done,
                failed=self.failed,
                current=tuple(self._label(self.schedule.jobs[name]) for name in self.running),
                remaining=left / executor.slots,
                news=news,
            )
        )

    def _stages_left(self) -> Counter[str]:
        return Counter(job.stage for job in self.schedule.jobs.values())


def _reach(stages: tuple[Stage, ...]) -> dict[str, set[str]]:
    """All axes that each stage depends on, also through the products it uses."""
    found: dict[str, set[str]] = {}
    for stage in stages:
        found[stage.name] = set(stage.axes).union(*(found[name] for name in stage.after))
    return found


def _preview(
    grid: Grid, stages: tuple[Stage, ...], store: Store, results: Results, workers: int | None
) -> Preview:
    schedule = Schedule(grid, stages, store, results)
    costs = Costs(grid, stages, store, results)
    states, missing = [], []
    for cell in grid.cells:
        failed = "failed" if results.failed(cell) else "to do"
        states.append("done" if results.done(cell) else failed)
        missing.append(tuple(s for s, name in cell.stages.items() if name in schedule.jobs))
    rows = []
    for stage in stages:
        products = {cell.stages[stage.name] for cell in grid.cells}
        if stage.measures:
            there = states.count("done")
        else:
            there = sum(store.has(stage.name, product) for product in products)
        needed = sum(job.stage == stage.name for job in schedule.jobs.values())
        seconds, known = costs.of(stage.name), costs.measured(stage.name)
        rows.append(StageCost(stage.name, len(products), there, needed, seconds, known))
    count = workers or _workers(stages, schedule)
    return Preview(grid, tuple(states), tuple(missing), tuple(rows), count)


def _workers(stages: tuple[Stage, ...], schedule: Schedule) -> int:
    from triggerfish.bench.local import worker_count

    needed = {job.stage for job in schedule.jobs.values()}
    memory = max((stage.memory for stage in stages if stage.name in needed), default=1.0)
    threads = max((job.threads for job in schedule.jobs.values()), default=1)
    return min(worker_count(threads, memory), max(1, len(schedule.jobs)))


def _local(stages: tuple[Stage, ...], schedule: Schedule, workers: int | None) -> Executor:
    from triggerfish.bench.local import LocalExecutor

    return LocalExecutor(workers or _workers(stages, schedule))


def _render(out: Path) -> None:
    from triggerfish.bench.page import render  # scipy takes a second, a dry run need not wait

    render(out)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, once: the cleaning up is not interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    signals = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> Any:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        if callable(handler := before[number]):
            handler(number, frame)  # the program's, which knows the exit code
        raise KeyboardInterrupt

    before: dict[int, Any] = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
