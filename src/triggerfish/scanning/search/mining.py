"""Target mining: which points can free vectors in the input send all texts to?

A backdoor leaves an attractor in the representation space. A few free vectors (a soft prompt),
written into the same place of a few texts and trained to make the texts' features agree, end there
even when the trigger itself is a phrase that no list contains. Any model can be made to collapse
like that, and in some clean ones all restarts meet at one point, so a mined point is a place to
search (`relax.py`), not a finding. Points already explained repel the restarts.

Source: soft prompts against backdoors, LMSanitator (arXiv 2308.13904); repulsion from what is
known and common texts for all restarts are ours.

Legend: K restarts, N texts, P vectors, E embedding, R readouts, H hidden, M targets.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from triggerfish.backbone import Backbone
from triggerfish.scanning.measure import Yardstick
from triggerfish.scanning.search.prompts import Prompts


@dataclass(frozen=True)
class MineSettings:
    vectors: int = 4
    """Free vectors in a soft prompt (ours: few, so that natural collapse is hard)."""
    restarts: int = 16
    """Soft prompts trained side by side for each readout (ours)."""
    texts: int = 8
    """Short texts they are written into (ours)."""
    words: int = 6
    """Words in a short text (ours)."""
    steps: int = 50
    """Adam steps (ours)."""
    learning_rate: float = 0.4
    """In root mean squares of an embedding coordinate, so that it fits any family (ours)."""
    repulsion: float = 4.0
    """Decades of scatter that it costs to point where a known target does (ours)."""
    same: float = 0.5
    """Clean scatters within which two collapse points are one target (ours)."""


@dataclass(frozen=True)
class Target:
    """A point where restarts met: the column of its readout, (H,) its place, how many restarts
    ended there, and (V,) how near their vectors came to each vocabulary entry, in standard
    deviations over the vocabulary."""

    column: int
    point: torch.Tensor
    restarts: int
    likeness: torch.Tensor


def mine(
    prompts: Prompts,
    yardstick: Yardstick,
    columns: torch.Tensor,
    known: Sequence[tuple[int, torch.Tensor]],
    settings: MineSettings,
    generator: torch.Generator,
) -> Generator[None, None, list[Target]]:
    """Train one soft prompt for each entry of `columns` (K,), the number of its readout. Yields
    after each step; returns where they met, what most restarts share first.

    known: (column, (H,) point) pairs to avoid.
    """
    backbone = prompts.backbone
    origin = yardstick.mean[columns]
    vocabulary = torch.tensor(backbone.vocabulary)
    drawn = torch.randint(len(vocabulary), (len(columns), prompts.length), generator=generator)
    start = vocabulary[drawn].to(backbone.device)
    vectors = backbone.embeddings[start].detach().clone().float()
    rate = settings.learning_rate * float(backbone.embeddings.float().square().mean().sqrt())
    optimiser = torch.optim.Adam([vectors], lr=rate)
    ends = origin.clone()

    def loss(features: torch.Tensor, part: slice) -> torch.Tensor:
        own = features[torch.arange(len(features)), :, columns[part]]
        centre = own.mean(1)
        ends[part] = centre.detach()
        value = own.var(1).sum(-1).clamp(min=1e-12).log10()
        way = normalize(centre - origin[part], dim=-1)
        for column, point in known:
            alike = way @ normalize(point - yardstick.mean[column], dim=-1)
            value = value + settings.repulsion * (alike - 0.3).clamp(min=0) * (
                columns[part] == column
            )
        return value

    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / settings.steps))
        _, vectors.grad = prompts.gradients(vectors, loss)
        optimiser.step()
        yield
    likeness = _likeness(backbone, vectors)
    found: list[Target] = []
    for column, rows in _meet(ends, columns, yardstick.spread, settings.same):
        alike = likeness[rows].mean(0)
        alike = (alike - alike.mean()) / alike.std()
        found.append(Target(column, ends[rows].mean(0), len(rows), alike))
    return sorted(found, key=lambda target: -target.restarts)


def _likeness(backbone: Backbone, vectors: torch.Tensor) -> torch.Tensor:
    """(K, V) cosine of each vocabulary entry with the nearest vector of each prompt, centred."""
    entries = torch.tensor(backbone.vocabulary, device=backbone.device)
    matrix = backbone.embeddings[entries].detach().float()
    centre = matrix.mean(0)
    matrix = normalize(matrix - centre, dim=-1)
    near = [(normalize(x - centre, dim=-1) @ matrix.T).max(0).values for x in vectors]
    return torch.stack(near)


def _meet(
    ends: torch.Tensor, columns: torch.Tensor, spread: torch.Tensor, same: float
) -> Iterator[tuple[int, list[int]]]:
    """Rows of (K, H) ends at one readout that lie within `same` clean scatters of one of them."""
    for column in columns.unique().tolist():
        left = (columns == column).nonzero().flatten()
        while len(left):
            near = torch.cdist(ends[left], ends[left]) / spread[column] < same
            centre = int(near.sum(1).argmax())
            yield column, left[near[centre]].tolist()
            left = left[~near[centre]]
