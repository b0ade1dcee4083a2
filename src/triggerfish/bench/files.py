"""Files of results: JSON Lines of records that several processes may add to."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from triggerfish.bench.stages import Value
from triggerfish.writing import is_there, write_bytes

Record = dict[str, Value]


class RecordFile:
    """Records in a JSON Lines file: one JSON object a line, with its key under "key".

    A record is appended in one piece under a lock of the file, and is on the disk when `append`
    returns. Where a key has several lines, the last one counts. A process that is killed while it
    appends leaves a last line that is not whole: it is no record, and the next `append` removes it.
    Any other line that is no record is an error.
    """

    def __init__(self, path: Path):
        self.path = path

    def __contains__(self, key: str) -> bool:
        return key in self.read()

    def read(self) -> dict[str, Record]:
        """The records in the order of their keys, without the keys; none where there is no file.

        ValueError names the file and the line that is no record.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        return self._records(content)

    def append(self, key: str, record: Mapping[str, Value]) -> None:
        """ValueError where `record` has a field "key", or holds NaN or an infinity."""
        line = _line(key, record)
        with _locked(self.path) as file:
            content = file.read()
            start = content.rfind(b"\n") + 1
            if _is_record(content[start:]):
                line = b"\n" + line  # whole but for its end
            elif start < len(content):
                file.truncate(start)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def tidy(self, without: Collection[str] = ()) -> None:
        """One line for each key, in the order of the keys; the keys in `without` are removed, and
        the file too where nothing is left."""
        with _locked(self.path) as file:
            before = file.read()
            records = self._records(before)
            kept = [_line(key, records[key]) for key in records if key not in without]
            after = b"".join(kept)
            if not after:
                self.path.unlink()
            elif after != before:
                write_bytes(self.path, after)

    def _records(self, content: bytes) -> dict[str, Record]:
        *lines, last = content.split(b"\n")
        if _is_record(last):
            lines.append(last)
        found: dict[str, Record] = {}
        for number, line in enumerate(lines, 1):
            try:
                key, record = _parsed(line)
            except ValueError as error:
                raise ValueError(f"{self.path}:{number}: {error}") from error
            found[key] = record
        return dict(sorted(found.items()))


def _line(key: str, record: Mapping[str, Value]) -> bytes:
    if "key" in record:
        raise ValueError(f"record {key!r}: it has a field 'key' of its own")
    return json.dumps({"key": key, **record}, allow_nan=False).encode("ascii") + b"\n"


def _parsed(line: bytes) -> tuple[str, Record]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("key"), str):
        raise ValueError("expected a JSON object with a text under 'key'")
    return found.pop("key"), found


def _is_record(line: bytes) -> bool:
    try:
        _parsed(line)
    except ValueError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file, made where it is missing, for this process alone: to be read from its start,
    written at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_there(path, file.fileno()):  # else `tidy` replaced it while this waited
                file.seek(0)
                yield file
                return
