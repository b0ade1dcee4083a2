"""The command `triggerfish cache`: what is kept in the user's cache, and removing it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer

from triggerfish import folders

cache = typer.Typer(
    help="Show or clear the cache: interrupted scans, and what grids of bench share.",
    invoke_without_command=True,
)
CLOCK = "clock.json"
"""As in `scanner.store`."""


@dataclass(frozen=True)
class Kept:
    """A folder in the cache: what it is, its bytes, and when it was written to last."""

    folder: Path
    what: str
    size: int
    changed: float


@cache.callback()
def show(context: typer.Context) -> None:
    """Show the folder, and what is in it by size and date.

    Interrupted scans, which the same command continues, and what the grids of bench share.
    """
    if context.invoked_subcommand is not None:
        return
    from triggerfish.report.escape import visible

    found = kept()
    print(f"{folders.cache()}: {size(sum(one.size for one in found))}")
    for one in found:
        date = datetime.fromtimestamp(one.changed, UTC).strftime("%Y-%m-%d %H:%M UTC")
        print(f"  {date}  {size(one.size):>9}  {visible(one.what)}")


@cache.command()
def clear() -> None:
    """Remove everything in the cache. Interrupted scans then start again, and so do grids."""
    found = kept()
    for one in found:
        shutil.rmtree(one.folder)
    print(f"{folders.cache()}: {size(sum(one.size for one in found))} removed")


def kept() -> list[Kept]:
    """What is there, the largest first."""
    found = [_kept(folder, _scan(folder)) for folder in _inside(folders.scans())]
    found += [_kept(folder, f"bench: {folder.name}") for folder in _inside(folders.artifacts())]
    return sorted(found, key=lambda one: -one.size)


def size(count: int) -> str:
    """Bytes as people write them: 406.2 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _inside(folder: Path) -> list[Path]:
    return sorted(x for x in folder.iterdir() if x.is_dir()) if folder.is_dir() else []


def _kept(folder: Path, what: str) -> Kept:
    states = [file.lstat() for file in [folder, *folder.rglob("*")]]
    return Kept(
        folder, what, sum(one.st_size for one in states), max(one.st_mtime for one in states)
    )


def _scan(folder: Path) -> str:
    """Which scan was interrupted."""
    try:
        name = json.loads((folder / CLOCK).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError):
        name = folder.name
    return f"interrupted scan of {name}"
