"""Lines and rows of files that strangers wrote: text, JSON Lines, CSV and TSV, each also gzipped.

A file is read line by line. A gzip stream that unpacks to far more than texts do, a line without
an end, an endless stream and a special file in a folder are refused before they fill the memory.
Every error is a ValueError that names the file and, where there is one, the line and the field.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]
STDIN = "-"
HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which JSON can write and UTF-8 cannot."""
LONGEST = 2**24
"""Bytes of the longest line, and characters of the longest CSV cell (ours)."""
RATIO = 50
"""Largest ratio of unpacked to packed bytes (ours): of texts it is 3 to 20, at most 1,030."""
SMALL = 2**20
"""Unpacked bytes from which `RATIO` is looked at (ours)."""
STREAM = 2**28
"""Bytes of the longest stream that is held in memory (ours)."""

csv.field_size_limit(LONGEST)


class Lines:
    """The lines of a file, and the number of the one that was read last, for errors.

    what: the field that errors begin with. packed: bytes of the file that were read so far. most:
    bytes after which reading ends in an error.
    """

    def __init__(self, file: IO[bytes], name: str, what: str, most: int | None = None):
        self.name, self.what, self.number, self.most = name, what, 0, most
        self._raw = _Counted(file)
        peeked = io.BufferedReader(self._raw)
        self._gzip = name.endswith(".gz") or peeked.peek(2)[:2] == b"\x1f\x8b"
        self._file = gzip.GzipFile(fileobj=peeked) if self._gzip else peeked
        self._size = 0

    @property
    def packed(self) -> int:
        return self._raw.count

    def __iter__(self) -> Iterator[str]:
        while raw := self._read(LONGEST + 1, self._file.readline):
            self.number += 1
            if len(raw) > LONGEST:
                raise self.error(f"is longer than {LONGEST} bytes")
            try:
                yield raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise self.error(f"is not UTF-8 (byte {error.start})") from error

    def content(self) -> bytes:
        """All bytes of the file, unpacked."""
        blocks = []
        while block := self._read(2**20, self._file.read):
            blocks.append(block)
        return b"".join(blocks)

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self.what}: {self.name} line {self.number} {problem}")

    def _read(self, size: int, how: Any) -> bytes:
        try:
            raw: bytes = how(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{self.what}: {self.name} is no intact gzip file: {error}") from error
        except OSError as error:
            raise ValueError(f"{self.what}: {self.name} cannot be read: {error}") from error
        self._size += len(raw)
        if self._gzip and self._size > max(SMALL, RATIO * self.packed):
            raise ValueError(
                f"{self.what}: {self.name} unpacks to more than {RATIO} times its size, which "
                "texts do not; unpack it yourself if you trust it"
            )
        if self.most is not None and self._size > self.most:
            raise ValueError(
                f"{self.what}: {self.name} is a stream of more than {self.most} bytes; "
                "give a file, or a part of it"
            )
        return raw


class _Counted(io.RawIOBase):
    """A file that counts the bytes that were read from it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.count = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # `read1` hands on what a stream has, where `read` waits until it fills the buffer.
        block = getattr(self.file, "read1", self.file.read)(len(buffer))
        buffer[: len(block)] = block
        self.count += len(block)
        return len(block)


@contextmanager
def reading(
    source: str | Path, what: str, *, in_folder: bool = False, most: int | None = None
) -> Iterator[Lines]:
    """The lines of a file ("-": standard input) or of a stream such as `/dev/stdin`.

    what: the field that errors begin with. in_folder: nobody named the file itself, so a stream is
    refused. most: bytes after which a stream is refused.
    """
    if source == STDIN:
        yield Lines(sys.stdin.buffer, STDIN, what)
        return
    try:
        mode = os.stat(source).st_mode
        stream = stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
        if stat.S_ISDIR(mode):
            raise ValueError(f"{what}: {source} is a folder, expected a file")
        if not stat.S_ISREG(mode) and (in_folder or not stream):
            raise ValueError(f"{what}: {source} is a special file, expected an ordinary one")
        opened = os.open(source, os.O_RDONLY)
    except FileNotFoundError as error:
        raise ValueError(f"{what}: {source} does not exist") from error
    except OSError as error:
        raise ValueError(f"{what}: {source} cannot be read: {error.strerror}") from error
    with open(opened, "rb", buffering=0) as file:
        yield Lines(file, str(source), what, most if stream else None)


def ending(path: str | Path) -> str:
    """The suffix of a file, without that of its compression."""
    return Path(str(path).removesuffix(".gz")).suffix


def json_rows(lines: Lines) -> Iterator[Row]:
    """The objects of JSON Lines; blank lines are passed over."""
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise lines.error(f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise lines.error("is not a JSON object")
        yield row


def csv_rows(lines: Lines, delimiter: str = ",") -> tuple[list[str], Iterator[Row]]:
    """(names of the columns, rows by column) of a CSV file with a header; blank lines are passed
    over."""
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)

    def cells() -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            raise lines.error(f"is not CSV: {error}") from error

    columns = cells() or []
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise lines.error(f"names the column {twice!r} twice")

    def rows() -> Iterator[Row]:
        while (row := cells()) is not None:
            if not row:
                continue
            if len(row) != len(columns):
                raise lines.error(f"ends a row of {len(row)} cells, expected {len(columns)}")
            yield dict(zip(columns, row, strict=True))

    return columns, rows()


def string(row: Row, field: str, lines: Lines) -> str:
    """The text in a field of a row that was just read."""
    value = row.get(field)
    if not isinstance(value, str):
        found = f"{type(value).__name__} in {field!r}" if field in row else f"no field {field!r}"
        raise lines.error(f"has {found}, expected a string in {field!r}")
    return value


def whole_characters(text: str, lines: Lines) -> str:
    """The text, unless it holds half of a surrogate pair, which no tokenizer takes."""
    if HALF.search(text):
        raise lines.error("holds half of a surrogate pair")
    return text
