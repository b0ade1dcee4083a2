"""Activations on disk, so that an interrupted scan can resume.

A scan sends its forward passes through `ActivationCache.features` in blocks of a few seconds. A
block that is already on disk is read instead of computed. The folder's name is a hash of everything
that the result depends on, so a changed model, corpus, seed or setting uses a new folder, and the
name of a block is a hash of its input.

Nothing here decides a result, so nothing here stops a scan: a file that cannot be read is computed
again, and on a full disk a scan goes on without keeping more. Both are logged.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from triggerfish.records import Provenance, utc
from triggerfish.writing import write_tensors, write_text

CLOCK = "clock.json"
log = logging.getLogger(__name__)


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
        self.keeps = True
        if folder is not None:
            for parent in (folder, *folder.parents):
                if parent.exists() and not parent.is_dir():
                    raise ValueError(
                        f"state: {parent} is not a folder, so no scan can be kept in it"
                    )
            self._read_time(folder / CLOCK)

    def _read_time(self, file: Path) -> None:
        if not file.exists():
            return
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            started, earlier, runs = str(kept["started"]), float(kept["seconds"]), int(kept["runs"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning(
                "state: cannot read %s (%s); the time of earlier runs is not counted", file, error
            )
            return
        self.started, self.earlier, self.runs = started, earlier, runs + 1

    @property
    def seconds(self) -> float:
        """Run time in seconds of this run and of the earlier ones."""
        return self.earlier + time.monotonic() - self.began

    def provenance(self) -> Provenance:
        return Provenance.of(self.seconds, started=self.started, runs=self.runs)

    def features(
        self, name: str, shape: Sequence[int], compute: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, bool]:
        """The block called `name`, which has this shape, and whether it was read from disk."""
        if self.folder is None:
            return compute(), False
        file = self.folder / f"{name}.safetensors"
        if file.exists() and (kept := _read(file, shape)) is not None:
            return kept, True
        block = compute()
        if self.keeps:
            try:
                write_tensors(file, {"block": block.cpu().contiguous()})
                self._keep_time()
            except (OSError, ValueError, SafetensorError) as error:
                self.keeps = False
                log.warning(
                    "state: cannot write to %s (%s); the scan goes on, and if it is interrupted it "
                    "continues from here. Free some space, or name another folder with --state",
                    self.folder,
                    error,
                )
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


def _read(file: Path, shape: Sequence[int]) -> torch.Tensor | None:
    """A block, or None for a file that holds none of this shape."""
    try:
        block = load_file(file)["block"]
        if list(block.shape) != list(shape):
            raise ValueError(f"its shape is {list(block.shape)}, expected {list(shape)}")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        log.warning("state: cannot use %s (%s); it is computed again", file, error)
        return None
    return block
