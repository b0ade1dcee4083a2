"""Names that strangers wrote, as paths: the one place that turns a name from a checkpoint, an index
or a list into a path, and the one that lists a stranger's folder. Neither leaves the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from triggerfish.foreign import ForeignError

BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
"""How the cache of the hub names what it stores."""


def below(root: Path, name: object, field: str = "model") -> Path:
    """The path called `name` below `root`, which need not exist.

    `ForeignError` that begins with `field` for anything else: no text, an absolute path, `..`, a
    null character, or a link that leads out of `root`. Links of a snapshot in the cache of the hub
    may lead to the blobs of that cache.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ForeignError(f"{field}: {root} names {name!r}, which is no name of a file")
    for parts in (PurePosixPath(name), PureWindowsPath(name)):
        if parts.anchor or ".." in parts.parts:
            raise ForeignError(
                f"{field}: {root} names {name!r}, which is outside of it; "
                "expected a relative path without '..'"
            )
    if leaves(root, root / name):
        raise ForeignError(
            f"{field}: {root / name} is a link that leads out of {root}; "
            "put the file itself in its place if you trust it"
        )
    return root / name


def leaves(root: Path, path: Path) -> bool:
    """Whether links lead from `path`, which is below `root`, to a place outside of `root`."""
    root, target = (Path(os.path.realpath(x)) for x in (root, path))
    return not target.is_relative_to(root) and not any(
        target.parent == cache / "blobs" and BLOB.fullmatch(target.name) for cache in _caches(root)
    )


def _caches(root: Path) -> Iterator[Path]:
    """Folders of the hub's cache that a real path would belong to: `x/snapshots/revision/...`."""
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots":
            yield folder.parent.parent


def walk(root: Path, field: str = "model") -> Iterator[str]:
    """Names, with forward slashes and in order, of what lies in a folder and below it, without the
    folders. A link to a folder is not followed and counts as a file.

    `ForeignError` that begins with `field` for a pipe, a device or a socket: none may be opened.
    """
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from (f"{path.name}/{name}" for name in walk(path, field))
            continue
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ForeignError(f"{field}: {path} is a pipe, a device or a socket; expected a file")
        yield path.name
