"""Cells of a grid and their records: in OUT/cells.jsonl when measured, in OUT/failed.jsonl when the
last attempt failed.

A cell's hash is that of the stage that measures it, so it covers all settings, the versions of all
stages on the way, and the number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from triggerfish.bench.files import Record, RecordFile
from triggerfish.bench.stages import Value

SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """One combination of settings. stages: the hash of each stage's product, the measuring stage
    last."""

    settings: dict[str, Value]
    stages: dict[str, str]

    @property
    def hash(self) -> str:
        return list(self.stages.values())[-1]


@dataclass(frozen=True)
class Failure:
    """Why a stage did not finish: one line, and the traceback."""

    stage: str
    error: str
    traceback: str


class Results:
    """The records of cells in a folder, as they are on disk when this is made; only the run that
    holds the folder's lock may write."""

    def __init__(self, out: Path):
        self._out = out
        self._files = {kind: RecordFile(out / f"{kind}.jsonl") for kind in ("cells", "failed")}
        self._found = {kind: file.read() for kind, file in self._files.items()}

    def done(self, cell: Cell) -> bool:
        return cell.hash in self._found["cells"]

    def failed(self, cell: Cell) -> bool:
        return cell.hash in self._found["failed"] and not self.done(cell)

    def read(self, cell: Cell) -> Record | None:
        """What `write` wrote, or None; ValueError names a record that is no such thing."""
        return self._read("cells", cell, ("result", "environment", "seconds"))

    def read_failure(self, cell: Cell) -> Failure | None:
        found = self._read("failed", cell, ("stage", "error", "traceback"))
        if found is None:
            return None
        return Failure(found["stage"], found["error"], found["traceback"])

    def write(
        self,
        cell: Cell,
        result: Mapping[str, Value],
        *,
        threads: int,
        seconds: float,
        environment: Mapping[str, str],
    ) -> None:
        """Record a measurement; `seconds` of the measuring stage alone."""
        content = {
            "schema": SCHEMA,
            "settings": cell.settings,
            "threads": threads,
            "result": result,
            "stages": cell.stages,
            "environment": environment,
            "seconds": seconds,
        }
        self._write("cells", cell, content)

    def write_failure(self, cell: Cell, failure: Failure, *, threads: int) -> None:
        content = {
            "schema": SCHEMA,
            "settings": cell.settings,
            "threads": threads,
            "stage": failure.stage,
            "error": failure.error,
            "traceback": failure.traceback,
        }
        self._write("failed", cell, content)

    def others(self, cells: Sequence[Cell]) -> int:
        """How many measured cells lie here that are not among `cells`."""
        return len(self._found["cells"].keys() - {cell.hash for cell in cells})

    def tidy(self) -> None:
        """Order the files, and forget the failures of cells that are measured now."""
        self._files["cells"].tidy()
        self._files["failed"].tidy(without=self._found["cells"])

    def clean(self) -> None:
        """Remove half-written files; only for the run that holds the folder's lock."""
        for file in self._out.glob("*.partial"):
            file.unlink()

    def _write(self, kind: str, cell: Cell, content: Record) -> None:
        self._files[kind].append(cell.hash, content)
        self._found[kind][cell.hash] = content

    def _read(self, kind: str, cell: Cell, fields: tuple[str, ...]) -> Record | None:
        content = self._found[kind].get(cell.hash)
        if content is None:
            return None
        where = f"{self._files[kind].path}: record {cell.hash}"
        if content.get("schema") != SCHEMA:
            raise ValueError(f"{where}: expected schema {SCHEMA}, got {content.get('schema')!r}")
        for name in fields:
            if name not in content:
                raise ValueError(f"{where}: {name} is missing")
        return content


def label(settings: Mapping[str, Value], axes: Sequence[str]) -> str:
    """`axes` of a cell on one line: "task=imdb seed=0"."""
    return " ".join(f"{axis}={plain(settings[axis])}" for axis in axes)


def plain(value: Value) -> str:
    """A value of an axis as a grid would say it; hostile characters stay as they are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "+".join(map(plain, value))
    return value if isinstance(value, str) else json.dumps(value)


def varying(cells: Sequence[Cell]) -> list[str]:
    """The axes that have more than one value among `cells`."""
    if not cells:
        return []
    first = cells[0].settings
    return [axis for axis in first if any(cell.settings[axis] != first[axis] for cell in cells)]
