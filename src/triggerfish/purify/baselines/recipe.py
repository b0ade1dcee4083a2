"""RECIPE: a backdoor sits in feed-forward neurons that only its triggers wake, so these shrink
while continued pre-training keeps what clean text needs.

    L = L_LM(x) + weight * sum over layers of ||W_in||_F

Only the feed-forward input matrices W_in are trained. No trigger is used.

Source: Zhu et al., "Removing Backdoors in Pre-trained Models by Regularized Continual
Pre-training", TACL 2023, and its published code. Deviations: any family (both matrices of a gate);
steps and rate are ours, because the norm falls by a fixed amount per step times rate, and the
published eight epochs at 2e-5 are many more steps than two cores take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need
from triggerfish.purify.baselines.feedforward import feed_forwards
from triggerfish.purify.baselines.pretraining import Pretraining, PretrainingSettings
from triggerfish.records import Trigger
from triggerfish.training import Progress


@dataclass(frozen=True)
class Recipe:
    """For families with dense feed-forward blocks; needs no trigger."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "Zhu et al., TACL 2023"

    weight: float = 1.0
    """Of the norms (published code)."""
    training: PretrainingSettings = PretrainingSettings()
    """The continued pre-training (published code: batches of 32 texts of 64 tokens, eight epochs at
    2e-5, falling without a warm-up)."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight: {self.weight} is negative")

    def purify(
        self,
        backbone: Backbone,
        triggers: tuple[Trigger, ...],
        texts: Sequence[str],
        *,
        generator: torch.Generator,
        reference: Backbone | None = None,
        progress: Progress | None = None,
    ) -> Backbone:
        """A copy, trained on; see `purify.Method`."""
        feed_forwards(backbone)
        training = Pretraining(backbone, texts, self.training, generator, progress)
        matrices = [m.weight for block in feed_forwards(training.victim) for m in block.inputs]

        def objective(_: int) -> torch.Tensor:
            norms = torch.stack([matrix.norm() for matrix in matrices]).sum()
            return training.language(*training.batch()) + self.weight * norms

        training.run(objective, parameters=matrices)
        return training.finish()
