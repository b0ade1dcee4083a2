"""Cells of a grid and their files: OUT/cells/<hash>.json when measured, OUT/failed/<hash>.json when
the last attempt failed.

A cell's hash is that of the stage that measures it, so it covers all settings, the versions of all
stages on the way, and the number of threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """The files of the cells below a folder."""

    def __init__(self, out: Path):
        self.out = out

    def done(self, cell: Cell) -> bool:
        return self._file("cells", cell).is_file()

    def failed(self, cell: Cell) -> bool:
        return self._file("failed", cell).is_file()

    def read(self, cell: Cell) -> dict[str, Value] | None:
        """What `write` wrote, or None; ValueError names a file that is no such thing."""
        return _read(self._file("cells", cell), ("result", "environment", "seconds"))

    def read_failure(self, cell: Cell) -> Failure | None:
        found = _read(self._file("failed", cell), ("stage", "error", "traceback"))
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
        write_json(self._file("cells", cell), content)
        self.forget_failure(cell)

    def write_failure(self, cell: Cell, failure: Failure, *, threads: int) -> None:
        content = {
            "schema": SCHEMA,
            "settings": cell.settings,
            "threads": threads,
            "stage": failure.stage,
            "error": failure.error,
            "traceback": failure.traceback,
        }
        write_json(self._file("failed", cell), content)

    def forget_failure(self, cell: Cell) -> None:
        self._file("failed", cell).unlink(missing_ok=True)

    def others(self, cells: Sequence[Cell]) -> int:
        """How many measured cells lie here that are not among `cells`."""
        known = {cell.hash for cell in cells}
        return sum(file.stem not in known for file in (self.out / "cells").glob("*.json"))

    def clean(self) -> None:
        """Remove half-written files; only for the run that holds the folder's lock."""
        for folder in (self.out, self.out / "cells", self.out / "failed"):
            for file in folder.glob("*.partial"):
                file.unlink()

    def _file(self, kind: str, cell: Cell) -> Path:
        return self.out / kind / f"{cell.hash}.json"


def write_json(file: Path, content: Value) -> None:
    """Write all of it or nothing."""
    write_text(file, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write all of it or nothing; the folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def _read(file: Path, fields: tuple[str, ...]) -> dict[str, Value] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{file}: expected a record of schema {SCHEMA}")
    for name in fields:
        if name not in content:
            raise ValueError(f"{file}: {name} is missing")
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
