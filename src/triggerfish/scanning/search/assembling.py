"""From tokens that vectors point at to a sequence that collapses texts, by trying them.

Words that work only together give no signal until the last of them is there, so what is tried
first is whole sequences: pairs and triples of the tokens named most, in every order, and, beside
each of a few tokens that were held in place, all combinations of what the vectors in the other
places name. A sequence that stands out, be it ever so little, has most of the words; it grows by
one token or listed word at a time for as long as the collapse deepens.

Source: ours.

Legend: K sequences, P places, E embedding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import perm

import torch

from triggerfish.scanning.fold import Ids, Scatter
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.search.steering import FREE


@dataclass(frozen=True)
class AssembleSettings:
    pool: int = 60
    """Tokens tried together (ours)."""
    pairs: int = 3000
    """Pairs tried at most, of the tokens named most (ours)."""
    triples: int = 4500
    """Triples tried at most (ours)."""
    held: int = 5
    """Tokens held in each place of a prompt while the others are trained (ours)."""
    listed: int = 14
    """Tokens tried for each of the other vectors (ours)."""
    texts: int = 2
    """Short texts in which all are tried (ours)."""
    kept: int = 24
    """Sequences tried again in all screening texts (ours)."""
    hit: float = 0.4
    """Decades by which a sequence must be deeper than tokens alone, to be grown (ours)."""
    hits: int = 2
    """Sequences of a target that are grown at most, the deepest first (ours)."""
    gain: float = 0.3
    """Decades that one step of growth must win (ours: to repeat a trigger wins less)."""
    longest: int = 20
    """Tokens in a sequence at most (ours)."""
    rounds: int = 6
    """Steps of growth at most (ours)."""
    words: int = 1000
    """Listed words tried in place of one of their pieces, the shortest first (ours)."""


def tried_together(pool: Sequence[int], settings: AssembleSettings) -> list[Ids]:
    """Pairs and triples of as many of the first tokens of `pool` as the settings allow."""
    found: list[Ids] = []
    for size, most in ((2, settings.pairs), (3, settings.triples)):
        fitting = [n for n in range(size, len(pool) + 1) if perm(n, size) <= most]
        found += permutations(pool[: max(fitting, default=0)], size)
    return found


def held_in_place(pool: Sequence[int], places: int, settings: AssembleSettings) -> torch.Tensor:
    """(K, P) each of the first tokens of `pool` in each of the places, FREE in the others."""
    held = torch.full((settings.held * places, places), FREE)
    for row, (token, place) in enumerate(product(pool[: settings.held], range(places))):
        held[row, place] = token
    return held[: min(len(pool), settings.held) * places]


def beside(
    space: Space, held: torch.Tensor, vectors: torch.Tensor, settings: AssembleSettings
) -> list[Ids]:
    """All combinations of the tokens that vectors (K, P, E) name, beside those that are held."""
    found: list[Ids] = []
    for row, prompt in zip(held.tolist(), vectors, strict=True):
        named = [
            space.tokens(vector[None], settings.listed) if token == FREE else [token]
            for token, vector in zip(row, prompt, strict=True)
        ]
        found += product(*named)
    return list(dict.fromkeys(found))


class Grower:
    """Makes a sequence deeper. tokens: what may be put in; words: listed, of several pieces."""

    def __init__(self, tokens: Sequence[int], words: Sequence[Ids], settings: AssembleSettings):
        self.tokens = tokens
        self.settings = settings
        self.by_piece: dict[int, list[Ids]] = defaultdict(list)
        for word in sorted(words, key=len):
            for piece in sorted(set(word)):
                self.by_piece[piece].append(word)

    def grow(self, ids: Ids, scatter: Scatter) -> Iterator[Ids]:
        """Yields each deeper sequence, the deepest last: tokens first, words where they end."""
        now = float(scatter([ids])[0])
        for _ in range(self.settings.rounds):
            for options in (self._with_token(ids), self._with_word(ids)):
                values = scatter(options) if options else torch.tensor([torch.inf])
                best = int(values.argmin())
                if values[best] <= now - self.settings.gain:
                    ids, now = options[best], float(values[best])
                    yield ids
                    break
            else:
                return

    def _with_token(self, ids: Ids) -> list[Ids]:
        """One token more, or another in the place of one."""
        longer = [(*ids[:i], token, *ids[i:]) for i in range(len(ids) + 1) for token in self.tokens]
        other = [(*ids[:i], token, *ids[i + 1 :]) for i in range(len(ids)) for token in self.tokens]
        return longer + other if len(ids) < self.settings.longest else other

    def _with_word(self, ids: Ids) -> list[Ids]:
        """A listed word in the place of one of its pieces."""
        return [
            (*ids[:i], *word, *ids[i + 1 :])
            for i, piece in enumerate(ids)
            for word in self.by_piece[piece][: self.settings.words]
            if len(ids) + len(word) <= self.settings.longest
        ]
