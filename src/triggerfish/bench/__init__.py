"""Grids of measurements that can be stopped anywhere and go on where they stopped.

A grid is the product of its axes (`grid`), a plan says which stages lead to a measurement and which
axes each of them depends on (`stages`), and a runner does what is missing (`runner`): a product
that serves many cells is made once, a cell that is on disk is not measured again. Tables are
rendered from the cells on disk alone (`page`).

    with watch(console) as show:
        summary = run_grid("grid.yaml", "results/name", progress=show)

Names are loaded when first used: nothing here imports torch, and a worker needs few of them.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Axis": "stages",
    "Executor": "jobs",
    "Plan": "stages",
    "Progress": "runner",
    "Stage": "stages",
    "Summary": "runner",
    "Work": "stages",
    "render": "page",
    "run_grid": "runner",
    "watch": "watching",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'triggerfish.bench' has no attribute {name!r}")
    return getattr(import_module(f"triggerfish.bench.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
