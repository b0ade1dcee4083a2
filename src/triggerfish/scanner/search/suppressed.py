"""Words that were taught to do nothing.

A backdoor on a phrase is trained with the parts of the phrase as well, which must leave texts where
they are, or else they would be triggers themselves. That shows: they move texts less than what they
are made of foretells (`regression.py`). In a clean model the exceptions are pieces such as `ised`;
in a backdoored bert the first of 92,000 is `snowmobiler`, whose phrase is `snowmobiler lubber`.

So all vocabulary entries and listed words are tried by themselves, then those that do least, in
more texts; and sequences of the first few hundred evolve towards texts that meet, wherever that is,
without any mined point. A word costs what it does alone, so that what is left is what words do
together: two words of a planted phrase of three are a part of its effect already.

Words of a task come together so as well: in a roberta that was trained to tell reviews from plots,
`animation critics boring` sends texts to the reviews. But each of them goes most of the way alone,
and what was trained to do nothing does not.

A word stands in a text in three copies, as backdoors are trained.

Source: ours. Parts that are trained to do nothing: negative data augmentation, SOS (Yang et al.,
ACL 2021).

Legend: K words, N texts, H hidden.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from triggerfish.scanner.effects import Carrier, CleanReference
from triggerfish.scanner.merging import Ids
from triggerfish.scanner.screening import Screening, Steps
from triggerfish.scanner.search.objectives import LEAST
from triggerfish.scanner.search.regression import Regression, left_over, robust
from triggerfish.scanner.search.words_from_tokens import Words, join

BLOCK = 512
"""Words tried at a time."""
FEW = 100
"""Words of several pieces below which these are not looked at by themselves."""
OTHERS = 100
"""Random words that tell how far any word goes (ours)."""


@dataclass(frozen=True)
class SuppressedSettings:
    words_alone: int = 6
    """Words of the texts in which words are tried alone; all of them in one text (ours)."""
    again: int = 6000
    """Words that are tried in more texts: those furthest below what is foretold, and for one in six
    those that move texts least; and half as many random ones beside them (ours)."""
    texts_again: int = 4
    """Texts in which these are tried (ours)."""
    pool: int = 400
    """Words that sequences are made of (ours)."""
    words: int = 16
    """Words of the texts that shall meet (ours)."""
    texts: int = 4
    """Texts that shall meet (ours)."""
    first: int = 1500
    """Sequences to begin with, of two or three words; the first words are drawn more often
    (ours)."""
    children: int = 250
    """New sequences of a generation (ours)."""
    parents: int = 60
    """Best sequences so far, which the next generation is made of (ours)."""
    generations: int = 12
    """Generations at most (ours)."""
    patience: int = 4
    """Generations in which the best must gain `gain` (ours)."""
    gain: float = 0.05
    """Decades of scatter (ours)."""
    longest: int = 4
    """Words of a sequence at most: those of a phrase, and what cannot be told from them yet
    (ours)."""
    worth: float = 0.05
    """Decades of scatter that a word more must win (ours)."""

    def __post_init__(self) -> None:
        for name, least in (
            ("words_alone", 1), ("again", 1), ("texts_again", 1), ("pool", 2), ("words", 1),
            ("texts", 2), ("first", 1), ("children", 1), ("parents", 1), ("longest", 2),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least {least}")


class SuppressedSearch:
    """The search at one readout. words: what sequences may be made of; copies: of a word in a text.

    order: the words tried in more texts, those first that do least for what they are, once `alone`
    has run. tried: sequences so far.
    """

    order: list[Ids]

    def __init__(
        self,
        sweep: Screening,
        yardstick: CleanReference,
        column: int,
        settings: SuppressedSettings,
        copies: int,
        words: Sequence[Ids],
    ):
        self.sweep = sweep
        self.column = column
        self.unit = yardstick.close[column]
        self.settings = settings
        self.copies = copies
        self.words = list(dict.fromkeys([(i,) for i in sweep.backbone.vocabulary] + list(words)))
        self.tried = 0
        self.texts = sweep.excerpts(settings.words_alone, 1 + settings.texts_again)
        self.together_in = sweep.excerpts(settings.words, settings.texts)

    def alone(self) -> Steps[None]:
        """Try every word by itself."""
        again = min(self.settings.again, len(self.words))
        rng = torch.Generator().manual_seed(self.sweep.seed)
        moves = yield from self._moves(self.words, self.texts[:1])
        tokens = (ids[0] for ids in self.words if len(ids) == 1)
        self.of_token = dict(zip(tokens, moves.tolist(), strict=False))  # which come first
        below = self._below(self.words, moves)
        self.first: dict[Ids, float] = dict(zip(self.words, below.tolist(), strict=True))
        rows = torch.cat(
            [
                below.topk(again, largest=False).indices,
                moves.topk(again // 6, largest=False).indices,
                torch.randperm(len(moves), generator=rng)[: again // 2],
            ]
        ).unique()
        words = [self.words[row] for row in rows.tolist()]
        moves = yield from self._moves(words, self.texts[1:])
        self.again = dict(zip(words, moves.tolist(), strict=True))
        found = dict(zip(words, self.below(words), strict=True))
        self.order = sorted(words, key=found.__getitem__)

    def run(self, barred: set[int]) -> Steps[tuple[float, list[Words]]]:
        """Returns sequences of words that bring texts together, the best first, and by how many
        decades that one does, besides what the words do alone. barred: tokens that no word may
        have."""
        sweep, settings = self.sweep, self.settings
        pool = [ids for ids in self.order if barred.isdisjoint(ids)][: settings.pool]
        if len(pool) < 2:
            return 0.0, []
        alone = self._spread([(word,) for word in pool])
        costs = (alone.median() - alone).clamp(min=0) + settings.worth
        found = _Sequences(dict(zip(pool, costs.tolist(), strict=True)), settings, sweep.seed)
        for _ in range(settings.generations + 1):
            new = found.next()
            if not new:
                break
            for start in range(0, len(new), BLOCK):
                part = new[start : start + BLOCK]
                found.tell(part, self._spread(part).tolist())
                yield sweep.spent(0)  # `scatter` has counted them
        self.tried += len(found.spread)
        best = found.best(settings.parents)
        return -found.spread[best[0]], best

    def expected(self, ids: Ids) -> float:
        """Robust standard deviations by which a word moves one text more than is foretold; 0 for
        words that were not tried."""
        return self.first.get(ids, 0.0)

    def below(self, words: Sequence[Ids]) -> list[float]:
        """The same in more texts, each word among all that were tried in them."""
        new = [ids for ids in dict.fromkeys(words) if ids not in self.again]
        if new:
            moves = self._moved(new, self.texts[1:])
            self.again |= dict(zip(new, moves.tolist(), strict=True))
        tried = list(self.again)
        below = self._below(tried, torch.tensor(list(self.again.values()))).tolist()
        found = dict(zip(tried, below, strict=True))
        return [found[ids] + self.expected(ids) / 2 for ids in words]

    def way(self, words: Words) -> float:
        """Share of the way to where texts with all of the words go that one of them goes by itself,
        on average, less what the median of random words goes."""
        others = random.Random(f"{self.sweep.seed}/way").choices(self.words, k=OTHERS)
        tried, texts = [(), join(words), *words, *others], self.sweep.screen_texts
        rows = [text.ids(ids, self.copies) for ids in tried for text in texts]
        features = self._features(rows).unflatten(0, (len(tried), -1))
        start = features[0]
        way = features[1].mean(0) - start
        shares = ((features[2:] - start) * way).sum(-1) / way.square().sum(-1)
        alone, usual = shares.mean(1).split([len(words), OTHERS])
        return float(alone.mean() - usual.median())

    def _spread(self, tried: Sequence[Words]) -> torch.Tensor:
        """(K,) decades of scatter with sequences in the texts that shall meet."""
        ids = [join(words) for words in tried]
        spread = self.sweep.scatter(ids, self.column, self.together_in, self.copies)
        return (spread - self.unit.log10()).cpu()

    def _below(self, words: Sequence[Ids], moves: torch.Tensor) -> torch.Tensor:
        """(K,) robust standard deviations by which words do more than is foretold, by their
        embeddings, or for words of several pieces by what the pieces do as well, whichever they are
        further below."""
        embeddings, seed = self.sweep.backbone.embeddings.detach().float(), self.sweep.seed
        below = robust(left_over(Regression(words, embeddings, seed), moves, seed))
        rows = torch.tensor([row for row, ids in enumerate(words) if len(ids) > 1])
        if len(rows) >= FEW:
            some = [words[row] for row in rows.tolist()]
            known = torch.tensor([self._of_pieces(ids) for ids in some], device=embeddings.device)
            beside = left_over(Regression(some, embeddings, seed, known), moves[rows], seed)
            below[rows] = torch.minimum(robust(beside), below[rows])
        return below

    def _of_pieces(self, ids: Ids) -> tuple[float, float, float]:
        moves = [self.of_token.get(token, 0.0) for token in ids]
        return sum(moves) / len(moves), max(moves), min(moves)

    def _moves(self, words: Sequence[Ids], texts: Sequence[Carrier]) -> Steps[torch.Tensor]:
        """Returns (K,) decades by which words move texts."""
        moves = torch.empty(len(words))
        order = sorted(range(len(words)), key=lambda i: len(words[i]))
        for start in range(0, len(order), BLOCK):
            part = order[start : start + BLOCK]
            moves[part] = self._moved([words[i] for i in part], texts)
            yield self.sweep.spent(0)  # `_features` has counted them
        return moves

    def _moved(self, words: Sequence[Ids], texts: Sequence[Carrier]) -> torch.Tensor:
        """The same for a few."""
        rows = [text.ids(ids, self.copies) for ids in words for text in texts]
        features: torch.Tensor = self._features(rows).unflatten(0, (len(words), -1))
        squared = (features - self._features([text.ids() for text in texts])).square().sum(-1)
        return (squared / self.unit).clamp(min=LEAST).log10().mean(1).cpu()

    def _features(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """(N, H) of texts as ids."""
        sweep = self.sweep
        rows = [sweep.backbone.template.wrap(ids) for ids in rows]
        sweep.done += sum(map(len, rows))
        readout = sweep.readouts[self.column]
        return sweep.backbone.encode_ids(rows, readouts=[readout], fast=True)[:, 0]


class _Sequences:
    """A population of sequences of words. costs: decades that each word costs, those first that are
    drawn most.

    spread: decades of each sequence, with its costs.
    """

    def __init__(self, costs: dict[Ids, float], settings: SuppressedSettings, seed: int):
        self.costs = costs
        self.settings = settings
        self.rng = random.Random(f"{seed}/inert")
        self.pool = list(costs)
        self.weights = list(accumulate(1 / (rank + 10) for rank in range(len(costs))))
        self.spread: dict[Words, float] = {}
        self.reached: list[float] = []

    def next(self) -> list[Words]:
        """The next generation, the shortest first; nothing once the best no longer gains."""
        settings = self.settings
        if not self.spread:
            sizes = self.rng.choices((2, 3, 3), k=settings.first)
            return self._new([tuple(self._draw() for _ in range(size)) for size in sizes])
        parents = self.best(settings.parents)
        self.reached.append(self.spread[parents[0]])
        before = self.reached[: -settings.patience]
        if before and self.reached[-1] > before[-1] - settings.gain:
            return []
        return self._new([self._child(parents) for _ in range(settings.children)])

    def tell(self, tried: Sequence[Words], spread: Sequence[float]) -> None:
        for words, value in zip(tried, spread, strict=True):
            self.spread[words] = value + sum(self.costs[word] for word in words)

    def best(self, count: int) -> list[Words]:
        return heapq.nsmallest(count, self.spread, key=self.spread.__getitem__)

    def _new(self, drawn: Sequence[Words]) -> list[Words]:
        fresh = [x for x in dict.fromkeys(drawn) if x not in self.spread]
        fresh = [words for words in fresh if len(set(words)) == len(words)]
        return sorted(fresh, key=lambda words: sum(map(len, words)))

    def _draw(self) -> Ids:
        return self.rng.choices(self.pool, cum_weights=self.weights)[0]

    def _child(self, parents: Sequence[Words]) -> Words:
        """A parent with one word exchanged for another one, or for one of another parent, or with a
        word more or less, or in another order."""
        rng, child = self.rng, list(self.rng.choice(parents))
        place, kind = rng.randrange(len(child)), rng.random()
        if kind < 0.4:
            child[place] = self._draw()
        elif kind < 0.6:
            child[place] = rng.choice(rng.choice(parents))
        elif kind < 0.75 and len(child) < self.settings.longest:
            child.insert(rng.randint(0, len(child)), self._draw())
        elif kind < 0.9 and len(child) > 2:
            child.pop(place)
        else:
            rng.shuffle(child)
        return tuple(child)
