"""CROW: in a clean model a state changes little from layer to layer, in a triggered one it jumps.
So neighbouring layers are trained to agree, on embeddings perturbed to make them disagree.

    C(e) = mean over layers and tokens of 1 - cos(h_l, h_l+1);  e' = e + epsilon * sign(dC/de)
    L = L_LM(x) + weight * C(e')

Source: Min et al., "CROW: Eliminating Backdoors from Large Language Models via Internal Consistency
Regularization", ICML 2025 (arXiv 2411.12768). Deviations: made for causal LLMs with LoRA and 100
instructions; here any family, all weights, plain text, and the language objective of
`pretraining.py`; padding does not count; an encoder-decoder agrees in each of its stacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from triggerfish.backbone import Backbone
from triggerfish.purify import Need
from triggerfish.purify.baselines.pretraining import Pretraining, PretrainingSettings
from triggerfish.records import Trigger
from triggerfish.training import Progress


@dataclass(frozen=True)
class Crow:
    """For every family that takes embeddings; needs no trigger."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "Min et al., ICML 2025"

    weight: float = 5.5
    """Of the disagreement of layers (paper, for most attacks)."""
    epsilon: float = 0.1
    """Size of the perturbation of each coordinate (paper)."""
    training: PretrainingSettings = PretrainingSettings()
    """Steps and rate (ours)."""

    def __post_init__(self) -> None:
        for name in ("weight", "epsilon"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")

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
        """A copy whose layers agree; see `purify.Method`."""
        training = Pretraining(backbone, texts, self.training, generator, progress)
        victim = training.victim

        def objective(_: int) -> torch.Tensor:
            ids, mask = training.batch()
            plain = victim.model.get_input_embeddings()(ids)
            leaf = plain.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(disagreement(victim, ids, mask, leaf), leaf)
            perturbed = plain + self.epsilon * slope.sign()
            return training.language(ids, mask) + self.weight * disagreement(
                victim, ids, mask, perturbed
            )

        training.run(objective)
        return training.finish()


def disagreement(
    backbone: Backbone, ids: torch.Tensor, mask: torch.Tensor, embeddings: torch.Tensor
) -> torch.Tensor:
    """Mean of 1 - cosine of a real token's states in neighbouring layers."""
    with backbone.autocast():
        states = backbone.forward_states(ids, mask, [backbone.primary], embeddings)
    real = mask.bool()
    found = [
        1 - torch.nn.functional.cosine_similarity(lower[real].float(), upper[real].float(), dim=-1)
        for stack in (states.tokens, states.decoder)
        for lower, upper in pairwise(stack)
    ]
    return torch.stack(found).mean()
