"""Findings that follow their file: a service need not be restarted when a new scan is there.

The file is looked at every few seconds. One that cannot be read, or is no scan.json, changes
nothing: the last good findings stay in force, and `error` says what is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from triggerfish.monitor import Monitor

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Loaded:
    """A monitor, and what it was made from; `since` is UTC."""

    monitor: Monitor
    sha256: str
    since: str


class Findings:
    """The monitor made from the file at `path` by `load`. Raises what `load` raises, now."""

    def __init__(self, path: Path, load: Callable[[Path], Monitor]):
        self.path = path
        self.error: str | None = None
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
        except Exception as error:  # the findings in force must survive whatever is in the file
            problem = f"{type(error).__name__}: {error}"
            now = _stamp_or_none(self.path)
            news = problem != self.error or now != self._seen
            self.error, self._seen = problem, now
            return "broken" if news else "same"
        mended = self.error is not None
        self.error, self._seen = None, stamp
        if loaded.sha256 == self.now.sha256 and not mended:
            return "same"
        self.now = loaded
        return "changed"

    def _read(self) -> Loaded:
        if not self.path.is_file():
            raise ValueError(f"findings: {self.path} does not exist")
        sha256 = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return Loaded(
            self._load(self.path), sha256, datetime.now(UTC).isoformat(timespec="seconds")
        )


def _stamp(path: Path) -> Stamp:
    if not path.exists():
        raise ValueError(f"findings: {path} does not exist")
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _stamp_or_none(path: Path) -> Stamp | None:
    try:
        return _stamp(path)
    except (OSError, ValueError):
        return None
