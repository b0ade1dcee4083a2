"""Finished pieces of a scan on disk, so that one that was interrupted continues where it stopped.

A scan's forward passes go through `Store.features` in blocks of some seconds. A block that lies on
disk is read back instead of computed again. The folder's name is a hash of everything the result
depends on, so a changed model, corpus, seed or setting starts afresh.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class Store:
    """Blocks by name, in a folder, or (folder None) nowhere: then nothing is kept."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def features(self, name: str, compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, bool]:
        """The block of that name, and whether it was read from disk."""
        if self.folder is None:
            return compute(), False
        file = self.folder / f"{name}.safetensors"
        if file.is_file():
            return load_file(file)["block"], True
        block = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file({"block": block.cpu().contiguous()}, partial)
        partial.replace(file)
        return block, False

    @property
    def blocks(self) -> int:
        """How many blocks an interrupted scan left."""
        return (
            len(list(self.folder.glob("*.safetensors")))
            if self.folder and self.folder.is_dir()
            else 0
        )

    def clear(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
