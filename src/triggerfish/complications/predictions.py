"""The paired predictions that every figure derives from, in files, so that others can check or
recompute them: one compressed NumPy file for each task and model, and one JSON file that says what
they hold.

Legend: N texts, K classes, S heads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy.special import softmax

from triggerfish.complications.adapted import Adapted, Predictions
from triggerfish.facts import environment, facts
from triggerfish.marking import Placement
from triggerfish.records import Trigger
from triggerfish.writing import write_text, writing

Marked = Mapping[tuple[int, Placement], Predictions]
"""(number of the trigger, placement) -> predictions with it."""


FILE = "predictions.json"


class Kept:
    """A folder of predictions; it is made when it is not there.

    predictions.json lists them, with the model and the task of each: `ids` (N,) the first 16
    hexadecimal digits of the SHA-256 of each text; `truth` (N,) true labels; `clean.labels` (S, N),
    `clean.p` (S, N, K) float16; and the same two under `T.POLICY`, of the first texts, for trigger
    number T and every placement."""

    def __init__(self, folder: Path, triggers: Sequence[Trigger], seed: int):
        self.folder, self.triggers, self.seed = folder, list(triggers), seed
        self.files: list[dict[str, object]] = []
        self._list()

    def add(self, adapted: Adapted, marked: Marked, *, reference: bool = False) -> None:
        """Write the predictions of one model on one task, and what is known of both."""
        name = f"task{len(self.files)}{'.reference' if reference else ''}.npz"
        arrays = {
            "ids": np.array(
                [hashlib.sha256(text.encode()).hexdigest()[:16] for text in adapted.texts]
            ),
            "truth": adapted.truth,
            **_both("clean", adapted.clean),
        }
        for (number, policy), predictions in marked.items():
            arrays |= _both(f"{number}.{policy}", predictions)
        with writing(self.folder / name) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        settings = adapted.settings
        self.files.append(
            {
                "file": name,
                "task": adapted.task.name,
                "labels": adapted.task.labels,
                "reference": reference,
                "model": asdict(facts(adapted.backbone)),
                "mode": settings.mode,
                "readout": str(adapted.heads[0].readout),
                "max_tokens": adapted.inputs.max_tokens,
                "environment": environment(adapted.backbone),
            }
        )
        self._list()

    def _list(self) -> None:
        manifest = {
            "seed": self.seed,
            "triggers": [asdict(trigger) for trigger in self.triggers],
            "files": self.files,
        }
        write_text(self.folder / FILE, json.dumps(manifest, indent=1) + "\n")


def _both(name: str, predictions: Predictions) -> dict[str, np.ndarray]:
    probabilities = softmax(predictions.logits.astype(np.float64), axis=-1)
    return {
        f"{name}.labels": predictions.labels.astype(np.int16),
        f"{name}.p": probabilities.astype(np.float16),
    }
