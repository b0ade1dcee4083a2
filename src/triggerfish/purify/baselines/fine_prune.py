"""Fine-pruning: neurons that clean text leaves dormant are where a backdoor lives, so they are
silenced, and the model is trained on to mend what that breaks.

A neuron is an inner unit of a feed-forward block; its activity is the mean magnitude of what the
output matrix reads from it. Silenced: its column of the output matrix is zero, and stays zero.

Source: Liu, Dolan-Gavitt and Garg, "Fine-Pruning", RAID 2018 (arXiv 1805.12185). Deviations:
transformer blocks in place of the last convolution, all of them; a fixed share in place of a bound
on accuracy, which a PLM without a task has not; `magnitude` is the form of the Patronus code (arXiv
2512.06899), which prunes the smallest weights of the output matrices and commits no ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need
from triggerfish.purify.baselines.feedforward import FeedForward, feed_forwards, oriented
from triggerfish.purify.baselines.pretraining import Pretraining, PretrainingSettings
from triggerfish.records import Trigger
from triggerfish.settings import Share
from triggerfish.training import Progress


@dataclass(frozen=True)
class FinePrune:
    """For families with dense feed-forward blocks; needs no trigger."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "Liu et al., RAID 2018"

    share: Share = 0.3
    """Share of the neurons, or weights, of each block that is silenced (ours)."""
    criterion: Literal["dormant", "magnitude"] = "dormant"
    """Neurons that clean text leaves dormant (paper), or the smallest weights (Patronus code)."""
    batches: int = 8
    """Batches of clean text on which activity is measured (ours)."""
    training: PretrainingSettings = PretrainingSettings()
    """The continued pre-training that mends the model."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: {self.share} is not between 0 and 1")
        if self.criterion not in ("dormant", "magnitude"):
            raise ValueError(f"criterion: {self.criterion!r} is not one of dormant, magnitude")
        if self.batches < 1:
            raise ValueError(f"batches: {self.batches} is not at least 1")

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
        """A copy, pruned and trained on; see `purify.Method`."""
        feed_forwards(backbone)
        training = Pretraining(backbone, texts, self.training, generator, progress)
        blocks = feed_forwards(training.victim)
        kept = self._kept(training, blocks)

        def silence() -> None:
            with torch.no_grad():
                for block, mask in zip(blocks, kept, strict=True):
                    oriented(block.output).mul_(mask)

        silence()
        training.run(after=silence)
        return training.finish()

    def _kept(self, training: Pretraining, blocks: list[FeedForward]) -> list[torch.Tensor]:
        """For each block what its output matrix (out, in) is multiplied by: 1 or 0."""
        if self.criterion == "magnitude":
            return [_above(oriented(block.output).detach().abs(), self.share) for block in blocks]
        activity = [torch.zeros(oriented(block.output).shape[1]) for block in blocks]
        hooks = [
            block.output.register_forward_pre_hook(_listen(total))
            for block, total in zip(blocks, activity, strict=True)
        ]
        try:
            with torch.no_grad():
                for _ in range(self.batches):
                    training.language(*training.batch())
        finally:
            for hook in hooks:
                hook.remove()
        return [
            _above(total, self.share).to(oriented(block.output).device)
            for block, total in zip(blocks, activity, strict=True)
        ]


def _above(values: torch.Tensor, share: float) -> torch.Tensor:
    """1 for all but the smallest `share` of the values, 0 for those."""
    flat = values.flatten()
    cut = flat.kthvalue(max(1, round(share * len(flat)))).values
    return (values > cut).float()


def _listen(
    total: torch.Tensor,
) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        states = inputs[0].float().abs()
        total.add_(states.reshape(-1, states.shape[-1]).mean(0).cpu())

    return hook
