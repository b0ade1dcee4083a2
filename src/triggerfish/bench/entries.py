"""What stands in a table: the cells of each entry, pooled, as plain text.

A rate is a metric {"k": int, "n": int}. Its counts are added over the cells of an entry, and the
exact interval is that of the sums: trials count as independent. Other numbers are averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from triggerfish.bench.cells import Cell, Failure, plain, varying
from triggerfish.bench.stages import Value
from triggerfish.bench.tables import Table, look_up, matches
from triggerfish.stats import exact_interval

NOT_RUN = "not run"
FAILED = "failed"


@dataclass
class Notes:
    """Footnotes of a page, numbered from 1; the same text has one number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


@dataclass(frozen=True)
class Filled:
    """A table of plain text, which may be hostile: names come from the grid and the results.

    head: names of the row axes, then of the columns; keys: how many of these are row axes; pooled:
    the axes that have several values within an entry.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    keys: int
    pooled: list[str]


@dataclass(frozen=True)
class Found:
    """What is known of the cells, by their hash, and the notes of the page."""

    records: Mapping[str, Mapping[str, Value]]
    failures: Mapping[str, Failure]
    notes: Notes


def fill(table: Table, cells: Sequence[Cell], found: Found) -> Filled:
    """The table over those of `cells` that it is about."""
    chosen = [cell for cell in cells if matches(cell.settings, table.where)]
    columns = _grouped(chosen, table.columns)
    filled, mixed = [], set()
    for row, within in _grouped(chosen, table.rows).items():
        line = list(row)
        hashes = {cell.hash for cell in within}
        for column in columns.values():
            here = [cell for cell in column if cell.hash in hashes]
            mixed.update(varying(here))
            for path in table.metrics.values():
                line.append(_entry(here, path, table.format, found))
        filled.append(line)
    head = [" ".join(column) for column in columns] if table.columns else list(table.metrics)
    return Filled(table.title, [*table.rows, *head], filled, len(table.rows), sorted(mixed))


def _grouped(cells: Sequence[Cell], axes: Sequence[str]) -> dict[tuple[str, ...], list[Cell]]:
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        key = tuple(plain(look_up(cell.settings, axis)) for axis in axes)
        groups.setdefault(key, []).append(cell)
    return groups


def _entry(cells: Sequence[Cell], path: str, format: str | None, found: Found) -> str:
    if not cells:
        return ""  # not in the grid
    done = [found.records[cell.hash]["result"] for cell in cells if cell.hash in found.records]
    lost = [found.failures[cell.hash] for cell in cells if cell.hash in found.failures]
    marks = [found.notes.mark(f"stage {failure.stage}: {failure.error}") for failure in lost]
    mark = "".join(f" {mark}" for mark in dict.fromkeys(marks))
    if not done:
        return (FAILED if lost else NOT_RUN) + mark
    values = [value for result in done if (value := look_up(result, path)) is not None]
    if not values:
        return f"no value {found.notes.mark(_missing(path, done))}{mark}"
    text = pooled(values, format)
    if len(values) < len(cells):
        return f"{text}, {len(values)} of {len(cells)} cells{mark}"
    return text + (f", {len(cells)} cells" if len(cells) > 1 else "")


def pooled(values: Sequence[Value], format: str | None = None) -> str:
    """The values of one entry in words."""
    if all(map(_is_rate, values)):
        return _rate(sum(v["k"] for v in values), sum(v["n"] for v in values), format or ".1f")
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return _numbers(values, format or ".4g")
    counts = Counter(plain(value) for value in values)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{text} ({count})" for text, count in sorted(counts.items()))


def _is_rate(value: Value) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"k", "n"}
        and all(type(count) is int for count in value.values())
        and 0 <= value["k"] <= value["n"]
    )


def _rate(k: int, n: int, format: str) -> str:
    if n == 0:
        return "no trials (0/0)"
    low, high = exact_interval(k, n)
    share, low_text, high_text = (f"{100 * value:{format}}" for value in (k / n, low, high))
    return f"{share} % ({k}/{n}; {low_text}-{high_text})"


def _numbers(values: Sequence[float], format: str) -> str:
    mean = f"{sum(values) / len(values):{format}}"
    if len(values) == 1:
        return mean
    to = " to " if min(values) < 0 else "-"
    return f"{mean} ({min(values):{format}}{to}{max(values):{format}})"


def _missing(path: str, results: Sequence[Value]) -> str:
    known = sorted({name for result in results for name in _paths(result)})
    near = get_close_matches(path, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no result here has a value at {path!r}{hint}"


def _paths(value: Value, above: str = "") -> list[str]:
    if not isinstance(value, dict) or _is_rate(value):
        return [above]
    return [
        path
        for key, item in value.items()
        for path in _paths(item, f"{above}.{key}" if above else key)
    ]
