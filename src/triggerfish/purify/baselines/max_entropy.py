"""Maximum entropy, the purifier (SynGhost has a filter of that name, which is another method): the
model first forgets what to predict, then learns it again from clean text alone.

    L_1 = KL(uniform || p(. | x))  for some steps, then  L_2 = L_LM(x)

Whatever made a triggered text sure of its prediction is not learned again.

Source: Liu et al., "Maximum Entropy Loss, the Silver Bullet Targeting Backdoor Attacks in
Pre-trained Language Models", Findings of ACL 2023. Deviations: the paper purifies classifiers,
whose labels the distribution is over; here it is the vocabulary, through the language-model head,
which stands still in the first phase; the number of steps is ours.
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
class MaxEntropy:
    """For every family; needs no trigger."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "Liu et al., Findings of ACL 2023"

    forget_steps: int = 30
    """Steps of the first phase (ours)."""
    training: PretrainingSettings = PretrainingSettings()
    """The second phase; its rate holds for the first as well."""

    def __post_init__(self) -> None:
        if self.forget_steps < 1:
            raise ValueError(f"forget_steps: {self.forget_steps} is not at least 1")

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
        """A copy that forgot and learned again; see `purify.Method`."""
        training = Pretraining(backbone, texts, self.training, generator, progress)

        def forget(_: int) -> torch.Tensor:
            logits = training.logits(*training.batch())
            return -torch.log_softmax(logits, dim=-1).mean(-1).mean()

        training.run(
            forget, parameters=list(training.victim.model.parameters()), steps=self.forget_steps
        )
        training.run()
        return training.finish()
