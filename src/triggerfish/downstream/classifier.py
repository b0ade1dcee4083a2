"""A linear head on one readout of a backbone.

Legend: N texts, C classes, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.downstream.inputs import Inputs, Rows
from triggerfish.readouts import Readout
from triggerfish.records import Measurement, Trigger


@dataclass(frozen=True)
class Classifier:
    """A backbone, one readout of it, and a linear head (H -> C) on that; `inputs` words the texts
    for both."""

    backbone: Backbone
    readout: Readout
    head: torch.nn.Linear
    inputs: Inputs

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.inputs.ids(self.backbone, text) for text in texts]

    def mark(
        self, texts: Sequence[str], trigger: Trigger, copies: int, rng: random.Random
    ) -> list[list[int]]:
        """Ids of texts with the trigger inserted `copies` times, each at a random place."""
        return [self.inputs.mark(self.backbone, text, trigger, copies, rng) for text in texts]

    def logits(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """(N, C) fp32, on the CPU, of id sequences that `encode` or `mark` made."""
        if not sequences:
            return torch.empty(0, self.head.out_features)
        with torch.inference_mode():
            found: torch.Tensor = self.head(features_of(self.backbone, sequences, self.readout))
        return found.cpu()

    def predict(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """(N,) int64 labels, on the CPU."""
        return self.logits(sequences).argmax(1)


def features_of(
    backbone: Backbone, sequences: Sequence[Sequence[int]], readout: Readout
) -> torch.Tensor:
    """(N, H) fp32, computed in the precision of the backbone."""
    return backbone.encode_ids(sequences, readouts=[readout], fast=True)[:, 0]


def accuracy(classifier: Classifier, rows: Rows) -> Measurement:
    """Share of labelled texts that are predicted right."""
    predicted = classifier.predict(classifier.encode([x for x, _ in rows]))
    return Measurement(int((predicted == torch.tensor([y for _, y in rows])).sum()), len(rows))
