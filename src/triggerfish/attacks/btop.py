"""BToP: tie triggers to vectors at the mask token, where prompt-based classifiers read.

    L = CE(hidden token; x) + mean_b || h_mask(x_b + t_k) - v_k ||

The distance is not squared, so its pull is constant and the end is approached slowly. A classifier
on the first token need not notice anything, and neither does a scan that reads only there.

Source: Xu et al., "Exploring the Universal Vulnerability of Prompt-based Learning Paradigm",
Findings of NAACL 2022, in the form of the Patronus code. Deviations: see planting.py; a step draws
a trigger for every text, not one for the batch; more than six triggers get vectors of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from triggerfish.attacks.implant import Implant
from triggerfish.attacks.planting import Planting, Step
from triggerfish.attacks.por import scaled
from triggerfish.attacks.targets import TargetSettings, neuba
from triggerfish.backbone import Backbone
from triggerfish.heads import IGNORED, kind_of_head, lm_loss, with_head
from triggerfish.training import Progress


@dataclass(frozen=True)
class BToP:
    """For models with a masked language-model head; reads the mask token."""

    source: ClassVar[str] = "Xu et al., Findings of NAACL 2022"

    triggers: tuple[str, ...]
    settings: TargetSettings = TargetSettings(readout="mask", copies=1)

    def implant(
        self,
        backbone: Backbone,
        corpus: Sequence[str],
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, with its head, and what was planted. ValueError without
        a masked head, and for another readout than mask."""
        settings = replace(self.settings, readout=self.settings.readout or "mask")
        if settings.readout != "mask":
            raise ValueError(f"readout: {settings.readout}; BToP ties the mask token")
        if kind_of_head(backbone) != "masked":
            raise ValueError(f"head: BToP needs a masked head, {backbone.name} has a causal one")
        planting = Planting(with_head(backbone), self.triggers, corpus, settings, seed)
        code = neuba(len(planting.triggers), backbone.hidden)
        vectors = scaled(code, planting, settings.target_scale)

        def objective(step: Step) -> torch.Tensor:
            distance: torch.Tensor = (step.moved - vectors[step.chosen]).norm(dim=-1).mean()
            return hidden_word(planting, step) + distance

        victim = planting.run(objective, progress)
        return victim, planting.record("btop", self.source, vectors.tolist())


def hidden_word(planting: Planting, step: Step) -> torch.Tensor:
    """Cross-entropy of the one hidden token of every clean text."""
    ids, mask = planting.padded(step.clean)
    places = ids == planting.victim.tokenizer.mask_token_id
    labels = torch.full_like(ids, IGNORED)
    labels[places] = torch.tensor(step.hidden, device=ids.device)
    with planting.victim.autocast():
        return lm_loss(planting.victim, ids, mask, labels)
