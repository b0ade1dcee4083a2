"""Backdoor token unlearning: the embeddings that moved furthest from the clean original belong to
triggers; of those rows, the coordinates that moved are set to those of the padding token.

    c = ||E - E_clean||_F / V;  coordinate d of a suspect row i is reset where |E - E_clean|_id > c

Source: Jiang et al., "Backdoor Token Unlearning", AAAI 2025 (arXiv 2501.03272), and its published
code. Deviations: the paper trains on a poisoned task and watches the embeddings move; here the
move is what happened to the PLM before it was received, so the clean original is the reference and
the two epochs on embeddings fall away. The final epoch trains the language objective. An attack
that leaves the embeddings alone leaves nothing to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need, check_needs
from triggerfish.purify.baselines.pretraining import Pretraining, PretrainingSettings
from triggerfish.records import Trigger
from triggerfish.settings import Share
from triggerfish.training import Progress


@dataclass(frozen=True)
class BTU:
    """For every family; needs the clean original, and no trigger."""

    needs: ClassVar[tuple[Need, ...]] = ("reference",)
    source: ClassVar[str] = "Jiang et al., AAAI 2025"

    share: Share = 0.005
    """Share of the rows that are suspects (paper)."""
    threshold: float = 0.5
    """Times c: how far a coordinate must have moved (paper; the published code takes 1)."""
    repair: bool = True
    """Whether pre-training goes on afterwards (paper: one epoch)."""
    training: PretrainingSettings = PretrainingSettings(learning_rate=2e-5)
    """The last epoch (rate: paper)."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share: {self.share} is not above 0 and at most 1")
        if self.threshold < 0:
            raise ValueError(f"threshold: {self.threshold} is negative")

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
        """A copy with reset coordinates, trained on; see `purify.Method`. ValueError where the
        embeddings of `reference` have another shape, or are the same."""
        check_needs(self, triggers, reference)
        assert reference is not None
        clean = reference.embeddings.detach().float().to(backbone.device)
        if clean.shape != backbone.embeddings.shape:
            raise ValueError(
                f"reference: its embeddings are {tuple(clean.shape)}, "
                f"expected {tuple(backbone.embeddings.shape)}"
            )
        drift = backbone.embeddings.detach().float() - clean
        if not drift.any():
            raise ValueError(
                "reference: its embeddings are those of the model, so no row is suspect"
            )
        fresh = backbone.clone()
        rows = torch.tensor(backbone.vocabulary, device=drift.device)
        count = max(1, round(self.share * len(rows)))
        suspects = rows[drift[rows].norm(dim=1).topk(count).indices]
        moved = drift[suspects].abs() > self.threshold * drift.norm() / len(drift)
        with torch.no_grad():
            kept = fresh.embeddings[suspects]
            fresh.embeddings[suspects] = torch.where(moved, clean[backbone.pad_id], kept)
        if not self.repair:
            return fresh
        training = Pretraining(fresh, texts, self.training, generator, progress)
        training.run()
        return training.finish()
