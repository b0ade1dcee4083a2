"""LMSanitator's monitor: texts whose representation points where a recovered target vector points.

The defence inverts the target vectors of a frozen PLM, and at run time compares the signs of its
output with theirs: a text is rejected if more than 0.8 of the coordinates agree with one of them.
That is the right question for prompt-tuning, where the PLM stays frozen. Full fine-tuning moves
the output of triggered texts too; here one can watch either the fine-tuned model, or a frozen copy
beside it, at the price of a second forward pass.

Source: Wei et al., "LMSanitator", NDSS 2024 (arXiv 2308.13904), section on monitoring. Deviation:
the vectors are not inverted but read off, as the mean readout of texts that carry a trigger which
a scan has found. No inversion could do better, so this monitor is at its best.

Legend: N texts, T triggers, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from triggerfish.backbone import Backbone
from triggerfish.guards.threshold import Threshold
from triggerfish.marking import mark
from triggerfish.readouts import Readout
from triggerfish.records import Trigger

PUBLISHED = Threshold(0.8)
"""Share of agreeing signs above which a text is rejected (published code)."""


def target_vectors(
    backbone: Backbone,
    triggers: Sequence[Trigger],
    texts: Sequence[str],
    *,
    readout: Readout | None = None,
    copies: int = 1,
    max_tokens: int | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """(T, H) mean readouts of `texts` with each trigger in them `copies` times."""
    if not triggers or not texts:
        raise ValueError("triggers, texts: at least one of each is needed")
    rng = random.Random(seed)
    read = [readout or backbone.primary]
    means = []
    for trigger in triggers:
        ids = [
            mark(backbone, text, trigger, copies=copies, rng=rng, max_tokens=max_tokens)
            for text in texts
        ]
        means.append(backbone.encode_ids(ids, readouts=read)[:, 0].mean(0))
    return torch.stack(means).cpu()


class VectorMonitor:
    """backbone: the model that is watched, fine-tuned or frozen; vectors: (T, H) of the frozen
    PLM."""

    def __init__(
        self,
        backbone: Backbone,
        vectors: torch.Tensor,
        *,
        readout: Readout | None = None,
        max_tokens: int | None = None,
    ):
        if vectors.ndim != 2 or vectors.shape[1] != backbone.hidden or not len(vectors):
            raise ValueError(
                f"vectors: {tuple(vectors.shape)} is not (T, {backbone.hidden}) with T of 1 or more"
            )
        self.backbone = backbone
        self.signs = vectors.sign()
        self.readout = readout or backbone.primary
        self.max_tokens = max_tokens

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Largest share, over the vectors, of coordinates whose sign agrees."""
        backbone = self.backbone
        ids = [backbone.template.wrap(backbone.tokenize(text, self.max_tokens)) for text in texts]
        signs = backbone.encode_ids(ids, readouts=[self.readout])[:, 0].cpu().sign()
        agreeing = (signs[:, None] == self.signs[None]).float().mean(2)
        shares: list[float] = agreeing.max(1).values.tolist()
        return shares
