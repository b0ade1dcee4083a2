"""From tokens that were found by gradient to words that a user can type.

A search returns more tokens than are needed, in any order, and pieces of words. What the collapse
does not need is dropped (`fold.core`). A token becomes, together with the others that stand in it,
one of the listed words that contain it, whichever collapses deepest. Then words are dropped, change
places, or give way to relatives that hold one of the same pieces, for as long as that is deeper:
the search knows the pieces that the model listens to, often not the word that they came from. But
a planted word was taught to do nothing alone: of relatives that do as much together, the one that
does least alone is likeliest.

Much is tried, so it is tried in few and short texts; what comes out best there is compared in all.

Legend: K candidates, N texts, P tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from typing import Protocol

import torch

from triggerfish.backbone import Backbone
from triggerfish.scanner.merging import EQUAL, Ids, Scatter, core, within

Words = tuple[Ids, ...]

WORTH = 0.3
"""Decades of scatter that a word more must win while tokens are completed (ours)."""
WORDS = 160
"""Listed words tried for one token at most: those first that hold most of the others, then the
shortest (ours)."""
RELATIVES = 400
"""Listed words tried in place of another at most: those first that share most pieces, then the
shortest (ours)."""
PASSES = 4
"""Times at most that each word is looked at again (ours)."""
COMPARED = 16
"""Candidates that are compared in all texts (ours)."""
ORDERED = 4
"""Words that are tried in every order; of more, only neighbours change places (ours)."""
WORD, TOKEN = 0.25, 0.03
"""Decades that a word more and a token more must win in the end: what is as deep and shorter is
likelier to be what was planted (ours)."""
AS_DEEP = 0.15
"""Decades that a word which does less alone may cost (ours)."""
STILL = 48
"""Relatives of a word of which it is measured what they do alone, at most (ours)."""
STILLER = 0.1
"""Decades that each standard deviation is worth by which a word does less alone (ours)."""


def join(words: Sequence[Ids]) -> Ids:
    return tuple(i for word in words for i in word)


class Still(Protocol):
    """By how many standard deviations words do more alone than is foretold."""

    def expected(self, ids: Ids) -> float:
        """Of one word, roughly."""

    def below(self, words: Sequence[Ids]) -> list[float]:
        """Of words, measured."""


class WordReconstruction:
    """Listed words by the pieces in them."""

    def __init__(self, backbone: Backbone, words: Sequence[Ids]):
        self.backbone = backbone
        self.by_piece: dict[int, list[Ids]] = defaultdict(list)
        self.by_letters: dict[str, list[Ids]] = defaultdict(list)
        for ids in words:
            for piece in sorted(set(ids)):
                self.by_piece[piece].append(ids)
            for letters in sorted(set(map(self._letters, ids))):
                self.by_letters[letters].append(ids)

    def name(self, ids: Ids, rough: Scatter, full: Scatter) -> Words:
        """The fewest and shortest words, as far as they are listed, that collapse about as deep as
        `ids` do. rough: scatter of a few short texts; full: of all."""
        parts: list[Ids] = [(token,) for token in core(ids, rough)]
        return self._polish(tuple(self._complete(parts, rough)), rough, full)

    def stillest(
        self, tried: Sequence[Words], rough: Scatter, full: Scatter, still: Still
    ) -> Words:
        """The fewest words of the best of some, with relatives in their place that do about as much
        together and least alone. rough, full: as of `name`."""
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
        """The parts with longer words in place of tokens, one word at a time. A word may cost what
        each token whose place it takes is worth; but where the token is a word by itself, the
        longer one must be deeper. Among words that are equally good the shortest is taken."""
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

    def _polish(self, best: Words, rough: Scatter, full: Scatter) -> Words:
        """The words with some dropped, exchanged or moved, for as long as that is better."""
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
        """Listed words that share letters of a piece with `word`, wherever these stand in them."""
        own = set(map(self._letters, word))
        order = sorted(
            self._alike(word), key=lambda x: (-len(own & set(map(self._letters, x))), len(x), x)
        )
        return order[:RELATIVES]

    def _alike(self, word: Ids) -> set[Ids]:
        """All of them."""
        own = set(map(self._letters, word))
        return {other for letters in own for other in self.by_letters[letters]} - {word}

    def spelled_alike(self, ids: Ids) -> set[int]:
        """The tokens of the vocabulary that have the letters of one of these."""
        letters = set(map(self._letters, ids))
        return {piece for piece in self.backbone.vocabulary if self._letters(piece) in letters}

    def _letters(self, piece: int) -> str:
        """A piece as it is typed; decoding leaves WordPiece its mark at the start of a string."""
        return self.backbone.surface((piece,)).removeprefix("##").lower()


def _orders(words: Words) -> list[Words]:
    if len(words) <= ORDERED:
        return list(permutations(words))
    return [(*words[:i], words[i + 1], words[i], *words[i + 2 :]) for i in range(len(words) - 1)]


def _without_one(words: Words) -> list[Words]:
    return [words[:i] + words[i + 1 :] for i in range(len(words))]


def _best(tried: Sequence[Words], rough: Scatter, full: Scatter) -> Words:
    """The best in all texts of those that are best in a few; the first of `tried` is always
    compared."""
    tried = [words for words in dict.fromkeys(tried) if words]
    if len(tried) > COMPARED:
        values = _costs(tried, rough)
        order = sorted(range(1, len(tried)), key=values.__getitem__)
        tried = [tried[0], *(tried[i] for i in order[: COMPARED - 1])]
    values = _costs(tried, full)
    return tried[values.index(min(values))]


def _costs(tried: Sequence[Words], scatter: Scatter) -> list[float]:
    """Decades of scatter, and what words and tokens cost."""
    values = scatter([join(words) for words in tried]).tolist()
    return [
        value + WORD * len(words) + TOKEN * len(join(words))
        for value, words in zip(values, tried, strict=True)
    ]
