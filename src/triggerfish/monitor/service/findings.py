"""Findings that follow their file: a service need not be restarted when a new scan is there.

The file is looked at every few seconds. One that cannot be read, or is no scan.json, changes
nothing: the last good findings stay in force, and `error` says what is wrong, and since when.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from triggerfish.foreign import OURS, said
from triggerfish.hashing import file_sha256
from triggerfish.monitor import Monitor

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Loaded:
    """A monitor, and what it was made from; `since` is UTC."""

    monitor: Monitor
    sha256: str
    since: str


@dataclass(frozen=True)
class Problem:
    """Why the findings could not be read again, and when that was first seen (UTC)."""

    what: str
    since: str


class Findings:
    """The monitor made from the file at `path` by `load`. Raises what `load` raises, now."""

    def __init__(self, path: Path, load: Callable[[Path], Monitor]):
        self.path = path
        self.problem: Problem | None = None
        self._load = load
        self._seen: Stamp | None = _stamp(path)
        self.now = self._read()

    def poll(self) -> Literal["same", "changed", "broken"]:
        """Look at the file; "broken" only once for each broken state of it."""
        try:
            stamp = _stamp(self.path)
            if stamp == self._seen:
                return "same"
            loaded = self._read()
        except OURS:
            raise
        except BaseException as error:  # also panics: what is in force survives whatever came
            now = _stamp_or_none(self.path)
            news = self.failed(said(error)) or now != self._seen
            self._seen = now
            return "broken" if news else "same"
        mended = self.problem is not None
        self.problem, self._seen = None, stamp
        if loaded.sha256 == self.now.sha256 and not mended:
            return "same"
        self.now = loaded
        return "changed"

    def failed(self, what: str) -> bool:
        """Keep in mind that the file could not be read; whether that is news."""
        if self.problem is not None and self.problem.what == what:
            return False
        self.problem = Problem(what, _now())
        return True

    def _read(self) -> Loaded:
        ordinary(self.path)
        sha256 = file_sha256(self.path)
        return Loaded(self._load(self.path), sha256, _now())


def ordinary(path: Path) -> None:
    """ValueError for anything but a file: a stream could be read only once."""
    if not path.exists():
        raise ValueError(f"findings: {path} does not exist")
    if not path.is_file():
        raise ValueError(
            f"findings: {path} is no ordinary file; a service reads it again and again"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stamp(path: Path) -> Stamp:
    ordinary(path)
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _stamp_or_none(path: Path) -> Stamp | None:
    try:
        return _stamp(path)
    except (OSError, ValueError):
        return None
