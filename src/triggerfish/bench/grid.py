"""A grid of cells from YAML.

    name: transfer
    plan: redteam                  # a name of plans.PLANS, or "module:NAME"
    stages: {measure: downstream}  # may be left out where the plan has one measuring stage
    threads: 1                     # CPU threads of each worker; bits of the results depend on it
    axes:
      attack: [por1, neuba]        # a list: one cell for each value
      steps: 300                   # a scalar or a mapping: the same for all cells
    exclude:                       # cells to drop; a list means any of its values
      - {attack: neuba, task: [imdb, sst2]}
    include:                       # more cells; axes that are not named come from `axes`
      - {attack: none}
    tables: ...                    # see `tables`

Axes that are not named take their defaults from the plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import yaml

from triggerfish.bench import plans
from triggerfish.bench.cells import SCHEMA, Cell, label
from triggerfish.bench.stages import REQUIRED, Axis, Plan, Stage, Value, hashes
from triggerfish.bench.tables import Table, matches, read_tables
from triggerfish.names import unknown

_KEYS = ("name", "plan", "stages", "threads", "axes", "exclude", "include", "tables")
FILE = "grid.json"


@dataclass(frozen=True)
class Grid:
    """A resolved grid. plan: "module:NAME"; measure: the stage that makes the results."""

    name: str
    plan: str
    measure: str
    threads: int
    cells: tuple[Cell, ...]
    tables: tuple[Table, ...]

    def to_json(self) -> dict[str, Value]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def load(cls, out: Path) -> Grid:
        """The grid whose results are in `out`; ValueError where there is none."""
        file = out / FILE
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"out: {out} has no {FILE}; expected results of a grid") from None
        try:
            if found["schema"] != SCHEMA:
                raise ValueError(f"schema {found['schema']}")
            cells = tuple(Cell(cell["settings"], cell["stages"]) for cell in found["cells"])
            tables = tuple(Table(**table) for table in found["tables"])
            names = (found["name"], found["plan"], found["measure"], found["threads"])
            return cls(*names, cells=cells, tables=tables)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"out: {file} is not a grid of schema {SCHEMA}: {error}") from error


def read_grid(path: Path) -> Grid:
    """The grid of a YAML file; ValueError names the field that is wrong and what was expected."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ValueError(f"grid: {path} does not exist") from None
    except OSError as error:
        raise ValueError(f"grid: {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"grid: {path} is not YAML: {' '.join(str(error).split())}") from error
    return make_grid(raw)


def make_grid(raw: Value) -> Grid:
    """The grid of what the YAML file says."""
    if not isinstance(raw, dict):
        raise ValueError(f"grid: expected a mapping of {', '.join(_KEYS)}, got {raw!r}")
    for key in raw:
        if key not in _KEYS:
            raise unknown("grid", key, _KEYS)
    name, reference = (_text(raw, key) for key in ("name", "plan"))
    threads = raw.get("threads", 1)
    if type(threads) is not int or threads < 1:
        raise ValueError(
            f"threads: expected a number of CPU threads of at least 1, got {threads!r}"
        )
    plan = plans.load(reference)
    measure = _measure(raw.get("stages", {}), plan)
    stages = plan.needed(measure)
    used = {axis: plan.axes[axis] for axis in plan.axes if any(axis in s.axes for s in stages)}
    for axis in _mapping("axes", raw.get("axes", {})):
        if axis not in plan.axes:
            raise unknown("axes", axis, used)
        if axis not in used:
            raise ValueError(f"axes.{axis}: no stage that {measure!r} needs depends on it")
    settings = _settings(raw, used)
    cells = tuple(Cell(values, hashes(stages, values, threads)) for values in settings)
    _check_distinct(cells)
    tables = read_tables(raw.get("tables", []), list(used))
    for number, table in enumerate(tables):
        if not any(matches(cell.settings, table.where) for cell in cells):
            raise ValueError(f"tables[{number}].where: no cell of the grid has these settings")
    return Grid(name, plans.reference(reference), measure, threads, cells, tables)


def stages_of(grid: Grid) -> tuple[Stage, ...]:
    """The stages that the grid needs, from its plan."""
    return plans.load(grid.plan).needed(grid.measure)


def _settings(raw: Mapping[str, Value], used: Mapping[str, Axis]) -> list[dict[str, Value]]:
    """The settings of every cell: the product of the axes, less exclude, plus include."""
    given = _mapping("axes", raw.get("axes", {}))
    axes = {}
    for axis, kind in used.items():
        if axis in given:
            axes[axis] = _alternatives(f"axes.{axis}", given[axis], kind)
        elif kind.default is not REQUIRED:
            axes[axis] = [kind.resolve(f"axes.{axis} (default)", kind.default)]
    extra = []
    for where, partial in _partials(raw, "include", used):
        named = {
            axis: _alternatives(f"{where}.{axis}", partial[axis], used[axis]) for axis in partial
        }
        extra.append((where, {**axes, **named}))
    # A grid without `axes` consists of the included cells alone.
    cells = list(_product("axes", axes, used)) if given or not extra else []
    for where, partial in _partials(raw, "exclude", used):
        kept = [cell for cell in cells if not matches(cell, partial)]
        if len(kept) == len(cells):
            raise ValueError(f"{where}: expected settings of cells of the grid; no cell has these")
        cells = kept
    for where, complete in extra:
        cells += _product(where, complete, used)
    if not cells:
        raise ValueError("axes: expected at least one cell; everything is excluded")
    return cells


def _product(
    where: str, axes: Mapping[str, list[Value]], used: Mapping[str, Axis]
) -> Iterator[dict[str, Value]]:
    for axis, kind in used.items():
        if axis not in axes:
            raise ValueError(f"{where}.{axis}: missing; expected {kind.expected()}")
    for values in product(*(axes[axis] for axis in used)):
        yield dict(zip(used, values, strict=True))


def _alternatives(where: str, value: Value, kind: Axis) -> list[Value]:
    if not isinstance(value, list):
        return [kind.resolve(where, value)]
    if not value:
        raise ValueError(f"{where}: expected at least one value, {kind.expected()}")
    return [kind.resolve(f"{where}[{number}]", item) for number, item in enumerate(value)]


def _partials(
    raw: Mapping[str, Value], field: str, used: Mapping[str, Axis]
) -> Iterator[tuple[str, dict[str, Value]]]:
    listed = raw.get(field, [])
    if not isinstance(listed, list):
        raise ValueError(f"{field}: expected a list of mappings of axes to values, got {listed!r}")
    for number, partial in enumerate(listed):
        where = f"{field}[{number}]"
        if not _mapping(where, partial):
            raise ValueError(f"{where}: expected at least one axis")
        for axis in partial:
            if axis not in used:
                raise unknown(where, axis, used)
        yield where, partial


def _check_distinct(cells: tuple[Cell, ...]) -> None:
    seen = set()
    for cell in cells:
        if cell.hash in seen:
            settings = label(cell.settings, list(cell.settings))
            raise ValueError(f"axes: expected distinct cells; this one comes twice: {settings}")
        seen.add(cell.hash)


def _measure(raw: Value, plan: Plan) -> str:
    measuring = [stage.name for stage in plan.stages if stage.measures]
    for key in _mapping("stages", raw):
        if key != "measure":
            raise unknown("stages", key, ["measure"])
    if "measure" not in raw and len(measuring) == 1:
        return measuring[0]
    if "measure" not in raw:
        raise ValueError(f"stages.measure: missing; expected one of {', '.join(measuring)}")
    if raw["measure"] not in measuring:
        raise unknown("stages.measure", raw["measure"], measuring)
    return str(raw["measure"])


def _text(raw: Mapping[str, Value], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: expected a text, got {value!r}")
    return value


def _mapping(where: str, value: Value) -> dict[str, Value]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where}: expected a mapping of names to values, got {value!r}")
    return value


class _Loader(yaml.SafeLoader):
    """YAML without two surprises: a key that comes twice is an error, and 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Value, Value]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {name!r} comes twice in a mapping")
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)
