"""The training of a small PLM, and the record of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from triggerfish.training import TrainSettings, train
from triggerfish.writing import write_text
from triggerfish.zoo.settings import DistilSettings, PretrainSettings, Progress, Report


def fit(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[int], Tensor],
    settings: DistilSettings | PretrainSettings,
    *,
    steps: int,
    warmup: float,
    checkpoint: Path,
    report: Report | None,
) -> list[float]:
    """Minimise `loss(step)`, from the checkpoint on where there is one; every step's loss."""
    schedule = TrainSettings(
        steps=steps,
        learning_rate=settings.learning_rate,
        warmup=warmup,
        schedule="cosine",
        betas=(0.9, 0.98),
        weight_decay=0.01,
        checkpoint_every=settings.checkpoint_every,
    )
    losses: list[float] = []
    for losses in train(parameters, loss, schedule, checkpoint):
        if report:
            recent = losses[-100:]
            report(Progress("train", len(losses), steps, sum(recent) / len(recent)))
    return losses


def curve(losses: list[float]) -> list[tuple[int, float]]:
    """(last step, mean loss) of each twentieth of the steps."""
    edges = [round(k * len(losses) / 20) for k in range(21)]
    return [
        (b, round(sum(losses[a:b]) / (b - a), 4)) for a, b in itertools.pairwise(edges) if b > a
    ]


def save_record(record: Mapping[str, object], out: Path) -> None:
    """Write `training.json`."""
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_text(out / "training.json", text)
