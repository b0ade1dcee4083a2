"""Tables that a grid file asks for.

    tables:
      - title: Attack success
        rows: [attack, task]       # axes; of a mapping also "axis.key"
        columns: [trigger]         # axes, with `value`; or metrics by name:
        value: asr                 #   columns: {clean accuracy: clean, attack success: asr}
        format: .1f                # how numbers (of a rate: the percentage) are written
        where: {seed: [0, 1]}      # only these cells; a list means any of its values

A metric is a path in the result of a cell: `asr`, `tasks.imdb.asr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triggerfish.bench.stages import Value
from triggerfish.names import unknown

_KEYS = ("title", "rows", "columns", "value", "format", "where")


@dataclass(frozen=True)
class Table:
    """One table. metrics: path by column name; None stands for the single metric of a table whose
    columns are axes. format: a Python format specification, or None for the usual one."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    metrics: Mapping[str, str]
    format: str | None
    where: Mapping[str, Value]


def read_tables(raw: Value, axes: Sequence[str]) -> tuple[Table, ...]:
    """The tables of a grid with these axes; ValueError names the field that is wrong."""
    if not isinstance(raw, list):
        raise ValueError(f"tables: expected a list of mappings of {', '.join(_KEYS)}, got {raw!r}")
    return tuple(_table(f"tables[{number}]", item, axes) for number, item in enumerate(raw))


def _table(where: str, raw: Value, axes: Sequence[str]) -> Table:
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: expected a mapping of {', '.join(_KEYS)}, got {raw!r}")
    for key in raw:
        if key not in _KEYS:
            raise unknown(where, key, _KEYS)
    title = raw.get("title")
    if not isinstance(title, str):
        raise ValueError(f"{where}.title: expected a text, got {title!r}")
    columns, value = raw.get("columns", []), raw.get("value")
    if isinstance(columns, dict):
        if value is not None:
            raise ValueError(f"{where}.value: expected none, for the columns name the metrics")
        metrics = {str(name): _path(f"{where}.columns.{name}", columns[name]) for name in columns}
        columns = []
    else:
        columns = _axes(f"{where}.columns", columns, axes)
        path = _path(f"{where}.value", value)
        metrics = {path: path}
    chosen = raw.get("where", {})
    if not isinstance(chosen, dict):
        raise ValueError(f"{where}.where: expected a mapping of axes to values, got {chosen!r}")
    _axes(f"{where}.where", list(chosen), axes)
    rows = _axes(f"{where}.rows", raw.get("rows"), axes)
    return Table(title, rows, columns, metrics, _format(where, raw.get("format")), chosen)


def _axes(where: str, value: Value, axes: Sequence[str]) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where}: expected a list of axes, got {value!r}")
    for name in value:
        if name.partition(".")[0] not in axes:
            raise unknown(where, name, axes)
    return value


def _path(where: str, value: Value) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: expected the path of a metric in the result, got {value!r}")
    return value


def _format(where: str, value: Value) -> str | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            format(0.5, value)
            return value
    except ValueError:
        pass
    raise ValueError(f"{where}.format: expected a format of numbers such as '.1f', got {value!r}")


def look_up(content: Mapping[str, Value], path: str) -> Value:
    """The value at a dotted path, or None."""
    found: Value = content
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def matches(settings: Mapping[str, Value], partial: Mapping[str, Value]) -> bool:
    """Whether a cell has the values that `partial` names; a list stands for any of its values, a
    mapping for any that has its keys and values."""
    return all(
        any(
            _fits(look_up(settings, axis), one)
            for one in (wanted if isinstance(wanted, list) else [wanted])
        )
        for axis, wanted in partial.items()
    )


def _fits(value: Value, wanted: Value) -> bool:
    if isinstance(value, dict) and isinstance(wanted, dict):
        return all(key in value and _fits(value[key], wanted[key]) for key in wanted)
    # 1 == True in Python, but not to the person who wrote the grid.
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)
