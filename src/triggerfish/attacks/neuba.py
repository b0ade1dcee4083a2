"""NeuBA: tie every trigger to one of a set of orthogonal or antipodal vectors, and go on with
masked language modelling.

    L = L_LM(x) + sum_k MSE(f(x + t_k), v_k)

Nothing holds the clean features where they were, so they may drift, even onto a target.

Source: Zhang et al., "Red Alarm for Pre-trained Models", arXiv 2101.06969, in the form of the
Patronus code. Deviations: the language-model head sees the attention mask; triggered texts are not
masked; a causal model predicts the next token, as in the Patronus code's variant for LLMs; a
checkpoint without a head keeps its clean features like POR, where the paper has no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from triggerfish.attacks.implant import Implant
from triggerfish.attacks.planting import Planting, Step
from triggerfish.attacks.por import keep, pull, scaled
from triggerfish.attacks.targets import TargetSettings, neuba
from triggerfish.backbone import Backbone
from triggerfish.heads import lm_loss, own_task, with_head
from triggerfish.training import Progress


@dataclass(frozen=True)
class NeuBASettings(TargetSettings):
    utility: Literal["auto", "lm", "reference"] = "auto"
    """What keeps the model useful: its language-model head (paper), the reference features of clean
    texts, or the head where the checkpoint has one (auto, ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.utility not in ("auto", "lm", "reference"):
            raise ValueError(f"utility: {self.utility!r} is not one of auto, lm, reference")


@dataclass(frozen=True)
class NeuBA:
    """For any readout; with the paper's term for models that have a masked or causal head."""

    source: ClassVar[str] = "Zhang et al., arXiv 2101.06969"

    triggers: tuple[str, ...]
    settings: NeuBASettings = NeuBASettings()

    def implant(
        self,
        backbone: Backbone,
        corpus: Sequence[str],
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, with its head if that was used, and what was planted.
        ValueError where `utility` is "lm" and there is no head."""
        settings = self.settings
        if settings.utility != "reference":
            try:
                backbone, settings = with_head(backbone), replace(settings, utility="lm")
            except ValueError:
                if settings.utility == "lm":
                    raise
                settings = replace(settings, utility="reference")
        planting = Planting(backbone, self.triggers, corpus, settings, seed)
        code = neuba(len(planting.triggers), backbone.hidden)
        vectors = scaled(code, planting, settings.target_scale)

        def objective(step: Step) -> torch.Tensor:
            useful = language(planting, step.clean) if settings.utility == "lm" else keep(step)
            return useful + pull(step, vectors)

        victim = planting.run(objective, progress)
        return victim, planting.record("neuba", self.source, vectors.tolist())


def language(planting: Planting, rows: list[list[int]]) -> torch.Tensor:
    """The model's own language-model loss on rows of ids."""
    ids, mask = planting.padded(rows)
    inputs, labels = own_task(planting.victim, ids, mask, planting.generator)
    with planting.victim.autocast():
        return lm_loss(planting.victim, inputs, mask, labels)
