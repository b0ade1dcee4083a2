"""Products on disk: STORE/<stage>/<hash>, a folder that is there only when it is complete.

A product is made in a hidden folder beside it, whose name tells the run it belongs to, and renamed
when it is finished. What a dead run left is cleaned by the next one.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triggerfish.bench.stages import Value
from triggerfish.writing import write_json

MANIFEST = "product.json"
_PARTIAL = re.compile(r"\.[0-9a-f]+-(?P<owner>(?P<pid>\d+)-[0-9a-f]+@(?P<host>.+))\.partial")


def new_owner() -> str:
    """A name for a run: its process, something random, and the machine."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "localhost"
    return f"{os.getpid()}-{secrets.token_hex(4)}@{host}"


class Store:
    """Products below `root`; unfinished ones are marked with `owner` (see `new_owner`)."""

    def __init__(self, root: Path, owner: str):
        self.root = root
        self.owner = owner

    def folder(self, stage: str, product: str) -> Path:
        return self.root / stage / product

    def has(self, stage: str, product: str) -> bool:
        return self.folder(stage, product).is_dir()

    @contextmanager
    def scratch(self, stage: str, product: str) -> Iterator[Path]:
        """An empty folder beside the product; whatever is in it at the end is removed."""
        name = f".{product}-{self.owner}.partial"
        folder = self.root / stage / name
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            _remove(folder)

    def finish(self, folder: Path, stage: str, product: str, manifest: dict[str, Value]) -> None:
        """Make a `scratch` folder the product. One that another run finished first is kept: it is
        the same."""
        write_json(folder / MANIFEST, manifest)
        try:
            folder.rename(self.folder(stage, product))
        except OSError:
            if not self.has(stage, product):
                raise

    def clean(self) -> None:
        """Remove what this run and dead runs of this machine left unfinished."""
        for folder in self.root.glob("*/.*.partial"):
            match = _PARTIAL.fullmatch(folder.name)
            if match and (
                match["owner"] == self.owner
                or (match["host"] == self.owner.partition("@")[2] and not _runs(int(match["pid"])))
            ):
                _remove(folder)
        for folder in self.root.glob("*/.*.removed"):
            shutil.rmtree(folder, ignore_errors=True)

    def seconds(self, stage: str, version: int, threads: int) -> list[float]:
        """Measured seconds of the stage's finished products."""
        found = []
        for file in (self.root / stage).glob(f"[0-9a-f]*/{MANIFEST}"):
            manifest = json.loads(file.read_text(encoding="ascii"))
            if (manifest["version"], manifest["threads"]) == (version, threads):
                found.append(float(manifest["seconds"]))
        return found


def _remove(folder: Path) -> None:
    # A worker of a killed run may live a moment longer. After the renaming it can no longer turn
    # a folder that is half removed into a product.
    doomed = folder.with_name(f".{secrets.token_hex(8)}.removed")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return  # it became a product
    shutil.rmtree(doomed, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
