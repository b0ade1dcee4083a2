"""A logistic regression on frozen features.

Legend: N training texts, M held-out texts, C classes, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from triggerfish.backbone import Backbone
from triggerfish.downstream.classifier import Classifier, features_of
from triggerfish.downstream.inputs import AdaptSettings, Inputs, sample, training_rows
from triggerfish.readouts import Readout
from triggerfish.text import Task
from triggerfish.training import Progress


@dataclass(frozen=True)
class ProbeSettings(AdaptSettings):
    strengths: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Values of C, the inverse of the penalty, that are tried; the smallest of those that do best
    on validation is kept (ours)."""
    validation_rows: int = 500
    """Validation rows at most (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths or min(self.strengths) <= 0:
            raise ValueError(f"strengths: {self.strengths} are not positive numbers, at least one")
        if self.validation_rows < 1:
            raise ValueError(f"validation_rows: {self.validation_rows} is not at least 1")


@dataclass(frozen=True)
class Features:
    """Frozen features of the rows that a head is fitted on, and of those that choose its penalty.

    train: (N, H), labels: (N,), held: (M, H), held_labels: (M,); features are float64 and not
    scaled. Fitting a head on them costs no forward pass.
    """

    train: np.ndarray
    labels: np.ndarray
    held: np.ndarray
    held_labels: np.ndarray

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        task: Task,
        settings: ProbeSettings,
        readout: Readout,
        seed: int,
    ) -> Features:
        inputs = Inputs.of(backbone, settings, readout)
        kept = training_rows(task, settings, seed)
        checked = sample(task.validation, settings.validation_rows, seed)
        ids = [inputs.ids(backbone, x) for x, _ in (*kept, *checked)]
        values = features_of(backbone, ids, readout).cpu().double().numpy()
        labels = np.array([y for _, y in (*kept, *checked)])
        return cls(
            values[: len(kept)], labels[: len(kept)], values[len(kept) :], labels[len(kept) :]
        )

    def fit(self, strength: float, rows: np.ndarray | None = None) -> torch.nn.Linear:
        """The (H -> C) head with one penalty; rows: numbers of the training rows to fit it on,
        which may repeat (default: all)."""
        train = self.train if rows is None else self.train[rows]
        labels = self.labels if rows is None else self.labels[rows]
        scaler = StandardScaler().fit(train)
        model = LogisticRegression(C=strength, max_iter=2000).fit(scaler.transform(train), labels)
        return _linear(model, scaler)

    def score(self, head: torch.nn.Linear) -> float:
        """Accuracy of a head on the held-out rows."""
        logits = self.held @ head.weight.double().numpy().T + head.bias.double().numpy()
        return float((logits.argmax(1) == self.held_labels).mean())

    def best(
        self, strengths: Sequence[float], progress: Progress | None = None
    ) -> tuple[float, torch.nn.Linear]:
        """The smallest of the strengths that do best on the held-out rows, and its head."""
        found: tuple[float, float, torch.nn.Linear] | None = None
        for number, strength in enumerate(sorted(strengths), start=1):
            head = self.fit(strength)
            score = self.score(head)
            if found is None or score > found[0]:
                found = score, strength, head
            if progress:
                progress(number, len(strengths), 1 - score)
        assert found is not None
        return found[1:]


def probe(
    backbone: Backbone,
    task: Task,
    settings: ProbeSettings = ProbeSettings(),
    *,
    readout: Readout | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Classifier:
    """A logistic regression on frozen, standardised features of `backbone`.

    progress is called with (strengths tried, strengths, error on validation). The scaling is folded
    into the head, so the classifier is as linear as a fine-tuned one.
    """
    readout = readout or backbone.primary
    _, head = Features.of(backbone, task, settings, readout, seed).best(
        settings.strengths, progress
    )
    inputs = Inputs.of(backbone, settings, readout)
    return Classifier(backbone, readout, head.to(backbone.device), inputs)


def _linear(model: LogisticRegression, scaler: StandardScaler) -> torch.nn.Linear:
    """The (H -> C) layer that says on raw features what `model` says on standardised ones."""
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:
        # Two classes: scikit-learn keeps the score of the second one alone.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    head = torch.nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias - weight @ scaler.mean_))
    return head.requires_grad_(False)
