"""Settings from outside: a frozen dataclass from the strings of a command line or the values of a
YAML file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from triggerfish.names import unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
LARGEST = 1e12
"""Of a setting; a larger number is a slip, and libraries overflow (ours)."""


@dataclasses.dataclass(frozen=True)
class Between:
    """The numbers that a field takes, the ends included; in its annotation."""

    low: float
    high: float


Share = Annotated[float, Between(0.0, 1.0)]
"""A share or a probability."""


def build(base: T, values: Mapping[str, Any]) -> T:
    """`base`, a dataclass, with some fields changed; strings are converted to the field's type, and
    `poisoning.epochs` means the field of a field and "[0.4, 0.6]" a list.

    Raises ValueError naming the field: unknown (with the nearest known), of another type, or out of
    range.
    """
    known = [field.name for field in dataclasses.fields(base)]
    merged = {name: getattr(base, name) for name in known}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if name not in known:
            raise unknown("setting", name, known)
        if isinstance(value, str) and value.startswith("["):
            value = _list(name, value)
        if rest:
            inner.setdefault(name, {})[rest] = value
        else:
            merged[name] = value
    for name, changes in inner.items():
        if not dataclasses.is_dataclass(merged[name]):
            raise ValueError(f"{name}: has no settings of its own")
        merged[name] = build(merged[name], changes)
    try:
        made: T = TypeAdapter(type(base)).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), ValueError):
            raise cause from error  # a check of the dataclass itself, which names its field
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}, got {first['input']!r}") from error
    check(made)
    return made


def check(settings: DataclassInstance) -> None:
    """ValueError for a number in a field, or in a tuple of numbers there, that is NaN, infinite or
    out of its range: `Between` in the annotation of the field, or else 0 to `LARGEST`, and from
    -`LARGEST` on where the default is negative or no number is there by default."""
    ranges = _ranges(type(settings))
    for field in dataclasses.fields(settings):
        check_number(field.name, getattr(settings, field.name), ranges[field.name])


def check_number(name: str, value: object, range: Between = Between(0.0, LARGEST)) -> None:
    """The same for one value; what is no number passes."""
    if isinstance(value, tuple | list):
        for item in value:
            check_number(name, item, range)
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if not range.low <= value <= range.high:  # NaN is not, either
        raise ValueError(f"{name}: {value!r} is outside {range.low} to {range.high}")


@cache
def _ranges(settings: type[DataclassInstance]) -> dict[str, Between]:
    hints = get_type_hints(settings, include_extras=True)
    found = {}
    for field in dataclasses.fields(settings):
        default = field.default
        usual = Between(-LARGEST if default == () or _negative(default) else 0.0, LARGEST)
        named = [x for x in getattr(hints[field.name], "__metadata__", ()) if type(x) is Between]
        found[field.name] = named[0] if named else usual
    return found


def _negative(default: object) -> bool:
    if isinstance(default, tuple | list):
        return any(map(_negative, default))
    return isinstance(default, int | float) and default < 0


def _list(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: {text!r} is not a list of numbers in brackets") from error
