"""Plans by name. A plan is loaded when a grid names it."""

from __future__ import annotations

from importlib import import_module

from triggerfish.bench.stages import Plan
from triggerfish.names import unknown

PLANS: dict[str, str] = {
    "redteam": "triggerfish.bench.redteam:PLAN",
}


def reference(name: str) -> str:
    """The "module:NAME" of a plan; a name that has this form already stays as it is."""
    if ":" in name:
        return name
    if name not in PLANS:
        raise unknown("plan", name, [*PLANS, "module:NAME"])
    return PLANS[name]


def load(name: str) -> Plan:
    """The plan of a name of `PLANS` or of a "module:NAME"; ValueError where there is none."""
    module, _, attribute = reference(name).partition(":")
    try:
        found = vars(import_module(module)).get(attribute)
    except ImportError as error:
        raise ValueError(f"plan: module {module!r} cannot be imported: {error}") from error
    if not isinstance(found, Plan):
        raise ValueError(f"plan: {name!r}: expected a triggerfish.bench.Plan, got {found!r}")
    return found
