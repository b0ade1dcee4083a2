"""How far the states of the model under repair are from what they should be, token by token and
readout by readout, in units of the variance among clean texts.

Legend: B rows, P pairs of tokens, R readouts, H hidden.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from triggerfish.backbone import States
from triggerfish.purify.rows import AlignedRow
from triggerfish.purify.student import Student
from triggerfish.readouts import Readout

CONSTANT = 1e-6
"""Variance over mean square below which a layer or readout says the same of every text (ours)."""
FLOOR = 1e-3
"""Least unit of a readout's errors, as a share of its mean square (ours: in bfloat16 the rounding
of a nearly constant readout is as large as its variance, and would drown all others)."""
MOVES_KEPT = 512
"""Moves of controls that a negative is compared with (ours)."""
MOVES_NEEDED = 16
"""Moves of controls without which every negative counts as a trigger (ours)."""


@dataclass(frozen=True)
class Batch:
    """The rows of one step. marked: with triggers, then with `negatives` other strings; targets:
    rows that tell what each of `marked` should look like; sources: the clean row of each; masked:
    whether every row holds a mask token; groups: numbers of the rows of `marked` with the same
    trigger."""

    clean: list[AlignedRow]
    marked: list[AlignedRow]
    targets: list[AlignedRow]
    sources: list[int]
    negatives: int
    masked: bool
    groups: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class FeatureScale:
    """Clean variances: of the tokens of each state (0 where it is left out), and (R,) of each
    readout. weights: (R,) of the readouts in a mean, the one that a classification head uses
    counting as much as all others together. `moves` remembers how far controls moved a
    text, at the readout where they moved it most."""

    readouts: tuple[Readout, ...]
    tokens: tuple[float, ...]
    variances: torch.Tensor
    weights: torch.Tensor
    moves: deque[float] = field(default_factory=lambda: deque(maxlen=MOVES_KEPT))

    @classmethod
    def of(cls, student: Student, rows: Sequence[AlignedRow], masked: bool = True) -> FeatureScale:
        """Measured on clean rows, with the model as it was given. masked: whether rows to come may
        hold a mask token, so that there is a readout at one."""
        readouts = [r for r in student.original.readouts if masked or r.position != "mask"]
        states = student.reference([row.ids for row in rows], readouts)
        pairs = [(b, i) for b, row in enumerate(rows) for i in range(len(row.ids))]
        tokens = [_variance(values) for values in _gathered(states, pairs)]
        found = states.readouts.float().transpose(0, 1)
        variances = torch.tensor([_variance(values) for values in found], device=found.device)
        kept = [i for i, value in enumerate(variances.tolist()) if value > 0]
        if not kept:
            raise ValueError("model: it answers all clean texts alike at every readout")
        least = FLOOR * found.square().mean((1, 2))
        variances = torch.maximum(variances, least)
        weights = torch.tensor([0.5 / len(kept)] * len(kept), device=found.device)
        seen = [readouts[i] for i in kept]
        if student.original.primary in seen:
            weights[seen.index(student.original.primary)] += 0.5
        return cls(tuple(seen), tuple(tokens), variances[kept], weights)

    def of_rows(self, masked: bool) -> FeatureScale:
        """For rows with, or without, a mask token: without one there is no readout at it."""
        seen = [i for i, r in enumerate(self.readouts) if masked or r.position != "mask"]
        if len(seen) == len(self.readouts):
            return self
        readouts = tuple(self.readouts[i] for i in seen)
        return replace(
            self, readouts=readouts, variances=self.variances[seen], weights=self.weights[seen]
        )

    def mean(self, squared: torch.Tensor) -> torch.Tensor:
        """Of (R,) squared errors, in clean variances."""
        return (squared / self.variances * self.weights).sum() / self.weights.sum()


def compare(
    student: Student, scale: FeatureScale, batch: Batch, ordinary: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(distance of clean rows, distance of marked rows, bias of groups) from what the original
    says. The bias of a group is the squared mean, over its rows, of the readouts' errors: a trigger
    that shifts all texts the same way misleads a classifier even if the shift is small.

    ordinary: quantile of the controls' moves up to which a negative keeps its own features.
    """
    clean, marked = batch.clean, batch.marked
    scale = scale.of_rows(batch.masked)
    others = marked[len(marked) - batch.negatives :]
    # Targets that are clean rows go through the original once.
    target_rows = list({id(row): row for row in (*clean, *batch.targets)}.values())
    number_of = {id(row): number for number, row in enumerate(target_rows)}
    target_index = [number_of[id(row)] for row in batch.targets]
    first = len(target_rows)
    target_rows += others
    target = student.reference([row.ids for row in target_rows], scale.readouts)
    now = student.states([row.ids for row in (*clean, *marked)], scale.readouts)
    same = [((b, i), (b, i)) for b, row in enumerate(clean) for i in range(len(row.ids))]
    kept = torch.arange(len(clean), device=scale.variances.device)
    near = distance(now, target, same, (kept, kept), scale)
    if not marked:
        return near, torch.zeros_like(near), torch.zeros_like(near)
    for number in _keeping_own(scale, target.readouts, batch, target_index, first, ordinary):
        target_index[len(marked) - batch.negatives + number] = first + number
    pairs = [
        ((len(clean) + j, one), (to, other))
        for j, (row, to) in enumerate(zip(marked, target_index, strict=True))
        for one, other in _matches(row, target_rows[to])
    ]
    rows = (
        kept.new_tensor(range(len(clean), len(clean) + len(marked))),
        kept.new_tensor(target_index),
    )
    moved = distance(now, target, pairs, rows, scale)
    change = now.readouts[rows[0]].float() - target.readouts[rows[1]].float()
    means = [scale.mean(change[list(one)].mean(0).square().mean(-1)) for one in batch.groups]
    return near, moved, torch.stack(means).mean() if means else torch.zeros_like(near)


def _matches(row: AlignedRow, target: AlignedRow) -> Iterator[tuple[int, int]]:
    """The tokens of a text in two rows that hold it; all, if the rows are one and the same."""
    if row is target:
        yield from ((i, i) for i in range(len(row.ids)))
        return
    for one, other in zip(row.alignment, target.alignment, strict=True):
        if one >= 0 and other >= 0:
            yield one, other


def _keeping_own(
    scale: FeatureScale,
    readouts: torch.Tensor,
    batch: Batch,
    target_index: Sequence[int],
    first: int,
    ordinary: float,
) -> list[int]:
    """Numbers of the negatives, rows from `first` on, that move the original no farther than
    controls do. The moves of this batch's controls, rows `target_index`, are remembered; where it
    has none, those of its negatives, most of which are benign."""
    if not batch.negatives:
        return []
    start = readouts[torch.tensor(batch.sources, device=readouts.device)].float()
    moved = _largest_move(readouts[first:].float() - start[-batch.negatives :], scale.variances)
    controlled = target_index[-1] != batch.sources[-1]
    plain = readouts[torch.tensor(target_index, device=readouts.device)].float()
    control = _largest_move(plain - start, scale.variances) if controlled else moved
    scale.moves.extend(control.tolist())
    if len(scale.moves) < MOVES_NEEDED:
        return []
    limit = torch.tensor(list(scale.moves)).quantile(ordinary)
    return (moved.cpu() <= limit).nonzero().flatten().tolist()


def _largest_move(change: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
    """(B,) of (B, R, H): the move at the readout where it is largest, in clean variances."""
    return (change.square().mean(-1) / variances).max(1).values


def distance(
    now: States,
    target: States,
    pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    rows: tuple[torch.Tensor, torch.Tensor],
    scale: FeatureScale,
) -> torch.Tensor:
    """Mean over layers of the squared error of `pairs` of tokens, (row, number) now and in the
    target, plus mean over readouts of that of pairs of `rows`; in units of clean variances."""
    mine = _gathered(now, [pair[0] for pair in pairs])
    theirs = _gathered(target, [pair[1] for pair in pairs])
    errors = [
        (one - other).square().mean() / unit
        for one, other, unit in zip(mine, theirs, scale.tokens, strict=True)
        if unit
    ]
    change = now.readouts[rows[0]].float() - target.readouts[rows[1]].float()
    return torch.stack(errors).mean() + scale.mean(change.square().mean((0, 2)))


def _gathered(states: States, places: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """(P, H) fp32 states of the tokens at (row, number), one for each layer but the embeddings."""
    device = states.readouts.device
    rows, columns = torch.tensor(places, device=device).T
    found = [layer[rows, columns].float() for layer in states.tokens[1:]]
    if states.decoder:
        # The decoder reads the text shifted by one, and the last token of the longest row not at
        # all; its state there is that of the token before.
        later = (columns + 1).clamp(max=states.decoder[0].shape[1] - 1)
        found += [layer[rows, later].float() for layer in states.decoder[1:]]
    return found


def _variance(values: torch.Tensor) -> float:
    """Mean variance of (N, H) over N; 0 where they are all the same."""
    spread = float(values.var(0).mean())
    return spread if spread > CONSTANT * float(values.square().mean()) else 0.0
