"""Guards a file of texts: JSON Lines or CSV, gzipped or not, row by row, so that memory does not
grow with the file. Rows that pass are written on with the guarded text and their alarms; rejected
ones go to a file of their own, or nowhere, and are counted.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, get_args

from triggerfish.monitor.budget import BUDGET, FalseAlarms, Tally
from triggerfish.monitor.monitor import Monitor
from triggerfish.names import unknown
from triggerfish.records import Checked
from triggerfish.rows import STDIN, Lines, Row, csv_rows, ending, json_rows, reading, string
from triggerfish.settings import check
from triggerfish.writing import writing, writing_text

Format = Literal["jsonl", "csv"]
Progress = Callable[[int, int], None]
"""(rows so far, bytes of the file so far)"""
_EVERY = 1000
_ENDINGS: dict[str, Format] = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv"}


@dataclass(frozen=True)
class FileSettings:
    field: str = "text"
    """JSON field or CSV column that holds the text, as in `text.read_corpus`."""
    alarms: str = "alarms"
    """Field or column that is added for the alarms: a list of objects; JSON in a CSV cell, empty
    where there is none."""
    format: Format | None = None
    """Format of the file; None: by its name, JSON Lines for standard input."""
    budget: float = BUDGET
    """Share of texts above which a trigger is called an ordinary word (budget.py)."""

    def __post_init__(self) -> None:
        check(self)
        if self.format is not None and self.format not in get_args(Format):
            raise unknown("format", self.format, get_args(Format))


def guard_file(
    monitor: Monitor,
    source: str | Path,
    out: Path | None = None,
    *,
    rejected: Path | None = None,
    settings: FileSettings = FileSettings(),
    progress: Progress | None = None,
) -> FalseAlarms:
    """Check every row of `source` ("-": standard input) and write it to `out` (default: standard
    output) in the same format; rejected rows to `rejected`, as they came.

    A written file is there only when all went well. Raises ValueError, with the line number, for a
    row that cannot be read and for a file that is none.
    """
    kind = settings.format or _format(source)
    tally = Tally(monitor, settings.budget)
    with ExitStack() as stack:
        lines = stack.enter_context(reading(source, "file"))
        rows: Rows = _Csv(lines, settings) if kind == "csv" else _JsonLines(lines, settings)
        passed = rows.writer(stack.enter_context(_writing(out)), with_alarms=True)
        dropped = rejected and rows.writer(stack.enter_context(_writing(rejected)))
        for row, text in rows:
            checked = monitor.check(text)
            tally.add(checked)
            if checked.ok:
                passed(row, checked)
            elif dropped:
                dropped(row, checked)
            if progress and tally.texts % _EVERY == 0:
                progress(tally.texts, lines.packed)
    return tally.result()


Write = Callable[[Row, Checked], None]


class Rows(Protocol):
    """Rows of a file with their texts, and how to write such rows."""

    def __iter__(self) -> Iterator[tuple[Row, str]]: ...

    def writer(self, file: IO[str], *, with_alarms: bool = False) -> Write: ...


class _JsonLines:
    def __init__(self, lines: Lines, settings: FileSettings):
        self.lines, self.settings = lines, settings

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        for row in json_rows(self.lines):
            text = string(row, self.settings.field, self.lines)
            if self.settings.alarms in row:
                raise self.lines.error(
                    f"has a field {self.settings.alarms!r} already; choose another name"
                )
            yield row, text

    def writer(self, file: IO[str], *, with_alarms: bool = False) -> Write:
        field, alarms = self.settings.field, self.settings.alarms

        def write(row: Row, checked: Checked) -> None:
            if with_alarms:
                row = row | {field: checked.text, alarms: [asdict(a) for a in checked.alarms]}
            file.write(self._line(row) + "\n")

        return write

    def _line(self, row: Row) -> str:
        """Escaped, because a text may hold half a surrogate pair, which UTF-8 cannot."""
        try:
            return json.dumps(row, allow_nan=False)
        except RecursionError:
            raise self.lines.error("is nested too deeply") from None
        except ValueError:
            wrong = next(name for name in row if not _finite(row[name]))
            raise self.lines.error(
                f"holds NaN or an infinity in {wrong!r}, which is no JSON; write null"
            ) from None


def _finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


class _Csv:
    def __init__(self, lines: Lines, settings: FileSettings):
        self.settings = settings
        self.columns, self._rows = csv_rows(lines)
        if settings.field not in self.columns:
            raise unknown("field", settings.field, self.columns)
        if settings.alarms in self.columns:
            raise lines.error(f"has a column {settings.alarms!r} already; choose another name")

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        for row in self._rows:
            yield row, row[self.settings.field]

    def writer(self, file: IO[str], *, with_alarms: bool = False) -> Write:
        field, alarms = self.settings.field, self.settings.alarms
        out = csv.writer(file, lineterminator="\n")
        out.writerow([*self.columns, alarms] if with_alarms else self.columns)

        def write(row: Row, checked: Checked) -> None:
            if with_alarms:
                shown = json.dumps([asdict(a) for a in checked.alarms]) if checked.alarms else ""
                row = row | {field: checked.text, alarms: shown}
            out.writerow(row.values())

        return write


def _format(source: str | Path) -> Format:
    if source == STDIN:
        return "jsonl"
    if ending(source) not in _ENDINGS:
        raise ValueError(
            f"file: {source} ends in none of {', '.join(_ENDINGS)} (.gz allowed); name its format"
        )
    return _ENDINGS[ending(source)]


@contextmanager
def _writing(path: Path | None) -> Iterator[IO[str]]:
    """A file, packed where its name ends in .gz; standard output for None."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
    elif path.suffix == ".gz":
        with (
            writing(path) as raw,
            gzip.open(raw, "wt", encoding="utf-8", newline="") as packed,
        ):
            yield packed
    else:
        with writing_text(path) as file:
            yield file
