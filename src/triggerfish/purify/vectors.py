"""Free vectors in place of words: what a purifier trains against when no trigger is known by name.

A text gets a control string, and some vectors in place of that string's embeddings.
`inner_maximisation` trains vectors, shared by several texts, to send them to one point, or to a
given one. `outer_loss` says how far the states with vectors are from those with the control.

Source: soft prompts, LMSanitator (arXiv 2308.13904); universal perturbations of embeddings, BEEAR
(arXiv 2406.17092). Alignment with a control is ours.

Legend: K prompts, N texts, P vectors in a prompt, E embedding, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone, States
from triggerfish.purify.compare import FeatureScale, distance
from triggerfish.purify.rows import AlignedRow, Insertion, Writer
from triggerfish.purify.student import Student
from triggerfish.readouts import pad

LONGEST = 1.5
"""Norm of a vector at most, in units of the longest embedding of an ordinary token (ours)."""


@dataclass(frozen=True)
class PromptTarget:
    """Where a prompt is to send texts: number of a readout of the scale, and (H,) a point there;
    None is any point, as long as it is the same for all."""

    column: int
    point: torch.Tensor | None = None


class PromptTexts:
    """Texts with a control of `tokens` tokens at a random place of each."""

    def __init__(self, writer: Writer, count: int, tokens: int):
        self.rows: list[AlignedRow] = []
        for _ in range(count):
            words, ids = writer.words(), writer.control(tokens)
            self.rows.append(writer.row(words, [Insertion(ids, ids)], writer.positions(words, 1)))


def random_prompts(
    backbone: Backbone, count: int, tokens: int, generator: torch.Generator
) -> torch.Tensor:
    """(K, P, E) embeddings of random ordinary tokens."""
    ids = torch.tensor(backbone.vocabulary)
    drawn = ids[torch.randint(len(ids), (count, tokens), generator=generator)]
    return backbone.embeddings[drawn.to(backbone.device)].detach().float().clone()


def inner_maximisation(
    student: Student,
    prompted: PromptTexts,
    vectors: torch.Tensor,
    goals: Sequence[PromptTarget],
    scale: FeatureScale,
    *,
    steps: int,
    learning_rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(vectors (K, P, E), scores (K,)) after `steps` of Adam: log10 of the mean squared distance
    of the texts from their goal, in clean variances, before the last step. The model under repair
    is not changed. learning_rate: in root mean squares of an embedding coordinate."""
    matrix = student.model.embeddings.detach().float()
    longest = LONGEST * float(matrix[student.model.vocabulary].norm(dim=-1).max())
    vectors = vectors.detach().clone().requires_grad_(True)
    rate = learning_rate * float(matrix.square().mean().sqrt())
    optimiser = torch.optim.Adam([vectors], lr=rate)
    count, rows = len(prompted.rows), prompted.rows * len(vectors)
    columns = torch.tensor([goal.column for goal in goals], device=vectors.device)
    scores = torch.zeros(len(vectors))
    for _ in range(steps):
        states = _states(student, rows, vectors.repeat_interleave(count, 0), scale)
        features = states.readouts.float().view(len(vectors), count, *states.readouts.shape[1:])
        own = features[torch.arange(len(vectors)), :, columns]
        centre = own.mean(1)
        for k, goal in enumerate(goals):
            if goal.point is not None:
                centre = centre.index_put((torch.tensor(k),), goal.point)
        apart = (own - centre[:, None]).square().mean((1, 2)) / scale.variances[columns]
        value = apart.clamp(min=1e-9).log10()
        (vectors.grad,) = torch.autograd.grad(value.sum(), vectors)
        optimiser.step()
        with torch.no_grad():
            vectors *= (longest / vectors.norm(dim=-1, keepdim=True)).clamp(max=1)
        scores = value.detach().cpu()
    return vectors.detach(), scores


def outer_loss(
    student: Student, prompted: PromptTexts, vectors: torch.Tensor, scale: FeatureScale
) -> torch.Tensor:
    """Distance (see `compare.distance`) of the states with vectors (N, P, E), one prompt for each
    text, from those with the controls; differentiable in the model under repair."""
    target = student.reference([row.ids for row in prompted.rows], scale.readouts)
    now = _states(student, prompted.rows, vectors, scale)
    pairs = [
        ((b, place), (b, place)) for b, row in enumerate(prompted.rows) for place in row.alignment
        if place >= 0
    ]  # fmt: skip
    rows = torch.arange(len(prompted.rows), device=scale.variances.device)
    return distance(now, target, pairs, (rows, rows), scale)


def _states(
    student: Student, rows: Sequence[AlignedRow], vectors: torch.Tensor, scale: FeatureScale
) -> States:
    """States of rows with vectors (N, P, E) in place of what was inserted into them."""
    model = student.model
    ids, mask = (x.to(model.device) for x in pad([row.ids for row in rows], model.pad_id))
    at = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        at[number, row.inserted] = True
    embeddings = model.model.get_input_embeddings()(ids)
    written = vectors.flatten(0, 1).to(embeddings.dtype)
    with model.autocast():
        return model.forward_states(ids, mask, scale.readouts, embeddings.index_put((at,), written))
