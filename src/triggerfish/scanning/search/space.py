"""The space of input embeddings: how long tokens are in it, and which tokens a free vector is made
of.

Lengths are counted from the centre of all entries, in root mean squares of an entry: a token is
about 1 long. A free vector that is much shorter has to point at what the model listens to. It often
points at several tokens at once, so its tokens are found by pursuit: the nearest one is taken out
of the vector, then the one nearest to the rest.

Source: matching pursuit (Mallat & Zhang 1993), reciprocal rank fusion (Cormack et al. 2009); their
use on soft prompts is ours.

Legend: K prompts, P vectors in a prompt, E embedding, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from triggerfish.backbone import Backbone

STEPS, LOOKED = 5, 20
"""Tokens taken out of a vector, and those nearest to it that score at each step (ours)."""
ALIKE = 0.4
"""Cosine from which on two entries are the same suggestion (ours)."""


class Space:
    def __init__(self, backbone: Backbone):
        self.ids = torch.tensor(backbone.vocabulary, device=backbone.device)
        entries = backbone.embeddings[self.ids].detach().float()
        self.entries = entries
        self.centre = entries.mean(0)
        self.length = float((entries - self.centre).square().sum(-1).mean().sqrt())
        self.ways = normalize(entries - self.centre, dim=-1)

    def drawn(self, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        """(K, P, E) entries drawn at random, cut to half their length."""
        chosen = torch.randint(len(self.ids), shape, generator=generator).to(self.ids.device)
        return self.centre + (self.entries[chosen] - self.centre) / 2

    def lengths(self, vectors: torch.Tensor) -> torch.Tensor:
        """(K, P) of vectors (K, P, E)."""
        return (vectors - self.centre).norm(dim=-1) / self.length

    def cut(self, vectors: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """Vectors (K, P, E), none longer than the `radius` (K,) of its prompt."""
        over = (radius[:, None] / self.lengths(vectors).clamp(min=1e-9)).clamp(max=1)
        return self.centre + (vectors - self.centre) * over[..., None]

    def tokens(self, vectors: torch.Tensor, most: int) -> list[int]:
        """Ids of at most `most` tokens, none like another, that vectors (..., E) are made of, those
        first that most vectors name first."""
        rest = normalize((vectors - self.centre).flatten(0, -2), dim=-1)
        taken = torch.zeros(len(rest), len(self.ids), dtype=torch.bool, device=rest.device)
        rows = torch.arange(len(rest), device=rest.device)
        score = torch.zeros(len(self.ids), device=rest.device)
        for step in range(STEPS):
            near = (rest @ self.ways.T).masked_fill(taken, -2).topk(min(LOOKED, len(self.ids)))
            for rank, found in enumerate(near.indices.T):
                share = torch.full((len(rest),), 1 / (1 + step + rank), device=rest.device)
                score.index_add_(0, found, share)
            first = near.indices[:, 0]
            taken[rows, first] = True
            way = self.ways[first]
            rest = rest - (rest * way).sum(-1, keepdim=True) * way
        return self._unlike(score, most)

    def _unlike(self, score: torch.Tensor, most: int) -> list[int]:
        found: list[int] = []
        for row in score.topk(min(4 * most, len(score))).indices.tolist():
            if not found or float((self.ways[found] @ self.ways[row]).max()) < ALIKE:
                found.append(row)
            if len(found) == most:
                break
        return self.ids[found].tolist()
