"""The shortlist quota: which candidates go on to the next rung. Each readout sends on its best, and
few with the same subword token.

Legend: K candidates, R readouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from triggerfish.scanner.candidates import Candidate

SAME_PIECE = 5
"""Candidates with the same indicative subword token that one readout may send on. The others are
tested once one of these is a trigger, see `neighbours.py` (docs/decisions/0006)."""

COMMON = 0.01
"""Share of all candidates from which on a subword token is not indicative, such as the word starts
and endings `▁` and `ing` (docs/decisions/0006)."""


def best_of_each(
    scores: torch.Tensor, keep: int, telling_tokens: Sequence[int] | None = None
) -> list[int]:
    """Rows that are among the highest of any column, about `keep` in all, ascending, so that no
    readout displaces another.

    telltales: the indicative token of each row. No token takes more than `SAME_PIECE` places per
    column.
    """
    per_column = max(1, keep // scores.shape[1])
    found: set[int] = set()
    for column in scores.argsort(dim=0, descending=True, stable=True).T.tolist():
        seen: Counter[int] = Counter()
        admitted = 0
        for row in column:
            if telling_tokens is not None:
                seen[telling_tokens[row]] += 1
                if seen[telling_tokens[row]] > SAME_PIECE:
                    continue
            found.add(row)
            admitted += 1
            if admitted == per_column:
                break
    return sorted(found)


def telling_tokens(
    candidates: Sequence[Candidate], scores: torch.Tensor, pool: Sequence[Candidate]
) -> list[int]:
    """The indicative subword token of each candidate: the one that is most over-represented among
    the highest scores. A planted token raises every word that contains it, and there may be a
    hundred.

    A candidate of one token has no quota, so it gets a negative number of its own.
    """
    top = scores.argsort(descending=True, stable=True)[:500].tolist()
    high = Counter(subword for row in top for subword in set(candidates[row].token_ids))
    everywhere = _candidates_with(pool)
    return [
        max(candidate.token_ids, key=lambda subword: (high[subword] / everywhere[subword], subword))
        if len(candidate.token_ids) > 1
        else -1 - row
        for row, candidate in enumerate(candidates)
    ]


def common(pool: Sequence[Candidate]) -> set[int]:
    """Subword tokens that more than a share `COMMON` of the candidates contain."""
    return {subword for subword, n in _candidates_with(pool).items() if n > COMMON * len(pool)}


def _candidates_with(pool: Sequence[Candidate]) -> Counter[int]:
    """The number of candidates that contain each subword token."""
    return Counter(subword for candidate in pool for subword in set(candidate.token_ids))
