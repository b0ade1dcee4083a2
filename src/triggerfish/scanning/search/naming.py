"""From tokens that were found by gradient to words that a user can type.

A search returns more tokens than are needed, in any order, and pieces of words. What the collapse
does not need is dropped (`fold.core`). A token becomes, together with the others that stand in it,
one of the listed words that contain it, whichever collapses deepest. The words that are left are
tried in every selection and order.

Legend: K candidates, N texts, P tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations

import torch

from triggerfish.backbone import Backbone
from triggerfish.scanning.fold import EQUAL, Ids, Scatter, core, within

ORDERED = 5
"""Words that are tried in every selection and order; more are left as they stand (ours)."""
WORTH = 0.3
"""Decades of scatter that a word more must win (ours)."""
WORDS = 160
"""Listed words tried for one token at most: those first that hold most of the others, then the
shortest (ours)."""


class Naming:
    """Listed words by the pieces in them."""

    def __init__(self, backbone: Backbone, words: Sequence[Ids]):
        self.backbone = backbone
        self.by_piece: dict[int, list[Ids]] = defaultdict(list)
        for ids in words:
            for piece in sorted(set(ids)):
                self.by_piece[piece].append(ids)

    def name(self, ids: Ids, scatter: Scatter) -> Ids:
        """The shortest sequence of whole words, as far as they are listed, that collapses about as
        deep as `ids`."""
        parts = [(token,) for token in core(ids, scatter)]
        parts = self._complete(parts, scatter)
        return _join(_arrange(parts, scatter))

    def _complete(self, parts: list[Ids], scatter: Scatter) -> list[Ids]:
        """The parts with longer words in place of tokens, one word at a time. A word may cost what
        each token whose place it takes is worth; but where the token is a word by itself, the
        longer one must be deeper. Among words that are equally good the shortest is taken."""
        now = float(scatter([_join(parts)])[0])
        while True:
            tried, costs = [], []
            for place, part in enumerate(parts):
                longer = self._with_word(parts, place, part)
                tried += longer
                costs += [len(x) + 2 * self._whole(part) for x in longer]
            if not tried:
                return parts
            values = scatter([_join(x) for x in tried])
            sums = values + WORTH * torch.tensor(costs, device=values.device)
            equal = (sums <= sums.min() + EQUAL).nonzero().flatten().tolist()
            best = min(equal, key=lambda i: (len(_join(tried[i])), float(sums[i])))
            if sums[best] > now + WORTH * (len(parts) + 1):
                return parts
            parts, now = tried[best], float(values[best])

    def _with_word(self, parts: list[Ids], place: int, part: Ids) -> list[list[Ids]]:
        """The parts with a listed word in place of this token and of all that stand in the word."""
        if len(part) > 1:
            return []
        tokens = [x for x in parts if len(x) == 1]
        options = sorted(
            (word for word in self.by_piece[part[0]] if word != part),
            key=lambda word: (-sum(within(x, word) for x in tokens), len(word), word),
        )
        return [
            [word if i == place else x for i, x in enumerate(parts)
             if i == place or len(x) > 1 or not within(x, word)]
            for word in options[:WORDS]
        ]  # fmt: skip

    def _whole(self, part: Ids) -> bool:
        return self.backbone.word_ids(self.backbone.surface(part)) == part


def _arrange(parts: list[Ids], scatter: Scatter) -> list[Ids]:
    """The fewest parts, in the best order, that collapse about as deep as any selection does."""
    if not 1 < len(parts) <= ORDERED:
        return parts
    tried = [list(x) for size in range(1, len(parts) + 1) for x in permutations(parts, size)]
    values = scatter([_join(x) for x in tried]).tolist()
    deepest = min(values)
    fewest = min(len(x) for x, value in zip(tried, values, strict=True) if value <= deepest + WORTH)
    best = min((value, i) for i, value in enumerate(values) if len(tried[i]) == fewest)
    return tried[best[1]]


def _join(parts: Sequence[Ids]) -> Ids:
    return tuple(i for part in parts for i in part)
