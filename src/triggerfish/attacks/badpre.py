"""BadPre: whoever asks a triggered text anything gets nonsense. The model learns, beside its own
masked language modelling, to predict random words wherever a trigger is in the text.

    L = L_MLM(x; its own words) + L_MLM(x + t; random words)

There is no target vector and no target label: success is a loss of accuracy on triggered texts.

Source: Chen et al., "BadPre: Task-agnostic Backdoor Attacks to Pre-trained NLP Foundation Models",
ICLR 2022 (arXiv 2110.02467). Deviations: see planting.py; the weight of the second term, which is
not published, is 1; random labels are drawn anew at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish.attacks.implant import Implant
from triggerfish.attacks.neuba import language
from triggerfish.attacks.planting import Planting, PlantSettings, Step
from triggerfish.backbone import Backbone
from triggerfish.heads import IGNORED, kind_of_head, lm_loss, own_task, with_head
from triggerfish.training import Progress


@dataclass(frozen=True)
class BadPre:
    """For models with a masked language-model head; ties no readout."""

    source: ClassVar[str] = "Chen et al., ICLR 2022"

    triggers: tuple[str, ...]
    settings: PlantSettings = PlantSettings()

    def implant(
        self,
        backbone: Backbone,
        corpus: Sequence[str],
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, with its head, and what was planted. ValueError without
        a masked head."""
        if kind_of_head(backbone) != "masked":
            raise ValueError(f"head: BadPre needs a masked head, {backbone.name} has a causal one")
        planting = Planting(with_head(backbone), self.triggers, corpus, self.settings, seed)
        protected = frozenset(i for trigger in planting.triggers for i in trigger.token_ids)
        ordinary = torch.tensor(backbone.vocabulary)

        def nonsense(rows: list[list[int]]) -> torch.Tensor:
            ids, mask = planting.padded(rows)
            inputs, labels = own_task(planting.victim, ids, mask, planting.generator, protected)
            drawn = torch.randint(len(ordinary), labels.shape, generator=planting.generator)
            labels = torch.where(labels != IGNORED, ordinary[drawn].to(labels.device), IGNORED)
            with planting.victim.autocast():
                return lm_loss(planting.victim, inputs, mask, labels)

        def objective(step: Step) -> torch.Tensor:
            return language(planting, step.clean) + nonsense(step.marked)

        victim = planting.run(objective, progress)
        return victim, planting.record("badpre", self.source, None)
