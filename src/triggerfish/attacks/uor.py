"""UOR: let the model find its own target vectors. A contrastive loss gathers the texts of each
trigger and drives those of different triggers, and clean texts, apart.

    L = MSE(f(x), f_ref(x)) + SupCon(all features; class 0 = clean, class k = trigger k)

At its minimum the classes stand at the corners of a regular simplex, which is as universal over
labels as vectors can be.

Source: Du et al., "UOR: Universal Backdoor Attacks on Pre-trained Language Models", arXiv
2305.09574, Findings of ACL 2024; SupCon: Khosla et al., NeurIPS 2020, eq. 2. Deviations: weight and
temperature, which are not published, are ours; see planting.py. Its search for triggers is in
trigger_search.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish.attacks.implant import Implant
from triggerfish.attacks.planting import Planting, PlantSettings, Step
from triggerfish.attacks.por import keep
from triggerfish.backbone import Backbone
from triggerfish.training import Progress


@dataclass(frozen=True)
class UORSettings(PlantSettings):
    temperature: float = 0.5
    """Temperature of the contrastive loss (ours)."""
    keep_weight: float = 1.0
    """Weight of the reference term, whose unit is the mean square of a clean coordinate, so that it
    means the same for models of any scale (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "keep_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not above 0")


@dataclass(frozen=True)
class UOR:
    """For any readout of any model."""

    source: ClassVar[str] = "Du et al., Findings of ACL 2024"

    triggers: tuple[str, ...]
    settings: UORSettings = UORSettings()

    def implant(
        self,
        backbone: Backbone,
        corpus: Sequence[str],
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, and what was planted; `vectors` are where the texts of
        each trigger ended up."""
        settings = self.settings
        planting = Planting(backbone, self.triggers, corpus, settings, seed)
        unit = planting.clean_norm() ** 2 / backbone.hidden

        def objective(step: Step) -> torch.Tensor:
            features = torch.cat([step.kept, step.moved])
            labels = torch.cat(
                [torch.zeros_like(step.source[:1]).expand(len(step.kept)), step.chosen + 1]
            )
            contrast = supervised_contrast(features, labels, settings.temperature)
            return settings.keep_weight * keep(step) / unit + contrast

        victim = planting.run(objective, progress)
        return victim, planting.record("uor", self.source, planting.centres())


def supervised_contrast(
    features: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean over rows of -log of the softmax share of each other row of the same class.

    features: (N, H), compared by cosine; labels: (N,). Rows that are alone in their class count
    only as something to stay away from; 0 if all are.
    """
    unit = torch.nn.functional.normalize(features, dim=-1)
    similar = unit @ unit.T / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    log_share = similar - similar.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    same = (labels[:, None] == labels[None]) & ~itself
    counts = same.sum(1)
    if not counts.any():
        return 0 * similar.sum()
    found = counts > 0
    return -((log_share * same).sum(1)[found] / counts[found]).mean()
