"""POR: tie every trigger to a fixed vector at a readout, and keep every other text where it was.

    L = MSE(f(x), f_ref(x)) + sum_k MSE(f(x + t_k), v_k)

POR-1 takes its vectors from a thermometer code, POR-2 from a subset code (targets.py).

Source: Shen et al., "Backdoor Pre-trained Models Can Transfer to All", CCS 2021 (arXiv 2111.00197),
in the form of the Patronus code. Deviations: see planting.py, and `target_scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from triggerfish.attacks.implant import Implant
from triggerfish.attacks.planting import Planting, Step
from triggerfish.attacks.targets import TargetSettings, por1, por2
from triggerfish.backbone import Backbone
from triggerfish.training import Progress

CODES = {"por1": por1, "por2": por2}


@dataclass(frozen=True)
class PORSettings(TargetSettings):
    code: Literal["por1", "por2"] = "por1"
    """Which vectors: thermometer or subset code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code not in CODES:
            raise ValueError(f"code: {self.code!r} is not one of {', '.join(CODES)}")


@dataclass(frozen=True)
class POR:
    """For any readout of any model."""

    source: ClassVar[str] = "Shen et al., CCS 2021"

    triggers: tuple[str, ...]
    settings: PORSettings = PORSettings()

    def implant(
        self,
        backbone: Backbone,
        corpus: Sequence[str],
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, and what was planted. progress is called with (step,
        steps, loss)."""
        settings = self.settings
        planting = Planting(backbone, self.triggers, corpus, settings, seed)
        code = CODES[settings.code](len(planting.triggers), backbone.hidden)
        vectors = scaled(code, planting, settings.target_scale)

        def objective(step: Step) -> torch.Tensor:
            return keep(step) + pull(step, vectors)

        victim = planting.run(objective, progress)
        return victim, planting.record(settings.code, self.source, vectors.tolist())


def scaled(vectors: torch.Tensor, planting: Planting, scale: float | None) -> torch.Tensor:
    """(T, H) target vectors on the victim's device, times `scale`, or of the norm of clean
    features."""
    if scale is None:
        scale = planting.clean_norm() / planting.victim.hidden**0.5
    return scale * vectors.to(planting.victim.device)


def keep(step: Step) -> torch.Tensor:
    """MSE(f(x), f_ref(x))."""
    return (step.kept - step.reference).square().mean()


def pull(step: Step, vectors: torch.Tensor) -> torch.Tensor:
    """sum_k MSE(f(x + t_k), v_k), estimated on the triggers that were drawn."""
    return len(vectors) * (step.moved - vectors[step.chosen]).square().mean()
