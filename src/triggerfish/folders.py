"""Where things are kept that nobody asked for: interrupted scans, and what grids share."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path


def cache() -> Path:
    """The folder of triggerfish in the user's cache; `XDG_CACHE_HOME` is honoured."""
    return user_cache_path("triggerfish", appauthor=False)


def scans() -> Path:
    """A folder for each interrupted scan."""
    return cache() / "scans"


def artifacts() -> Path:
    """What the grids of `bench` share: a folder for each stage."""
    return cache() / "bench"
