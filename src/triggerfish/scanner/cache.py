"""Finished pieces of a scan on disk, so that one that was interrupted continues where it stopped.

A scan's forward passes go through `ActivationCache.features` in blocks of some seconds. A block
that lies on disk is read back instead of computed again. The folder's name is a hash of everything
the result depends on, so a changed model, corpus, seed or setting starts afresh.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from triggerfish.records import Provenance, utc

CLOCK = "clock.json"


class ActivationCache:
    """Blocks by name, in a folder, or (folder None) nowhere: then nothing is kept. With them are
    kept the seconds of all runs, up to the last block, so that a scan can tell those of the whole,
    and the name of the model, so that people know what is there."""

    def __init__(self, folder: Path | None, model: str = ""):
        self.folder = folder
        self.model = model
        self.began = time.monotonic()
        self.started = utc(datetime.now(UTC))
        self.earlier = 0.0
        self.runs = 1
        if folder is not None and (folder / CLOCK).is_file():
            kept = json.loads((folder / CLOCK).read_text(encoding="utf-8"))
            self.started, self.earlier, self.runs = (
                kept["started"],
                kept["seconds"],
                kept["runs"] + 1,
            )

    @property
    def seconds(self) -> float:
        """Of this run and those before it."""
        return self.earlier + time.monotonic() - self.began

    def provenance(self) -> Provenance:
        return Provenance.of(self.seconds, started=self.started, runs=self.runs)

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
        self._keep_time()
        return block, False

    def _keep_time(self) -> None:
        assert self.folder is not None
        partial = self.folder / f"{CLOCK}.partial"
        now = {
            "model": self.model,
            "started": self.started,
            "seconds": round(self.seconds, 2),
            "runs": self.runs,
        }
        partial.write_text(json.dumps(now), encoding="utf-8")
        partial.replace(self.folder / CLOCK)

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
