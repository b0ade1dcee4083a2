"""Suggested tokens together: a beam of sequences that grow by one token at a time, at any place,
as long as texts come nearer to the point.

Two words that need a third show nothing by themselves, so sequences first grow beside the soft
prompt of the point, weakened: what the words lack it gives. Then they go on alone.

Source: beam search over insertions; the prompt beside them is ours.

Legend: K sequences, L tokens in each, P vectors, E embedding, V suggested tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout
from triggerfish.scanning.fold import Ids
from triggerfish.scanning.measure import Context
from triggerfish.scanning.search.aim import Aim
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space


@dataclass(frozen=True)
class AssembleSettings:
    texts: int = 2
    """Short texts that sequences are written into (ours)."""
    width: int = 16
    """Sequences kept at each length (ours)."""
    beside: int = 5
    """Tokens of a sequence at most while the prompt stands beside it (ours)."""
    longest: int = 8
    """Tokens of a sequence at most (ours)."""
    share: float = 0.3
    """Of the way that the prompt beside the sequences goes by itself (ours)."""
    worth: float = 0.8
    """Share of the way that a sequence must go beside the prompt for any to go on alone (ours)."""
    gain: float = 0.02
    """Share of the way that one more token must bring (ours)."""


class Assembling:
    """One search towards one point. tried: sequences so far."""

    def __init__(
        self,
        backbone: Backbone,
        space: Space,
        texts: Sequence[Context],
        readouts: Sequence[Readout],
        settings: AssembleSettings,
    ):
        self.backbone = backbone
        self.space = space
        self.texts = texts[-settings.texts :]
        self.readouts = readouts
        self.settings = settings
        self.tried = 0

    def run(
        self, aim: Aim, pool: torch.Tensor, prompt: torch.Tensor
    ) -> Generator[int, None, list[Ids]]:
        """Yields the tokens of each pass; returns sequences, those first that come nearest. pool:
        (V,) rows of `space.entries`. prompt: (P, E), weakened."""
        settings = self.settings
        rows = pool.new_empty(1, 0)
        rows, lacks = yield from self._grown(rows, pool, aim, prompt, settings.beside)
        if lacks[0] <= 1 - settings.worth:
            rows, _ = yield from self._grown(rows, pool, aim, prompt[:0], settings.longest)
        return [tuple(self.space.ids[row].tolist()) for row in rows]

    def _grown(
        self, rows: torch.Tensor, pool: torch.Tensor, aim: Aim, beside: torch.Tensor, longest: int
    ) -> Generator[int, None, tuple[torch.Tensor, torch.Tensor]]:
        """(K, L) the sequences that came nearest, grown from `rows`, and what they lack (K,)."""
        lacks = yield from self._lacks(rows, aim, beside)
        while rows.shape[1] < longest:
            longer = _inserted(rows, pool)
            values = yield from self._lacks(longer, aim, beside)
            if rows.shape[1] and values.min() > lacks.min() - self.settings.gain:
                break
            # A single token says little, so each may be followed by every other.
            width = self.settings.width if rows.shape[1] else len(pool)
            kept = values.argsort()[:width]
            rows, lacks = longer[kept], values[kept]
        order = lacks.argsort()
        return rows[order], lacks[order]

    def _lacks(
        self, rows: torch.Tensor, aim: Aim, beside: torch.Tensor
    ) -> Generator[int, None, torch.Tensor]:
        """(K,) what sequences of rows (K, L) lack with vectors (P, E) after them."""
        length = rows.shape[1] + len(beside)
        if not length:
            return torch.ones(len(rows), device=rows.device)
        prompts = Prompts(self.backbone, self.texts, length, self.readouts)
        found = []
        for part in rows.split(prompts.block):
            more = beside.expand(len(part), *beside.shape)
            vectors = torch.cat([self.space.entries[part], more], 1)
            before = prompts.passed
            found.append(aim.lack(prompts.vectors(vectors)))
            yield prompts.passed - before
        self.tried += len(rows)
        return torch.cat(found)


def _inserted(rows: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
    """(K', L + 1) the sequences with each token of the pool at each place, none twice."""
    found = []
    for place in range(rows.shape[1] + 1):
        left, right = (
            part[:, None].expand(-1, len(pool), -1) for part in (rows[:, :place], rows[:, place:])
        )
        new = pool[None, :, None].expand(len(rows), -1, 1)
        found.append(torch.cat([left, new, right], 2).flatten(0, 1))
    return torch.cat(found).unique(dim=0)
