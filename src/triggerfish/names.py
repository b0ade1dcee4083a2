"""Methods by name: a literal table in each package, loaded when asked for, entry points for other
people's, and one glossary for names that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


def unknown(field: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for `name` in `field`, which takes one of `known`; it tells the nearest of them."""
    listed = sorted(known)
    near = get_close_matches(str(name), listed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{field}: unknown name {name!r}; expected one of {', '.join(listed)}{hint}")


def named(what: str, table: Mapping[str, str]) -> dict[str, str]:
    """`table` ("module:NAME" by name) with the entry-point group `triggerfish.<what>s`."""
    others = {point.name: point.value for point in entry_points(group=f"triggerfish.{what}s")}
    return others | dict(table)


def load_named(what: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that `named` has under `name`; ValueError if it has none."""
    known = named(what, table)
    if name not in known:
        raise unknown(what, name, known)
    module, _, attribute = known[name].partition(":")
    return getattr(import_module(module), attribute)
