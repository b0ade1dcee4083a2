"""What a benchmark is made of: axes, stages that depend on some of them, and the plan of stages.

A stage's product is named by a hash over everything it depends on: the stage and its version, the
values of its axes, the products it uses and the number of CPU threads (results depend on it in the
last bits). So two cells that agree in all this share the product, and a stage whose code changes
gets a new version and leaves the old products alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triggerfish.names import unknown
from triggerfish.settings import LARGEST

Value = Any
"""What JSON can say: str, int, float, bool, None, and lists and mappings of them."""

REQUIRED = object()
"""The default of an axis that a grid must name."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Axis:
    """Which values an axis (or a key of an axis that is a mapping) takes."""

    kinds: tuple[type, ...]
    """Types of the values: str, int, float, bool, dict, list or type(None). An int does for a
    float and becomes one; a bool is no int."""
    meaning: str = ""
    """What the value says, with its unit; shown in errors."""
    default: Value = REQUIRED
    """Value where a grid does not name the axis."""
    choices: tuple[Value, ...] = ()
    """The only values, where not empty."""
    least: float | None = None
    """The smallest number, if there is one."""
    keys: Mapping[str, Axis] = field(default_factory=dict)
    """For a mapping: its keys. No keys: any."""
    check: Callable[[str, Value], None] | None = None
    """Called with the place and the value; ValueError, which starts with the place, for a value
    that no stage could use."""

    def resolve(self, where: str, value: Value) -> Value:
        """`value`, checked, with defaults filled in; ValueError starts with `where`."""
        if type(value) is int and float in self.kinds and abs(value) <= LARGEST:
            value = value if int in self.kinds else float(value)
        if self.least is not None and isinstance(value, int | float) and value < self.least:
            raise ValueError(f"{where}: expected at least {self.least}, got {value!r}")
        if type(value) not in self.kinds or not _is_json(value):
            raise ValueError(f"{where}: expected {self.expected()}, got {_shown(value)}")
        if self.choices and value not in self.choices:
            if isinstance(value, str):
                raise unknown(where, value, map(str, self.choices))
            raise ValueError(f"{where}: expected {self.expected()}, got {_shown(value)}")
        if isinstance(value, dict) and self.keys:
            value = resolve_all(where, value, self.keys)
        if self.check:
            self.check(where, value)
        return value

    def expected(self) -> str:
        """What the axis takes, in words."""
        if self.choices:
            words = f"one of {', '.join(map(repr, self.choices))}"
        elif self.keys:
            words = f"a mapping of {', '.join(self.keys)}"
        else:
            words = " or ".join(_KINDS.get(kind, kind.__name__) for kind in self.kinds)
        return f"{words} ({self.meaning})" if self.meaning else words


_KINDS = {str: "text", dict: "mapping", type(None): "nothing"}


def resolve_all(
    where: str, values: Mapping[str, Value], axes: Mapping[str, Axis]
) -> dict[str, Value]:
    """`values` checked against `axes` by name, defaults filled in, in the order of `axes`."""
    for name in values:
        if name not in axes:
            raise unknown(where, name, axes)
    resolved = {}
    for name, axis in axes.items():
        if name in values:
            resolved[name] = axis.resolve(f"{where}.{name}", values[name])
        elif axis.default is REQUIRED:
            raise ValueError(f"{where}.{name}: missing; expected {axis.expected()}")
        else:
            resolved[name] = axis.resolve(f"{where}.{name} (default)", axis.default)
    return resolved


def _shown(value: Value) -> str:
    quote = "; quote it to make it text" if isinstance(value, bool | int | float) else ""
    return f"{value!r} ({type(value).__name__}{quote})"


def _is_json(value: Value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, int | float):
        return abs(value) <= LARGEST
    return value is None or isinstance(value, str)


@dataclass(frozen=True)
class Work:
    """What a stage is given."""

    settings: Mapping[str, Value]
    """The stage's axes, and no others: what it cannot see it cannot depend on."""
    products: Mapping[str, Path]
    """Folder of each product it uses, by stage; to be read only."""
    folder: Path
    """An empty folder. It becomes the product; that of a measuring stage is thrown away."""
    threads: int
    """CPU threads, already set."""


Run = Callable[[Work], Mapping[str, object] | None]


@dataclass(frozen=True)
class Stage:
    """One step on the way to a measurement."""

    name: str
    """Lower-case letters, digits, `_` and `-`; unique among all plans that share a store."""
    axes: tuple[str, ...]
    """The axes of a cell that it depends on itself."""
    after: tuple[str, ...]
    """The stages whose products it uses."""
    run: Run
    """Writes the product into `Work.folder` and returns None; or, if it measures, returns the
    result: a mapping that JSON can say, without NaN and infinities. Heavy imports belong inside."""
    version: int = 1
    """To be raised when the same settings give another product."""
    seconds: float = 60.0
    """Guess of its time, until it has run."""
    memory: float = 1.0
    """GiB of main memory that it needs at most, with the interpreter."""
    measures: bool = False
    """Whether it returns the result of a cell instead of making a product."""


@dataclass(frozen=True)
class Plan:
    """Stages, each after those it uses, and the axes they depend on."""

    stages: tuple[Stage, ...]
    axes: Mapping[str, Axis]
    torch: bool = True
    """Whether workers import torch, to set its threads and seed before each job."""

    def __post_init__(self) -> None:
        seen: dict[str, Stage] = {}
        for stage in self.stages:
            if not _NAME.fullmatch(stage.name) or stage.name in seen:
                raise ValueError(f"stages: {stage.name!r}: expected a new name like 'fine-tune'")
            for name in stage.after:
                if name not in seen or seen[name].measures:
                    makers = [s.name for s in seen.values() if not s.measures]
                    raise unknown(f"stages.{stage.name}.after", name, makers)
            for name in stage.axes:
                if name not in self.axes:
                    raise unknown(f"stages.{stage.name}.axes", name, self.axes)
            seen[stage.name] = stage

    def stage(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise unknown("stage", name, [stage.name for stage in self.stages])

    def needed(self, measure: str) -> tuple[Stage, ...]:
        """The stages that lead to `measure`, itself last."""
        names = {measure}
        for stage in reversed(self.stages):
            if stage.name in names:
                names.update(stage.after)
        return tuple(stage for stage in self.stages if stage.name in names)


def digest(content: Value) -> str:
    """32 hex digits of the sha256 of `content`, the same for any order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def identity(
    stage: Stage, settings: Mapping[str, Value], products: Mapping[str, str], threads: int
) -> dict[str, Value]:
    """Everything a product depends on; `products` maps stages to hashes and may hold more than the
    stage uses, as may `settings`."""
    return {
        "stage": stage.name,
        "version": stage.version,
        "settings": {axis: settings[axis] for axis in stage.axes},
        "products": {name: products[name] for name in stage.after},
        "threads": threads,
    }


def hashes(stages: Iterable[Stage], settings: Mapping[str, Value], threads: int) -> dict[str, str]:
    """The hash of each stage's product for a cell, by stage; `stages` as `Plan.needed` has them."""
    found: dict[str, str] = {}
    for stage in stages:
        found[stage.name] = digest(identity(stage, settings, found, threads))
    return found
