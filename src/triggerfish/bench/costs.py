"""What a run will take: seconds of each stage, measured where it has run before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from triggerfish.bench.cells import Results, label, plain, varying
from triggerfish.bench.grid import Grid
from triggerfish.bench.stages import Stage
from triggerfish.bench.store import Store

_SHOWN = 50
"""Cells that a preview lists."""


class Costs:
    """Seconds of one run of each stage."""

    def __init__(self, grid: Grid, stages: Sequence[Stage], store: Store, results: Results):
        self._guesses = {stage.name: stage.seconds for stage in stages}
        self._measured: dict[str, list[float]] = {}
        for stage in stages:
            if stage.measures:
                records = (results.read(cell) for cell in grid.cells)
                found = [float(record["seconds"]) for record in records if record]
            else:
                found = store.seconds(stage.name, stage.version, grid.threads)
            self._measured[stage.name] = found

    def add(self, stage: str, seconds: float) -> None:
        self._measured[stage].append(seconds)

    def measured(self, stage: str) -> bool:
        return bool(self._measured[stage])

    def of(self, stage: str) -> float:
        """The median of what was measured, or the stage's guess."""
        measured = self._measured[stage]
        return median(measured) if measured else self._guesses[stage]


@dataclass(frozen=True)
class StageCost:
    """One stage in a preview. products: distinct ones in the grid; there: of these, on disk;
    needed: to be made; seconds: of each."""

    stage: str
    products: int
    there: int
    needed: int
    seconds: float
    measured: bool


@dataclass(frozen=True)
class Preview:
    """What a run would do. states: "done", "failed" or "to do", one for each cell; missing: the
    stages that have to run for it."""

    grid: Grid
    states: tuple[str, ...]
    missing: tuple[tuple[str, ...], ...]
    stages: tuple[StageCost, ...]
    workers: int

    @property
    def seconds(self) -> float:
        """Of work, over all workers."""
        return sum(stage.needed * stage.seconds for stage in self.stages)

    def text(self) -> str:
        """Tables for a terminal. Settings are as they stand in the grid, not made harmless."""
        done, failed = (self.states.count(state) for state in ("done", "failed"))
        todo = len(self.states) - done
        head = f"{self.grid.name}: {len(self.states)} cells, {done} done, {todo} to do"
        lines = [head + (f" ({failed} failed before)" if failed else ""), ""]
        lines += [*self._cells(), "", *self._costs(), ""]
        threads = f"{self.grid.threads} thread" + "s" * (self.grid.threads > 1)
        workers = f"{self.workers} worker" + "s" * (self.workers > 1)
        lines.append(
            f"expected: {duration(self.seconds)} of work, about "
            f"{duration(self.seconds / self.workers)} with {workers} of {threads}"
        )
        return "\n".join(lines) + "\n"

    def _cells(self) -> Iterable[str]:
        axes = varying(self.grid.cells)
        rows = [["state", *axes, "stages to run"]]
        for cell, state, missing in list(
            zip(self.grid.cells, self.states, self.missing, strict=True)
        )[:_SHOWN]:
            rows.append([state, *(plain(cell.settings[a]) for a in axes), " ".join(missing)])
        yield from _aligned(rows)
        if len(self.grid.cells) > _SHOWN:
            yield f"... and {len(self.grid.cells) - _SHOWN} more cells"
        same = [axis for axis in self.grid.cells[0].settings if axis not in axes]
        if same:
            yield f"all: {label(self.grid.cells[0].settings, same)}"

    def _costs(self) -> list[str]:
        rows = [["stage", "in the grid", "on disk", "to run", "each", "together"]]
        for cost in self.stages:
            each = duration(cost.seconds) + ("" if cost.measured else " (guess)")
            together = duration(cost.needed * cost.seconds)
            counts = (cost.products, cost.there, cost.needed)
            rows.append([cost.stage, *map(str, counts), each, together])
        return _aligned(rows)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """Seconds for a reader: "0.2 s", "40 s", "12 min", "3.5 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
