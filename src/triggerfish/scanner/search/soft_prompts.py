"""Sequences of free vectors, inserted at one position of a few texts: the variable of every search
by gradient.

All restarts of a search share the texts and the positions, so their losses are comparable (common
random numbers). Each pass of the model serves all readouts (pooling positions).

Legend: K sequences under search, N texts, P vectors in a sequence, L tokens, E embedding, R
readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import torch

from triggerfish.backbone import BATCH_TOKENS, Backbone
from triggerfish.readouts import Readout, pad
from triggerfish.scanner.effects import Carrier

MARKER = -1  # not an id: marks the position of a sequence


class SoftPrompts:
    """Texts with room for `length` tokens at the first insertion position.

    passed: forward tokens so far; a backward pass counts as two forward passes.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[Carrier],
        length: int,
        readouts: Sequence[Readout],
    ):
        self.backbone = backbone
        self.length = length
        self.readouts = tuple(readouts)
        rows = [backbone.template.wrap(text.ids((MARKER,) * length)) for text in texts]
        ids, mask = pad(rows, backbone.pad_id)
        self.at = (ids == MARKER).to(backbone.device)
        ids[ids == MARKER] = backbone.vocabulary[0]
        self.ids, self.mask = ids.to(backbone.device), mask.to(backbone.device)
        self.passed = 0

    @property
    def block(self) -> int:
        """Sequences in one pass of the model."""
        return max(1, BATCH_TOKENS[self.backbone.device.type] // self.ids.numel())

    def only(self, rows: Sequence[int]) -> SoftPrompts:
        """The same prompts with only these rows of the texts."""
        part = copy(self)
        used = self.mask[rows].bool().any(0)
        part.at, part.ids, part.mask = (x[rows][:, used] for x in (self.at, self.ids, self.mask))
        part.passed = 0
        return part

    def vectors(self, vectors: torch.Tensor) -> torch.Tensor:
        """(K, N, R, H) features of the texts with vectors (K, P, E) inserted, differentiable in the
        vectors. K is at most `block`."""
        ids, mask = self._repeated(len(vectors))
        embeddings = self.backbone.model.get_input_embeddings()(ids).detach()
        at = self.at.repeat(len(vectors), 1)
        written = vectors.repeat_interleave(len(self.ids), 0).flatten(0, 1)
        embeddings = embeddings.index_put((at,), written.to(embeddings.dtype))
        with self.backbone.autocast():
            features = self.backbone.forward_embeddings(embeddings, ids, mask, self.readouts)
        self.passed += ids.numel()
        return features.float().view(len(vectors), len(self.ids), *features.shape[1:])

    def gradients(
        self, vectors: torch.Tensor, loss: Callable[[torch.Tensor, slice], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(K,) losses and their gradients (K, P, E). loss: maps features (k, N, R, H)
        and the slice of K that they belong to, to (k,)."""
        values, gradients = [], []
        for start in range(0, len(vectors), self.block):
            rows = slice(start, min(start + self.block, len(vectors)))
            part = vectors[rows].detach().requires_grad_(True)
            with torch.enable_grad():
                value = loss(self.vectors(part), rows)
                (gradient,) = torch.autograd.grad(value.sum(), part)
            self.passed += 2 * len(part) * self.ids.numel()  # as two forward passes
            values.append(value.detach())
            gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)

    def _repeated(self, times: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.ids.repeat(times, 1), self.mask.repeat(times, 1)
