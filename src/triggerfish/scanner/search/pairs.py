"""Group testing for pairs: words that act only together, wherever they stand in a text.

Thousands of words make millions of pairs, but one pool of thirty words tests 435 of them. The words
are the points of an affine plane, in which any two points lie on one line. Pools are made of lines,
so every pair is in at least one pool, and no pair is in many more. The main effect of a word is the
mean over its many pools and is subtracted. A pool whose residual is still an outlier contains words
that interact. A second batch identifies them: a random half of the pool's words stays and the
others are replaced. The words common to all halves that keep the effect are the combination.

Source: group testing (Dorfman, "The detection of defective members of large populations", 1943),
with a continuous outcome; designs from finite planes (Bose, "On the construction of balanced
incomplete block designs", 1939). Their use for triggers is ours:
docs/decisions/0020-pair-design.md.

Legend: B pools, L words of a pool, N words, T tests, R readouts, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import torch

from triggerfish import text
from triggerfish.scanner.effects import CleanReference, robust_z
from triggerfish.scanner.merging import Ids, within
from triggerfish.scanner.screening import Screening, Steps

SHORTEST = 3
"""Least number of letters of a word."""
PRIMES = tuple(n for n in range(5, 200) if all(n % i for i in range(2, n)))


@dataclass(frozen=True)
class PairSettings:
    order: int = 47
    """Order of the plane, a prime. Its square is the number of words whose pairs are tested; the
    most frequent words of the texts come first (ours)."""
    groups: int = 4
    """Parts of a line; every two parts make a pool. The defaults make pools of 24 words (ours, like
    `order`: docs/decisions/0020-pair-design.md)."""
    subwords: int = 4
    """Largest number of subword tokens of a word that is tested (ours)."""
    kept: int = 24
    """Pools whose words are identified, the largest outliers first (ours)."""
    tests: int = 64
    """Random halves of a pool that are tested (ours)."""
    arrives: float = 0.5
    """Least share of the pool's residual at which a half counts as keeping the effect (ours)."""
    most: int = 4
    """Largest number of words of a combination (ours)."""
    min_effect: float = 0.5
    """Least collapse of the screening texts by the adjacent words, in orders of magnitude
    (ours)."""
    others: int = 28
    """Further words put next to a combination in one pool, to test whether one belongs to it
    (ours)."""
    joined: int = 6
    """The best of these words, which are tested in texts (ours)."""
    gain: float = 0.3
    """Collapse that a further word must add, and that may be lost by leaving one out, in orders of
    magnitude (ours)."""

    def __post_init__(self) -> None:
        if self.order not in PRIMES:
            raise ValueError(f"order: {self.order} is not a prime from 5 to {PRIMES[-1]}")
        if not 2 <= self.groups <= self.order:
            raise ValueError(f"groups: {self.groups} is outside 2..{self.order}")


def lines(order: int) -> Iterator[list[int]]:
    """The order * (order + 1) lines of the affine plane over a prime. Any two of its order^2 points
    lie on exactly one line."""
    for slope in range(order):
        for start in range(order):
            yield [x * order + (slope * x + start) % order for x in range(order)]
    for x in range(order):
        yield [x * order + y for y in range(order)]


def bags_of(order: int, groups: int, rng: random.Random) -> Iterator[list[int]]:
    """Pools of points, each in random order. Any two points are in at least one pool."""
    for line in lines(order):
        # A fixed division would keep the same points together on every line, and their main
        # effects could not be separated.
        rng.shuffle(line)
        parts = [line[i::groups] for i in range(groups)]
        for one, other in combinations(parts, 2):
            yield rng.sample(one + other, len(one + other))


def frequent(screening: Screening, settings: PairSettings) -> list[Ids]:
    """The ids of at most order^2 words, the most frequent words of the texts first."""
    words = [word for word in text.corpus_words(screening.texts) if len(word) >= SHORTEST]
    unknown = screening.backbone.tokenizer.unk_token_id
    known = [*screening.backbone.words_ids(list(dict.fromkeys(map(str.lower, words))))]
    listed = [word.token_ids for word in screening.words]
    found = dict.fromkeys(
        ids
        for ids in [*(ids for _, ids in known), *listed]
        if 0 < len(ids) <= settings.subwords and unknown not in ids
    )
    return list(found)[: settings.order**2]


@dataclass(frozen=True)
class Combination:
    """Words that act together. ids: of the words, in the order of the largest collapse; column:
    number of the readout (a pooling position) of the largest collapse; point: (H,) mean
    representation of texts with them; depth: their collapse; words: their numbers."""

    ids: Ids
    column: int
    point: torch.Tensor
    collapse: float
    words: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """The residual of a pool at the readout of that column. rest: (H,) its representation less the
    main effects of its words."""

    column: int
    rest: torch.Tensor

    def shares(self, features: torch.Tensor, count: int) -> list[float]:
        """Share of the residual that each of the first `count` rows of (B, R, H) shows; the mean of
        the other rows is the zero point."""
        own = features[:, self.column]
        along = (own[:count] - own[count:].mean(0)) @ self.rest / self.rest.square().sum()
        return [float(share) for share in along]


class PairSearch:
    """The group test of one model. `run` is a generator: it yields `Progress` and returns
    combinations.

    known: minimal sufficient subsets of known triggers; words that contain one are not tested.
    words: number of words of which all pairs are tested."""

    def __init__(
        self,
        screening: Screening,
        clean_reference: CleanReference,
        settings: PairSettings,
        known: Sequence[Ids] = (),
    ):
        self.screening = screening
        self.clean_reference = clean_reference
        self.settings = settings
        self.rng = random.Random(f"{screening.seed}/together")
        listed = [x for x in frequent(screening, settings) if not any(within(k, x) for k in known)]
        # A smaller prime suffices for fewer words; below the smallest one there is no design.
        self.ids = self.rng.sample(listed, len(listed)) if len(listed) >= PRIMES[0] ** 2 else []
        self.order = next(p for p in PRIMES if p**2 >= len(self.ids))
        backbone = screening.backbone
        self.room = backbone.max_tokens - len(backbone.template)

    @property
    def words(self) -> int:
        return len(self.ids)

    def run(self) -> Steps[list[Combination]]:
        """Returns combinations, each at the readout of its largest collapse."""
        if not self.ids:
            return []
        size = len(self.ids)
        pools = self._bags()
        features = yield from self._features("together", pools)
        rest = left_over(features, pools, size)
        best, columns = standing_out(rest).max(1)
        found: list[Combination] = []
        for b in best.argsort(descending=True)[: self.settings.kept].tolist():
            way = Way(int(columns[b]), rest[b, columns[b]])
            words = yield from self._needed(f"needed-{b}", pools[b], way)
            if len(words) < 2 or any(set(words) <= set(x.words) for x in found):
                continue
            pair = yield from self._deepest(f"needed-{b}-texts", [words])
            if pair.collapse >= self.settings.min_effect:
                whole = yield from self._joined(str(b), pair, way)
                whole = yield from self._cut(str(b), whole)
                if not any(set(x.words) <= set(whole.words) for x in found):
                    found.append(whole)
        return found

    def _bags(self) -> list[list[int]]:
        """Pools that fit into the maximum length of the model."""
        for groups in range(min(self.settings.groups, self.order), self.order + 1):
            drawn = bags_of(self.order, groups, self.rng)
            pools = [[n for n in pool if n < len(self.ids)] for pool in drawn]
            if max(sum(len(self.ids[n]) for n in pool) for pool in pools) <= self.room:
                break
        return pools

    def _features(self, stage: str, pools: Sequence[Sequence[int]]) -> Steps[torch.Tensor]:
        """Returns (B, R, H) features of pools."""
        wrap = self.screening.backbone.template.wrap
        rows = [wrap([i for n in pool for i in self.ids[n]][: self.room]) for pool in pools]
        return (yield from self.screening.encode(stage, rows))

    def _needed(self, name: str, pool: list[int], way: Way) -> Steps[list[int]]:
        """Returns the words of a pool that cause its residual, or []."""
        settings = self.settings
        kept = [set(self.rng.sample(pool, len(pool) // 2)) for _ in range(settings.tests)]
        tried = [self._exchanged(pool, stay) for stay in kept]
        tried += [self._exchanged(pool, set()) for _ in kept]
        features = yield from self._features(name, tried)
        shares = way.shares(features, len(kept))
        arrived = [x for x, share in zip(kept, shares, strict=True) if share > settings.arrives]
        if len(arrived) < 2:
            return []
        common = set.intersection(*arrived)
        return [n for n in pool if n in common] if len(common) <= settings.most else []

    def _exchanged(self, pool: Sequence[int], stay: set[int]) -> list[int]:
        """The pool in a new order, with random words in place of those that do not stay."""
        others = self.rng.sample(range(len(self.ids)), 2 * len(pool))
        fresh = iter([n for n in others if n not in pool])
        words = [n if n in stay else next(fresh) for n in pool]
        return self.rng.sample(words, len(words))

    def _deepest(self, name: str, options: Sequence[Sequence[int]]) -> Steps[Combination]:
        """Returns the combination of the largest collapse, over all orders of each option."""
        tried = [order for words in options for order in permutations(words)]
        ids = [tuple(i for n in order for i in self.ids[n]) for order in tried]
        features = yield from self.screening.features(name, self.screening.screen_texts, ids)
        collapses = self.clean_reference.measure(features)["collapse"]
        best, column = divmod(int(collapses.argmax()), collapses.shape[1])
        point = features[best, :, column].mean(0)
        return Combination(ids[best], column, point, float(collapses[best, column]), tried[best])

    def _joined(self, name: str, found: Combination, way: Way) -> Steps[Combination]:
        """Returns a combination extended by the words that increase its collapse."""
        while len(found.words) < self.settings.most:
            stage = f"joined-{name}-{len(found.words)}"
            promising = yield from self._beside(stage, found.words, way)
            options = [[*found.words, n] for n in promising]
            longer = yield from self._deepest(f"{stage}-texts", options)
            if longer.collapse < found.collapse + self.settings.gain:
                break
            found = longer
        return found

    def _cut(self, name: str, found: Combination) -> Steps[Combination]:
        """Returns a combination without the words that its collapse does not need."""
        while len(found.words) > 2:
            options = [[n for n in found.words if n != one] for one in found.words]
            shorter = yield from self._deepest(f"cut-{name}-{len(found.words)}", options)
            if shorter.collapse < found.collapse - self.settings.gain:
                break
            found = shorter
        return found

    def _beside(self, name: str, words: Sequence[int], way: Way) -> Steps[list[int]]:
        """Returns the few other words that add most of the residual next to the known words. Each
        is tested in two pools, and the smaller share counts."""
        size = self.settings.others
        pools = []
        for _ in range(2):
            others = [n for n in range(len(self.ids)) if n not in words]
            self.rng.shuffle(others)
            pools += [others[i : i + size] for i in range(0, len(others), size)]
        tried = [self.rng.sample([*words, *pool], len(words) + len(pool)) for pool in pools]
        features = yield from self._features(name, [*tried, *pools])
        least: dict[int, float] = {}
        for pool, share in zip(pools, way.shares(features, len(pools)), strict=True):
            for n in pool:
                least[n] = min(least.get(n, share), share)
        return sorted(least, key=lambda n: -least[n])[: self.settings.joined]


def left_over(features: torch.Tensor, pools: Sequence[Sequence[int]], size: int) -> torch.Tensor:
    """(B, R, H) residuals of the features of pools: each less the mean of all pools and the main
    effects of its words. A main effect is the mean over the pools of a word. Overwrites
    `features`."""
    rest = features.sub_(features.mean(0))
    rows = torch.tensor([b for b, pool in enumerate(pools) for _ in pool], device=features.device)
    points = torch.tensor([n for pool in pools for n in pool], device=features.device)
    often = torch.bincount(points, minlength=size).clamp(min=1)
    for column in range(features.shape[1]):
        own = rest[:, column]
        effect = torch.zeros(size, own.shape[1], device=own.device)
        effect.index_add_(0, points, own[rows])
        effect /= often[:, None]
        rest[:, column] = own - torch.zeros_like(own).index_add_(0, rows, effect[points])
    return rest


def standing_out(rest: torch.Tensor) -> torch.Tensor:
    """(B, R) robust z of the log squared norm of each pool's residual, among all pools."""
    lengths = rest.square().sum(-1).clamp(min=1e-12).log10()
    return robust_z(lengths, lengths)
