"""The training loop: its schedules, going on from a checkpoint bit for bit, and divergence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from triggerfish.training import TrainSettings, rate, train

SETTINGS = TrainSettings(
    steps=12,
    learning_rate=0.1,
    schedule="cosine",
    weight_decay=0.01,
    checkpoint_every=4,
)


class Regression:
    """A fresh matrix and bias, to be fitted to numbers that depend on the step alone."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.nn.Parameter(torch.randn(3, 2, generator=generator))
        self.bias = torch.nn.Parameter(torch.zeros(2))
        self.steps: list[int] = []

    def loss(self, step: int) -> torch.Tensor:
        self.steps.append(step)
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        return (x @ self.matrix + self.bias - x[:, :2]).square().mean()

    def run(self, settings: TrainSettings, checkpoint: Path | None = None) -> Iterator[list[float]]:
        return train([self.matrix, self.bias], self.loss, settings, checkpoint)


@pytest.mark.parametrize("settings", [SETTINGS, TrainSettings(steps=12, checkpoint_every=4)])
@pytest.mark.parametrize(("killed_after", "resumed_at"), [(4, 4), (7, 4), (12, 12)])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    settings: TrainSettings, killed_after: int, resumed_at: int, tmp_path: Path
) -> None:
    whole, first, second = Regression(), Regression(), Regression()
    *_, expected = whole.run(settings)
    file = tmp_path / "work" / "run.pt"
    for _ in islice(first.run(settings, file), killed_after):
        pass
    *_, losses = second.run(settings, file)
    assert second.steps == list(range(resumed_at, 12))
    assert losses == expected
    assert torch.equal(second.matrix, whole.matrix)
    assert torch.equal(second.bias, whole.bias)
    with pytest.raises(ValueError, match=r"checkpoint: .*other settings"):
        next(Regression().run(replace(settings, learning_rate=0.2), file))


def test_it_learns_and_yields_after_every_step() -> None:
    counts, losses = [], []
    for losses in Regression().run(replace(SETTINGS, steps=60)):
        counts.append(len(losses))
    assert counts == list(range(1, 61))
    assert losses[-1] < 0.1 * losses[0]


def test_rates_rise_and_fall_as_asked() -> None:
    linear = TrainSettings(steps=10, learning_rate=1.0, warmup=0.2)
    assert [rate(step, linear) for step in range(10)] == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    cosine = TrainSettings(steps=10, learning_rate=2.0, warmup=0.2, schedule="cosine")
    assert [rate(step, cosine) for step in (0, 1, 2, 4, 6, 8, 10)] == pytest.approx(
        [1, 2, 2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0]
    )
    assert rate(0, TrainSettings(steps=1, learning_rate=3.0)) == 3.0


def test_only_matrices_decay() -> None:
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    settings = TrainSettings(steps=1, learning_rate=0.1, weight_decay=0.5)
    list(train([matrix, bias], lambda _: 0 * (matrix.sum() + bias.sum()), settings))
    assert torch.allclose(matrix, torch.full((2, 2), 0.95))
    assert torch.equal(bias, torch.ones(2))


def test_divergence_names_the_learning_rate() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    settings = TrainSettings(steps=5, learning_rate=0.3)
    steps = train([weight], lambda step: weight.sum() / (0.0 if step == 2 else 1.0), settings)
    with pytest.raises(ValueError, match=r"learning_rate: training diverged at 0\.3"):
        list(steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"checkpoint_every": 0}, "checkpoint_every: 0"),
        ({"learning_rate": 0.0}, "learning_rate: 0"),
        ({"schedule": "sine"}, "schedule: 'sine'"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)
