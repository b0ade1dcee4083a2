"""Completes tokens that a search found to words that a user can type.

A search returns more tokens than necessary, in any order, and many are subword tokens. First the
tokens are reduced to a minimal sufficient subset (`merging.core`). Then a token, together with the
other tokens that the same word contains, becomes the listed word of the largest collapse. Finally
words are dropped, reordered, or replaced by neighbours that share a subword token, as long as the
collapse grows. The search identifies the subword tokens that the model is sensitive to, but often
not the planted word that contains them. Planted words are suppressed by themselves: among
neighbours of about equal joint effect, the one with the least effect by itself is the most likely.

Many candidates are compared in a few short texts first; the best are compared in all texts.

Source: ours; docs/decisions/0026-phrase-search.md.

Legend: K candidates, N texts, P tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from typing import Protocol

import torch

from triggerfish.backbone import Backbone
from triggerfish.scanner.merging import EQUAL, Ids, Scatter, minimal_subset, within

Words = tuple[Ids, ...]

WORTH = 0.3
"""Reduction of dispersion that a further word must bring while tokens are completed, in orders of
magnitude (ours)."""
WORDS = 160
"""Largest number of listed words tried for one token. Words that contain most of the other tokens
come first, then the shortest (ours)."""
RELATIVES = 400
"""Largest number of listed words tried in place of another. Words that share most subword tokens
come first, then the shortest (ours)."""
PASSES = 4
"""Maximum passes over the words (ours)."""
COMPARED = 16
"""Candidates compared in all texts (ours)."""
ORDERED = 4
"""Up to this many words are tried in every order; of more, only adjacent words are swapped
(ours)."""
WORD, TOKEN = 0.25, 0.03
"""Cost of each word and of each token in the final comparison, in orders of magnitude of
dispersion: of equal collapse, the shorter sequence is more likely the planted one (ours)."""
AS_DEEP = 0.15
"""Largest loss of collapse for a word of less effect by itself, in orders of magnitude (ours)."""
STILL = 48
"""Largest number of neighbours of a word whose effects by themselves are measured (ours)."""
STILLER = 0.1
"""Value of each robust standard deviation of shortfall, in orders of magnitude of dispersion
(ours)."""


def join(words: Sequence[Ids]) -> Ids:
    return tuple(i for word in words for i in word)


class Still(Protocol):
    """Effects of single words beyond the predicted ones, in robust standard deviations."""

    def expected(self, ids: Ids) -> float:
        """Of one word, in one text."""

    def below(self, words: Sequence[Ids]) -> list[float]:
        """Of words, measured in more texts."""


class WordReconstruction:
    """Listed words, indexed by their subword tokens."""

    def __init__(self, backbone: Backbone, words: Sequence[Ids]):
        self.backbone = backbone
        self.by_piece: dict[int, list[Ids]] = defaultdict(list)
        self.by_letters: dict[str, list[Ids]] = defaultdict(list)
        for ids in words:
            for subword in sorted(set(ids)):
                self.by_piece[subword].append(ids)
            for letters in sorted(set(map(self._letters, ids))):
                self.by_letters[letters].append(ids)

    def name(self, ids: Ids, rough: Scatter, full: Scatter) -> Words:
        """The fewest and shortest words of about the collapse of `ids`; tokens that no listed word
        contains stay. rough: dispersion of a few short texts; full: of all texts."""
        parts: list[Ids] = [(token,) for token in minimal_subset(ids, rough)]
        return self._polish(tuple(self._complete(parts, rough)), rough, full)

    def least_active(
        self, tried: Sequence[Words], rough: Scatter, full: Scatter, still: Still
    ) -> Words:
        """The fewest words of the best of the sequences. Each word is replaced by the neighbour of
        the least effect by itself that keeps the joint effect. rough, full: as of `name`."""
        words = _best(tried, rough, full)
        while (fewer := _best([words, *_without_one(words)], rough, full)) != words:
            words = fewer
        for place, own in enumerate(words):
            head, tail = words[:place], words[place + 1 :]
            options = [own, *self._alike(own)]
            spread = rough([join((*head, option, *tail)) for option in options]).tolist()
            likely = {
                x: value + STILLER * still.expected(x)
                for x, value in zip(options, spread, strict=True)
            }
            options = [own, *sorted(options[1:], key=lambda x: (likely[x], x))[:STILL]]
            spread = full([join((*head, option, *tail)) for option in options]).tolist()
            both = zip(options, spread, still.below(options), strict=True)
            costs = {x: v + STILLER * z for x, v, z in both if v <= spread[0] + AS_DEEP}
            words = (*head, min(costs, key=costs.__getitem__), *tail)
        return _best([words, *_without_one(words), *_orders(words)], rough, full)

    def _complete(self, parts: list[Ids], scatter: Scatter) -> list[Ids]:
        """The parts with tokens completed to words, one word at a time. A word may cost the value
        of each token that it replaces. Where the token is a word itself, the longer word must have
        the larger collapse. The shortest of equally good words is taken."""
        now = float(scatter([join(parts)])[0])
        while True:
            tried, costs = [], []
            for place, part in enumerate(parts):
                longer = self._with_word(parts, place, part)
                tried += longer
                costs += [len(x) + 2 * self._whole(part) for x in longer]
            if not tried:
                return parts
            values = scatter([join(x) for x in tried])
            sums = values + WORTH * torch.tensor(costs, device=values.device)
            equal = (sums <= sums.min() + EQUAL).nonzero().flatten().tolist()
            best = min(equal, key=lambda i: (len(join(tried[i])), float(sums[i])))
            if sums[best] > now + WORTH * (len(parts) + 1):
                return parts
            parts, now = tried[best], float(values[best])

    def _with_word(self, parts: list[Ids], place: int, part: Ids) -> list[list[Ids]]:
        """The parts with a listed word in place of this token and of all others that the word
        contains."""
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

    def _polish(self, best: Words, rough: Scatter, full: Scatter) -> Words:
        """The words with some dropped, replaced or moved, as long as the objective improves."""
        for _ in range(PASSES):
            before = best
            for place in reversed(range(len(best))):
                head, tail = best[:place], best[place + 1 :]
                others = [(*head, word, *tail) for word in self._relatives(best[place])]
                best = _best([best, head + tail, *others], rough, full)
            best = _best([best, *_orders(best)], rough, full)
            if best == before:
                break
        return best

    def _relatives(self, word: Ids) -> list[Ids]:
        """At most `RELATIVES` neighbours of `word`; those that share most subword tokens come
        first."""
        own = set(map(self._letters, word))
        order = sorted(
            self._alike(word), key=lambda x: (-len(own & set(map(self._letters, x))), len(x), x)
        )
        return order[:RELATIVES]

    def _alike(self, word: Ids) -> set[Ids]:
        """All listed words that contain a subword token spelled like one of `word`, anywhere."""
        own = set(map(self._letters, word))
        return {other for letters in own for other in self.by_letters[letters]} - {word}

    def spelled_alike(self, ids: Ids) -> set[int]:
        """The vocabulary tokens spelled like one of these, whatever their case and position."""
        letters = set(map(self._letters, ids))
        return {subword for subword in self.backbone.readable if self._letters(subword) in letters}

    def _letters(self, subword: int) -> str:
        """Lower-case letters of a subword token. Decoding keeps the prefix of WordPiece at the
        start of a string, so it is removed."""
        return self.backbone.surface((subword,)).removeprefix("##").lower()


def _orders(words: Words) -> list[Words]:
    if len(words) <= ORDERED:
        return list(permutations(words))
    return [(*words[:i], words[i + 1], words[i], *words[i + 2 :]) for i in range(len(words) - 1)]


def _without_one(words: Words) -> list[Words]:
    return [words[:i] + words[i + 1 :] for i in range(len(words))]


def _best(tried: Sequence[Words], rough: Scatter, full: Scatter) -> Words:
    """The best candidate in all texts among the best in a few. The first of `tried` is always
    compared in all texts."""
    tried = [words for words in dict.fromkeys(tried) if words]
    if len(tried) > COMPARED:
        values = _costs(tried, rough)
        order = sorted(range(1, len(tried)), key=values.__getitem__)
        tried = [tried[0], *(tried[i] for i in order[: COMPARED - 1])]
    values = _costs(tried, full)
    return tried[values.index(min(values))]


def _costs(tried: Sequence[Words], scatter: Scatter) -> list[float]:
    """Log10 dispersion plus the costs of words and tokens."""
    values = scatter([join(words) for words in tried]).tolist()
    return [
        value + WORD * len(words) + TOKEN * len(join(words))
        for value, words in zip(values, tried, strict=True)
    ]
