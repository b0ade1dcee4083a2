"""Settings from outside: a frozen dataclass from the strings of a command line or the values of a
YAML file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from triggerfish.names import unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


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
    return made


def _list(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: {text!r} is not a list of numbers in brackets") from error
