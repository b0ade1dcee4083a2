"""From tokens that were found by gradient to words that a user can type.

A search returns more tokens than are needed, in any order, and pieces of words. What the collapse
does not need is dropped (`fold.core`), then the few tokens that are left are tried in every
selection and order, and a piece of a word becomes the listed word, among those that contain it,
that collapses deepest in its place.

Legend: K candidates, N texts, P tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations

from triggerfish.backbone import Backbone
from triggerfish.scanning.fold import Ids, Scatter, core

ORDERED = 5
"""Parts that are tried in every selection and order; more are left as they stand (ours)."""
WORTH = 0.15
"""Decades of scatter that a part more must win (ours)."""
WORDS = 256
"""Listed words tried for one piece at most, the shortest first (ours)."""


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
        groups = list(_groups(self.backbone, core(ids, scatter)))
        groups = _arrange(groups, scatter)
        return self._complete(groups, scatter)

    def _complete(self, groups: list[Ids], scatter: Scatter) -> Ids:
        for number, group in enumerate(groups):
            if self.backbone.word_ids(self.backbone.surface(group)) == group:
                continue
            options = sorted(
                {
                    word
                    for word in self.by_piece[group[0]]
                    if any(word[i : i + len(group)] == group for i in range(len(word)))
                },
                key=lambda word: (len(word), word),
            )[:WORDS]
            if options:
                tried = [_join([*groups[:number], x, *groups[number + 1 :]]) for x in options]
                groups[number] = options[int(scatter(tried).argmin())]
        return _join(groups)


def _arrange(groups: list[Ids], scatter: Scatter) -> list[Ids]:
    """The fewest groups, in the best order, that collapse about as deep as any selection does."""
    if not 1 < len(groups) <= ORDERED:
        return groups
    tried = [list(x) for size in range(1, len(groups) + 1) for x in permutations(groups, size)]
    values = scatter([_join(x) for x in tried]).tolist()
    deepest = min(values)
    fewest = min(len(x) for x, value in zip(tried, values, strict=True) if value <= deepest + WORTH)
    best = min((value, i) for i, value in enumerate(values) if len(tried[i]) == fewest)
    return tried[best[1]]


def _join(groups: Sequence[Ids]) -> Ids:
    return tuple(i for group in groups for i in group)


def _groups(backbone: Backbone, ids: Ids) -> Iterator[Ids]:
    """Runs of tokens that are written without a space between them."""
    start = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or " " in backbone.surface(ids[i - 1 : i + 1]):
            yield ids[start:i]
            start = i
