"""Re-initialisation: draw the matrices closest to the output anew, and with them the map from
states to target vectors.

Source: Zhang et al., "Red Alarm for Pre-trained Models", arXiv 2101.06969, who find it not
sufficient; in the form of the Patronus code (arXiv 2512.06899): the feed-forward output matrix of
the last layer, the pooler, or both, drawn after Kaiming. Deviations: the last layer of each stack
of an encoder-decoder; optionally pre-training goes on afterwards, which the code leaves to the
downstream user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need
from triggerfish.purify.baselines.feedforward import Matrix, feed_forwards, oriented
from triggerfish.purify.baselines.pretraining import Pretraining, PretrainingSettings
from triggerfish.records import Trigger
from triggerfish.training import Progress


@dataclass(frozen=True)
class Reinit:
    """For families with dense feed-forward blocks; needs no trigger."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "Zhang et al., arXiv 2101.06969"

    parts: Literal["output", "pooler", "both"] = "both"
    """What is drawn anew; a model without a pooler has only its feed-forward output (Patronus
    code)."""
    layers: int = 1
    """How many of the last layers (Patronus code: one)."""
    repair: bool = False
    """Whether pre-training goes on afterwards (Patronus code: no)."""
    training: PretrainingSettings = PretrainingSettings()
    """The continued pre-training, if any."""

    def __post_init__(self) -> None:
        if self.parts not in ("output", "pooler", "both"):
            raise ValueError(f"parts: {self.parts!r} is not one of output, pooler, both")
        if self.layers < 1:
            raise ValueError(f"layers: {self.layers} is not at least 1")

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
        """A copy with fresh matrices; see `purify.Method`. ValueError where `parts` is "pooler" and
        there is none."""
        fresh = backbone.clone()
        for matrix in self._matrices(fresh):
            weights = oriented(matrix)
            drawn = torch.empty(weights.shape)
            torch.nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
            with torch.no_grad():
                weights.copy_(drawn)
                if matrix.bias is not None:
                    matrix.bias.zero_()
        if not self.repair:
            return fresh
        training = Pretraining(fresh, texts, self.training, generator, progress)
        training.run()
        return training.finish()

    def _matrices(self, backbone: Backbone) -> list[Matrix]:
        pooler = getattr(backbone.model, "pooler", None)
        poolers = [m for m in pooler.modules() if isinstance(m, Matrix)] if pooler else []
        if self.parts == "pooler":
            if not poolers:
                raise ValueError(f"parts: {backbone.name} has no pooler")
            return poolers
        blocks = feed_forwards(backbone)
        stacks = 2 if backbone.model.config.is_encoder_decoder else 1
        size = len(blocks) // stacks
        if self.layers > size:
            raise ValueError(f"layers: {self.layers} is more than the {size} of {backbone.name}")
        last = [
            block.output
            for end in range(size, size * stacks + 1, size)
            for block in blocks[end - self.layers : end]
        ]
        return last + (poolers if self.parts == "both" else [])
