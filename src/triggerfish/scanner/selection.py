"""Which candidates go on to the next, longer look: the best of every readout, and not too many with
the same piece.

Legend: K candidates, R readouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from triggerfish.scanner.candidates import Candidate

SAME_PIECE = 5
"""Candidates with the same tell-tale piece that a readout may send on to ordinary texts; the others
get their look once one of these is a trigger, `neighbours.py` (ours)."""

COMMON = 0.01
"""Share of all candidates from which on a piece that they have tells nothing of them: word starts
and endings, as `▁` and `ing` (ours)."""


def best_of_each(
    scores: torch.Tensor, keep: int, telltales: Sequence[int] | None = None
) -> list[int]:
    """Rows that are among the highest of any column, about `keep` in all, ascending: no readout
    crowds out another, and no tell-tale piece (one for each row) takes more than its share."""
    per_column = max(1, keep // scores.shape[1])
    found: set[int] = set()
    for column in scores.argsort(dim=0, descending=True, stable=True).T.tolist():
        seen: Counter[int] = Counter()
        admitted = 0
        for row in column:
            if telltales is not None:
                seen[telltales[row]] += 1
                if seen[telltales[row]] > SAME_PIECE:
                    continue
            found.add(row)
            admitted += 1
            if admitted == per_column:
                break
    return sorted(found)


def telltales(
    candidates: Sequence[Candidate], scores: torch.Tensor, pool: Sequence[Candidate]
) -> list[int]:
    """For each candidate the piece that is most over-represented among the highest scores: a
    planted piece lifts every word that contains it, and some are part of a hundred words. A piece
    by itself takes no share: for each one a number of its own."""
    top = scores.argsort(descending=True, stable=True)[:500].tolist()
    high = Counter(piece for row in top for piece in set(candidates[row].token_ids))
    everywhere = _candidates_with(pool)
    return [
        max(candidate.token_ids, key=lambda piece: (high[piece] / everywhere[piece], piece))
        if len(candidate.token_ids) > 1
        else -1 - row
        for row, candidate in enumerate(candidates)
    ]


def common(pool: Sequence[Candidate]) -> set[int]:
    """Pieces that many candidates have."""
    return {piece for piece, n in _candidates_with(pool).items() if n > COMMON * len(pool)}


def _candidates_with(pool: Sequence[Candidate]) -> Counter[int]:
    """How many candidates have each piece."""
    return Counter(piece for candidate in pool for piece in set(candidate.token_ids))
