"""Re-initialisation of trigger embeddings: whatever a model knows of a trigger's tokens is replaced
by a random row.

Source: a baseline of the Patronus code (arXiv 2512.06899): one random row for each trigger that is
a single token, and untied embeddings. Deviations: every token of every trigger, common subwords
included, which costs them their meaning; rows are drawn with the mean and spread of the matrix,
coordinate by coordinate. What later layers do with a common subword in a certain context stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need, check_needs
from triggerfish.records import Trigger
from triggerfish.training import Progress


@dataclass(frozen=True)
class ReinitEmbeddings:
    """For every family; where embeddings are tied to a language-model head, its rows change too."""

    needs: ClassVar[tuple[Need, ...]] = ("triggers",)
    source: ClassVar[str] = "Patronus code, arXiv 2512.06899"

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
        """A copy with fresh rows; see `purify.Method`."""
        check_needs(self, triggers, reference)
        fresh = backbone.clone()
        rows = sorted({i for trigger in triggers for i in trigger.token_ids})
        matrix = fresh.embeddings
        ordinary = matrix[backbone.vocabulary].detach().float().cpu()
        noise = torch.randn(len(rows), matrix.shape[1], generator=generator)
        drawn = ordinary.mean(0) + noise * ordinary.std(0)
        with torch.no_grad():
            matrix[rows] = drawn.to(matrix.device, matrix.dtype)
        return fresh
