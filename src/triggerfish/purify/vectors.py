"""Free vectors in place of words: what a purifier trains against when no trigger is known by name.

A text gets an innocent string, and some vectors in place of that string's embeddings. `push` trains
vectors, shared by several texts, to send them to one point, or to a given one; `undo` says how far
the states with vectors are from those with the innocent string.

Source: soft prompts, LMSanitator (arXiv 2308.13904); universal perturbations of embeddings, BEEAR
(arXiv 2406.17092). Alignment with an innocent string is ours.

Legend: K prompts, N texts, P vectors in a prompt, E embedding, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone, States
from triggerfish.purify.compare import Ruler, distance
from triggerfish.purify.rows import Insert, Row, Writer
from triggerfish.purify.student import Student
from triggerfish.readouts import pad

STRETCH = 1.5
"""Vectors are kept no longer than this many times the longest embedding of an ordinary entry, as a
string could have them (ours)."""


@dataclass(frozen=True)
class Goal:
    """Where a prompt is to send texts: number of a readout of the ruler, and (H,) a point there;
    None is any point, as long as it is the same for all."""

    column: int
    point: torch.Tensor | None = None


class Slots:
    """Texts with an innocent string of `tokens` tokens at a random place of each."""

    def __init__(self, writer: Writer, count: int, tokens: int):
        self.rows: list[Row] = []
        for _ in range(count):
            words, ids = writer.words(), writer.stand_in(tokens)
            self.rows.append(writer.row(words, [Insert(ids, ids)], writer.slots(words, 1)))


def start(backbone: Backbone, count: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """(K, P, E) embeddings of random ordinary entries."""
    entries = torch.tensor(backbone.vocabulary)
    drawn = entries[torch.randint(len(entries), (count, tokens), generator=generator)]
    return backbone.embeddings[drawn.to(backbone.device)].detach().float().clone()


def push(
    student: Student,
    slots: Slots,
    vectors: torch.Tensor,
    goals: Sequence[Goal],
    ruler: Ruler,
    *,
    steps: int,
    learning_rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(vectors (K, P, E), scores (K,)) after `steps` of Adam: log10 of the mean squared distance
    of the texts from their goal, in clean variances, before the last step. The model under repair
    is not changed. learning_rate: in root mean squares of an embedding coordinate."""
    matrix = student.model.embeddings.detach().float()
    longest = STRETCH * float(matrix[student.model.vocabulary].norm(dim=-1).max())
    vectors = vectors.detach().clone().requires_grad_(True)
    rate = learning_rate * float(matrix.square().mean().sqrt())
    optimiser = torch.optim.Adam([vectors], lr=rate)
    count, rows = len(slots.rows), slots.rows * len(vectors)
    columns = torch.tensor([goal.column for goal in goals], device=vectors.device)
    scores = torch.zeros(len(vectors))
    for _ in range(steps):
        states = _states(student, rows, vectors.repeat_interleave(count, 0), ruler)
        features = states.readouts.float().view(len(vectors), count, *states.readouts.shape[1:])
        own = features[torch.arange(len(vectors)), :, columns]
        centre = own.mean(1)
        for k, goal in enumerate(goals):
            if goal.point is not None:
                centre = centre.index_put((torch.tensor(k),), goal.point)
        apart = (own - centre[:, None]).square().mean((1, 2)) / ruler.scale[columns]
        value = apart.clamp(min=1e-9).log10()
        (vectors.grad,) = torch.autograd.grad(value.sum(), vectors)
        optimiser.step()
        with torch.no_grad():
            vectors *= (longest / vectors.norm(dim=-1, keepdim=True)).clamp(max=1)
        scores = value.detach().cpu()
    return vectors.detach(), scores


def undo(student: Student, slots: Slots, vectors: torch.Tensor, ruler: Ruler) -> torch.Tensor:
    """Distance (see `compare.distance`) of the states with vectors (N, P, E), one prompt for each
    text, from those with the innocent strings; differentiable in the model under repair."""
    target = student.reference([row.ids for row in slots.rows], ruler.readouts)
    now = _states(student, slots.rows, vectors, ruler)
    pairs = [
        ((b, place), (b, place)) for b, row in enumerate(slots.rows) for place in row.kept
        if place >= 0
    ]  # fmt: skip
    rows = torch.arange(len(slots.rows), device=ruler.scale.device)
    return distance(now, target, pairs, (rows, rows), ruler)


def _states(student: Student, rows: Sequence[Row], vectors: torch.Tensor, ruler: Ruler) -> States:
    """States of rows with vectors (N, P, E) in place of what was inserted into them."""
    model = student.model
    ids, mask = (x.to(model.device) for x in pad([row.ids for row in rows], model.pad_id))
    at = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        at[number, row.inserted] = True
    embeddings = model.model.get_input_embeddings()(ids)
    written = vectors.flatten(0, 1).to(embeddings.dtype)
    with model.autocast():
        return model.forward_states(ids, mask, ruler.readouts, embeddings.index_put((at,), written))
