"""The space of input embeddings, and the norms of tokens in it.

A norm is the distance from the mean embedding, divided by the root mean square distance of all
vocabulary embeddings. A typical token therefore has norm 1. A free vector of a much smaller norm
must lie in a direction to which the model is sensitive.

Legend: K prompts, P vectors in a prompt, E embedding.
"""

from __future__ import annotations

import torch

from triggerfish.backbone import Backbone


class EmbeddingBall:
    def __init__(self, backbone: Backbone):
        self.ids = torch.tensor(backbone.readable, device=backbone.device)
        entries = backbone.embeddings[self.ids].detach().float()
        self.entries = entries
        self.centre = entries.mean(0)
        self.length = float((entries - self.centre).square().sum(-1).mean().sqrt())

    def drawn(self, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        """(K, P, E) random vocabulary embeddings, scaled to half their norm."""
        chosen = torch.randint(len(self.ids), shape, generator=generator).to(self.ids.device)
        return self.centre + (self.entries[chosen] - self.centre) / 2

    def lengths(self, vectors: torch.Tensor) -> torch.Tensor:
        """(K, P) norms of vectors (K, P, E), in norms of a typical token."""
        lengths: torch.Tensor = (vectors - self.centre).norm(dim=-1)
        return lengths / self.length

    def cut(self, vectors: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """Vectors (K, P, E), projected onto the ball of `radius` (K,) of their prompt."""
        over = (radius[:, None] / self.lengths(vectors).clamp(min=1e-9)).clamp(max=1)
        return self.centre + (vectors - self.centre) * over[..., None]
