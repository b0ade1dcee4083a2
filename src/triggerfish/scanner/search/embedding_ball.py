"""The space of input embeddings, and how long tokens are in it.

Lengths are counted from the centre of all entries, in root mean squares of an entry: a token is
about 1 long. A free vector that is much shorter has to point at what the model listens to.

Legend: K prompts, P vectors in a prompt, E embedding.
"""

from __future__ import annotations

import torch

from triggerfish.backbone import Backbone


class EmbeddingBall:
    def __init__(self, backbone: Backbone):
        self.ids = torch.tensor(backbone.vocabulary, device=backbone.device)
        entries = backbone.embeddings[self.ids].detach().float()
        self.entries = entries
        self.centre = entries.mean(0)
        self.length = float((entries - self.centre).square().sum(-1).mean().sqrt())

    def drawn(self, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        """(K, P, E) entries drawn at random, cut to half their length."""
        chosen = torch.randint(len(self.ids), shape, generator=generator).to(self.ids.device)
        return self.centre + (self.entries[chosen] - self.centre) / 2

    def lengths(self, vectors: torch.Tensor) -> torch.Tensor:
        """(K, P) of vectors (K, P, E)."""
        lengths: torch.Tensor = (vectors - self.centre).norm(dim=-1)
        return lengths / self.length

    def cut(self, vectors: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """Vectors (K, P, E), none longer than the `radius` (K,) of its prompt."""
        over = (radius[:, None] / self.lengths(vectors).clamp(min=1e-9)).clamp(max=1)
        return self.centre + (vectors - self.centre) * over[..., None]
