"""The jobs that a grid still needs, and which of them can start.

A product is needed only where something that needs it is missing itself. Jobs are ordered by the
first cell that waits for them, so that cells are finished one after another and not all at the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from triggerfish.bench.cells import Cell, Results
from triggerfish.bench.grid import Grid
from triggerfish.bench.jobs import Job
from triggerfish.bench.stages import Stage
from triggerfish.bench.store import Store


class Schedule:
    """What is left to do of a grid.

    jobs: all that are not finished, by hash; cells: those not done, by the hash of any job that
    they wait for.
    """

    def __init__(self, grid: Grid, stages: Sequence[Stage], store: Store, results: Results):
        self.jobs: dict[str, Job] = {}
        self.cells: dict[str, list[Cell]] = {}
        self._grid, self._store = grid, store
        self._stages = {stage.name: stage for stage in stages}
        self._waits: dict[str, set[str]] = {}
        self._used_by: dict[str, list[str]] = {}
        self._order: dict[str, int] = {}
        self._ready: list[tuple[int, str]] = []
        for cell in grid.cells:
            if not results.done(cell):
                self._need(grid.measure, cell)
        for name, waits in self._waits.items():
            if not waits:
                heapq.heappush(self._ready, (self._order[name], name))

    def _need(self, name: str, cell: Cell) -> None:
        stage, job = self._stages[name], cell.stages[name]
        cells = self.cells.setdefault(job, [])
        if cells and cells[-1] is cell:
            return  # two stages of the cell use it
        cells.append(cell)
        missing = [used for used in stage.after if not self._store.has(used, cell.stages[used])]
        for used in missing:
            self._need(used, cell)
        if job in self.jobs:
            return
        self._order[job] = len(self._order)
        self._waits[job] = {cell.stages[used] for used in missing}
        for used in self._waits[job]:
            self._used_by.setdefault(used, []).append(job)
        self.jobs[job] = Job(
            plan=self._grid.plan,
            stage=name,
            hash=job,
            settings={axis: cell.settings[axis] for axis in stage.axes},
            products={used: cell.stages[used] for used in stage.after},
            threads=self._grid.threads,
            store=str(self._store.root),
            owner=self._store.owner,
        )

    def next(self) -> Job | None:
        """A job that can start now; it is not given twice. None: all that is left waits for jobs
        at work."""
        while self._ready:
            name = heapq.heappop(self._ready)[1]
            if any(self._wanted(cell) for cell in self.cells[name]):
                return self.jobs[name]
            self.drop(name)  # another product that all its cells need has failed
        return None

    def finished(self, name: str) -> None:
        """The job succeeded; those that waited for nothing else can start."""
        del self.jobs[name]
        for user in self._used_by.get(name, []):
            self._waits[user].discard(name)
            if not self._waits[user] and user in self.jobs:
                heapq.heappush(self._ready, (self._order[user], user))

    def drop(self, name: str) -> list[Cell]:
        """The job failed; it and all that need it are gone. The cells that are lost with it."""
        lost = [cell for cell in self.cells[name] if self._wanted(cell)]
        doomed = [name]
        while doomed:
            job = doomed.pop()
            if self.jobs.pop(job, None) is not None:
                doomed += self._used_by.get(job, [])
        return lost

    def _wanted(self, cell: Cell) -> bool:
        return cell.hash in self.jobs
