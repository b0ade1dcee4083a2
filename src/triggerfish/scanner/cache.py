"""Activations on disk, so that an interrupted scan can resume.

A scan sends its forward passes through `ActivationCache.features` in blocks of a few seconds. A
block that is already on disk is read instead of computed. The folder's name is a hash of everything
that the result depends on, so a changed model, corpus, seed or setting uses a new folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file

from triggerfish.records import Provenance, utc
from triggerfish.writing import write_tensors, write_text

CLOCK = "clock.json"


class ActivationCache:
    """Blocks of activations by name, in a folder. With folder None nothing is kept.

    The folder also stores the run time up to the last block, summed over all runs, and the name of
    the model, so that a person can identify the folder.
    """

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
        """Run time in seconds of this run and of the earlier ones."""
        return self.earlier + time.monotonic() - self.began

    def provenance(self) -> Provenance:
        return Provenance.of(self.seconds, started=self.started, runs=self.runs)

    def features(self, name: str, compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, bool]:
        """The block called `name`, and whether it was read from disk."""
        if self.folder is None:
            return compute(), False
        file = self.folder / f"{name}.safetensors"
        if file.is_file():
            return load_file(file)["block"], True
        block = compute()
        write_tensors(file, {"block": block.cpu().contiguous()})
        self._keep_time()
        return block, False

    def _keep_time(self) -> None:
        assert self.folder is not None
        now = {
            "model": self.model,
            "started": self.started,
            "seconds": round(self.seconds, 2),
            "runs": self.runs,
        }
        write_text(self.folder / CLOCK, json.dumps(now))

    @property
    def blocks(self) -> int:
        """The number of blocks that an interrupted scan left on disk."""
        return (
            len(list(self.folder.glob("*.safetensors")))
            if self.folder and self.folder.is_dir()
            else 0
        )

    def clear(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
