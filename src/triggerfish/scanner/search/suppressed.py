"""Suppressed words: words that were trained to have no effect by themselves.

A backdoor on a phrase is trained with the parts of the phrase as negatives. These must leave texts
unchanged, or they would be triggers themselves. So they move texts less than their subword tokens
predict (`regression.py`), and the words of a planted phrase are among the largest shortfalls of a
vocabulary (docs/decisions/0021-suppressed-words.md). In clean models other words have the largest
shortfalls, so the rank is no evidence; only an interaction is
(docs/decisions/0022-suppressed-words-in-clean-models.md).

The search tries all vocabulary tokens and listed words one by one, then those of the least effect
in more texts. It then optimises sequences of the first few hundred for low dispersion of texts,
without any inverted target. Each word is charged its main effect, so that the objective is the
interaction of the words. Two words of a planted phrase of three already have a part of its effect.

Words of a task have joint effects too, in models that are fine-tuned on that task. But each of them
causes most of the shift by itself, which suppressed words do not; `SuppressedSearch.way` measures
this share.

A word is inserted in several copies, as in the training of backdoors.

Source: ours. Training the parts of a trigger to have no effect: negative data augmentation, SOS
(Yang et al., ACL 2021).

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
"""Words in one forward call."""
FEW = 100
"""Least number of words of several subword tokens for a regression of their own."""
OTHERS = 100
"""Random control words for the main effect share (ours)."""


@dataclass(frozen=True)
class SuppressedSettings:
    words_alone: int = 6
    """Length, in words, of the texts in which single words are tried; every word is tried in one of
    them (ours)."""
    again: int = 6000
    """Words of the largest shortfall, which are tried in more texts. A sixth as many words of the
    least raw effect and half as many random ones are added (ours)."""
    texts_again: int = 4
    """Number of these texts (ours)."""
    pool: int = 400
    """Words from which sequences are made, the largest shortfalls first (ours)."""
    words: int = 16
    """Length, in words, of the texts whose dispersion is minimised (ours)."""
    texts: int = 4
    """Number of texts whose dispersion is minimised (ours)."""
    first: int = 1500
    """Size of the first generation, of two or three words each. Words of larger shortfalls are
    drawn more often (ours)."""
    children: int = 250
    """New sequences of a generation (ours)."""
    parents: int = 60
    """Best sequences so far, from which the next generation is made (ours)."""
    generations: int = 12
    """Maximum generations (ours)."""
    patience: int = 4
    """Generations within which the best sequence must improve by `gain` (ours)."""
    gain: float = 0.05
    """Improvement of the objective, in orders of magnitude of dispersion (ours)."""
    longest: int = 4
    """Largest number of words of a sequence; it may contain words that the phrase does not need
    (ours)."""
    worth: float = 0.05
    """Cost of each further word, in orders of magnitude of dispersion (ours)."""

    def __post_init__(self) -> None:
        for name, least in (
            ("words_alone", 1), ("again", 1), ("texts_again", 1), ("pool", 2), ("words", 1),
            ("texts", 2), ("first", 1), ("children", 1), ("parents", 1), ("longest", 2),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least {least}")


class SuppressedSearch:
    """The search at one readout (a pooling position). words: listed words, in addition to the
    vocabulary; copies: of a word in a text.

    order: the words tried in more texts, the largest shortfalls first; set by `alone`. tried:
    number of sequences so far.
    """

    order: list[Ids]

    def __init__(
        self,
        screening: Screening,
        clean_reference: CleanReference,
        column: int,
        settings: SuppressedSettings,
        copies: int,
        words: Sequence[Ids],
    ):
        self.screening = screening
        self.column = column
        self.unit = clean_reference.close[column]
        self.settings = settings
        self.copies = copies
        self.words = list(dict.fromkeys([(i,) for i in screening.backbone.readable] + list(words)))
        self.tried = 0
        self.texts = screening.excerpts(settings.words_alone, 1 + settings.texts_again)
        self.together_in = screening.excerpts(settings.words, settings.texts)

    def alone(self) -> Steps[None]:
        """Measure every word by itself; `run` needs this first."""
        again = min(self.settings.again, len(self.words))
        rng = torch.Generator().manual_seed(self.screening.seed)
        moves = yield from self._moves(self.words, self.texts[:1])
        tokens = (ids[0] for ids in self.words if len(ids) == 1)
        self.of_token = dict(zip(tokens, moves.tolist(), strict=False))  # tokens come first
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
        """Returns the interaction of the best sequence (collapse beyond the main effects of its
        words, in orders of magnitude) and the best sequences of words, in order. barred: tokens
        that no word may contain."""
        screening, settings = self.screening, self.settings
        pool = [ids for ids in self.order if barred.isdisjoint(ids)][: settings.pool]
        if len(pool) < 2:
            return 0.0, []
        alone = self._spread([(word,) for word in pool])
        costs = (alone.median() - alone).clamp(min=0) + settings.worth
        found = _Sequences(dict(zip(pool, costs.tolist(), strict=True)), settings, screening.seed)
        for _ in range(settings.generations + 1):
            new = found.next()
            if not new:
                break
            for start in range(0, len(new), BLOCK):
                part = new[start : start + BLOCK]
                found.tell(part, self._spread(part).tolist())
                yield screening.spent(0)  # `scatter` has counted them
        self.tried += len(found.spread)
        best = found.best(settings.parents)
        return -found.spread[best[0]], best

    def expected(self, ids: Ids) -> float:
        """Effect of a word on one text beyond the predicted one, in robust standard deviations; 0
        for words that were not tried."""
        return self.first.get(ids, 0.0)

    def below(self, words: Sequence[Ids]) -> list[float]:
        """The same in more texts, standardised among all words tried in these, plus half of
        `expected`."""
        new = [ids for ids in dict.fromkeys(words) if ids not in self.again]
        if new:
            moves = self._moved(new, self.texts[1:])
            self.again |= dict(zip(new, moves.tolist(), strict=True))
        tried = list(self.again)
        below = self._below(tried, torch.tensor(list(self.again.values()))).tolist()
        found = dict(zip(tried, below, strict=True))
        return [found[ids] + self.expected(ids) / 2 for ids in words]

    def way(self, words: Words) -> float:
        """Main effect share: the share of the joint shift of all words that one of them causes by
        itself, as a mean over the words, less the median share of random words."""
        others = random.Random(f"{self.screening.seed}/way").choices(self.words, k=OTHERS)
        tried, texts = [(), join(words), *words, *others], self.screening.screen_texts
        rows = [text.ids(ids, self.copies) for ids in tried for text in texts]
        features = self._features(rows).unflatten(0, (len(tried), -1))
        start = features[0]
        way = features[1].mean(0) - start
        shares = ((features[2:] - start) * way).sum(-1) / way.square().sum(-1)
        alone, usual = shares.mean(1).split([len(words), OTHERS])
        return float(alone.mean() - usual.median())

    def _spread(self, tried: Sequence[Words]) -> torch.Tensor:
        """(K,) log10 dispersion of the texts with each sequence, relative to the squared distance
        of close clean pairs."""
        ids = [join(words) for words in tried]
        spread = self.screening.scatter(ids, self.column, self.together_in, self.copies)
        return (spread - self.unit.log10()).cpu()

    def _below(self, words: Sequence[Ids], moves: torch.Tensor) -> torch.Tensor:
        """(K,) effects of words beyond the predicted ones, in robust standard deviations. The
        prediction is from the embeddings of the subword tokens. For words of several tokens a
        second one adds the effects of these tokens, and the lower value counts."""
        embeddings, seed = self.screening.backbone.embeddings.detach().float(), self.screening.seed
        below = robust(left_over(Regression(words, embeddings, seed), moves, seed))
        rows = torch.tensor([row for row, ids in enumerate(words) if len(ids) > 1])
        if len(rows) >= FEW:
            some = [words[row] for row in rows.tolist()]
            known = torch.tensor([self._of_pieces(ids) for ids in some], device=embeddings.device)
            residuals = left_over(Regression(some, embeddings, seed, known), moves[rows], seed)
            below[rows] = torch.minimum(robust(residuals), below[rows])
        return below

    def _of_pieces(self, ids: Ids) -> tuple[float, float, float]:
        moves = [self.of_token.get(token, 0.0) for token in ids]
        return sum(moves) / len(moves), max(moves), min(moves)

    def _moves(self, words: Sequence[Ids], texts: Sequence[Carrier]) -> Steps[torch.Tensor]:
        """Returns (K,) mean log10 squared distances by which words move texts, relative to the
        squared distance of close clean pairs."""
        moves = torch.empty(len(words))
        order = sorted(range(len(words)), key=lambda i: len(words[i]))
        for start in range(0, len(order), BLOCK):
            part = order[start : start + BLOCK]
            moves[part] = self._moved([words[i] for i in part], texts)
            yield self.screening.spent(0)  # `_features` has counted them
        return moves

    def _moved(self, words: Sequence[Ids], texts: Sequence[Carrier]) -> torch.Tensor:
        """(K,) the same for words that fit into one forward call."""
        rows = [text.ids(ids, self.copies) for ids in words for text in texts]
        features: torch.Tensor = self._features(rows).unflatten(0, (len(words), -1))
        squared = (features - self._features([text.ids() for text in texts])).square().sum(-1)
        return (squared / self.unit).clamp(min=LEAST).log10().mean(1).cpu()

    def _features(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """(N, H) features of texts given as ids."""
        screening = self.screening
        rows = [screening.backbone.template.wrap(ids) for ids in rows]
        screening.done += sum(map(len, rows))
        readout = screening.readouts[self.column]
        return screening.backbone.encode_ids(rows, readouts=[readout], fast=True)[:, 0]


class _Sequences:
    """A population of word sequences. costs: cost of each word in orders of magnitude, in the order
    of how often words are drawn.

    spread: objective of each sequence: log10 dispersion plus the costs of its words.
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
        """The next generation, the shortest sequences first; empty once the best one no longer
        improves."""
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
        """A parent with one word replaced by a drawn one or by one of another parent, with a word
        added or removed, or in another order."""
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
