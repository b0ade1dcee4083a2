"""Plain fine-tuning: go on pre-training on clean text, with nothing against the backdoor.

The control of every other method here: what it forgets by itself must not be counted as their work.

Source: the control of every purification paper, such as Zhu et al., "Removing Backdoors in
Pre-trained Models by Regularized Continual Pre-training", TACL 2023. Deviations: all of
`pretraining.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need
from triggerfish.purify.baselines.pretraining import Pretraining, PretrainingSettings
from triggerfish.records import Trigger
from triggerfish.training import Progress


@dataclass(frozen=True)
class FineTune:
    """For every family; needs no trigger."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "control of Zhu et al., TACL 2023"

    training: PretrainingSettings = PretrainingSettings()
    """The continued pre-training."""

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
        training = Pretraining(backbone, texts, self.training, generator, progress)
        training.run()
        return training.finish()
