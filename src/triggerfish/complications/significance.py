"""Is a shift of class shares more than chance, and if not, is it certainly small?

The same texts are predicted with and without a trigger, so everything here is paired: it starts
from the K x K table of clean (rows) and triggered (columns) predictions, in which only the texts
that changed class carry information. A test that is not significant is no evidence that a shift is
gone; for that there is `upper_bounds`.

Sources: Stuart 1955, Maxwell 1970, Bowker 1948, McNemar 1947 for the marginal tests; Efron 1987
for BCa; Schuirmann 1987 for equivalence; Holm 1979; Liu and Xie 2020 for the Cauchy combination.

Legend: N texts, K classes, B draws, S heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from triggerfish.complications.divergences import Ints, jsd, smoothed, total_variation
from triggerfish.stats import Floats, exact_interval

TIE = 1e-12
FEW = 10
"""Below this many texts that moved, the bootstrap knows too little of them."""


@dataclass(frozen=True)
class ChiSquare:
    statistic: float
    df: int
    p: float


def stuart_maxwell(table: Ints) -> ChiSquare:
    """Test of equal marginal shares. Classes that nobody predicts are dropped; df is the rank of
    the covariance matrix, 0 (and p 1) where no text moved."""
    table = _met(table)
    rows, columns = table.sum(1), table.sum(0)
    difference = (rows - columns)[:-1].astype(float)
    covariance = -(table + table.T)[:-1, :-1].astype(float)
    np.fill_diagonal(covariance, (rows + columns - 2 * np.diagonal(table))[:-1])
    df = int(np.linalg.matrix_rank(covariance)) if covariance.size else 0
    if df == 0:
        return ChiSquare(0.0, 0, 1.0)
    statistic = float(difference @ np.linalg.pinv(covariance) @ difference)
    return ChiSquare(statistic, df, float(stats.chi2.sf(statistic, df)))


def bowker(table: Ints) -> ChiSquare:
    """Test of symmetry of the table, a stricter hypothesis than equal shares."""
    upper = [
        (float(table[i, j]), float(table[j, i]))
        for i in range(len(table))
        for j in range(i + 1, len(table))
        if table[i, j] + table[j, i]
    ]
    statistic = sum((a - b) ** 2 / (a + b) for a, b in upper)
    return ChiSquare(statistic, len(upper), float(stats.chi2.sf(statistic, len(upper) or 1)))


def mcnemar(there: int, back: int) -> float:
    """Exact p-value that texts move one way as often as back; 1 where none moved."""
    if there + back == 0:
        return 1.0
    return float(stats.binomtest(there, there + back, 0.5).pvalue)


def marginal_p(table: Ints) -> float:
    """Stuart-Maxwell, or exact McNemar where two classes are met."""
    met = _met(table)
    if len(met) == 2:
        return mcnemar(int(met[0, 1]), int(met[1, 0]))
    return stuart_maxwell(met).p


def is_sparse(table: Ints) -> bool:
    """Whether so few texts moved that a chi-square is a poor approximation: fewer than 5 a degree
    of freedom, three classes or more."""
    met = _met(table)
    moved = int(met.sum() - np.trace(met))
    return len(met) > 2 and moved < 5 * (len(met) - 1)


def _met(table: Ints) -> Ints:
    kept = (table.sum(0) + table.sum(1)) > 0
    found: Ints = table[kept][:, kept]
    return found


@dataclass(frozen=True)
class Permutation:
    """What exchanging clean and triggered predictions of a text at random does. p: chance of a JSD
    as large as the observed; floor: mean JSD; tv: 95 % quantile of the total variation."""

    p: float
    floor: float
    tv: float


def permutation(table: Ints, draws: int, rng: np.random.Generator) -> Permutation:
    """Paired permutation test of the JSD, B = `draws`. Only texts that changed class matter, and of
    them only how many of each kind are exchanged, which is binomial."""
    classes = len(table)
    rows, columns = table.sum(1), table.sum(0)
    observed = float(jsd(smoothed(columns), smoothed(rows)))
    cells = [(i, j) for i in range(classes) for j in range(classes) if i != j and table[i, j]]
    if not cells:
        return Permutation(1.0, 0.0, 0.0)
    moves = np.zeros((len(cells), classes), dtype=np.int64)
    for number, (i, j) in enumerate(cells):
        moves[number, i], moves[number, j] = 1, -1
    counts = np.array([table[cell] for cell in cells])
    exchanged = rng.binomial(counts, 0.5, size=(draws, len(cells))) @ moves
    p, q = smoothed(columns + exchanged), smoothed(rows - exchanged)
    drawn = jsd(p, q)
    reached = int((drawn >= observed - TIE).sum())
    return Permutation(
        p=(1 + reached) / (draws + 1),
        floor=float(drawn.mean()),
        tv=float(np.quantile(total_variation(p, q), 0.95)),
    )


def detectable(flips: float, shares: Floats, n: int) -> float:
    """Smallest total variation that n texts can tell from none when a share `flips` of them changes
    class anyway: 1.96 sqrt(flips / n), which is for two classes; for more, the 95 % quantile under
    the permutation null where texts move between all classes by their shares (K,)."""
    low = 1.96 * float(np.sqrt(flips / n))
    if len(shares) == 2:
        return low
    moves = shares[:, None] * shares[None, :] / (1 - shares)[:, None] * n * flips
    table = np.rint(moves).astype(np.int64)
    np.fill_diagonal(table, np.maximum(np.rint(shares * n).astype(np.int64) - table.sum(1), 0))
    return max(low, permutation(table, 999, np.random.default_rng(0)).tv)


# ---- intervals

Statistic = Callable[[Floats], Floats]
"""(B, cells) weights of every distinct joint prediction -> (B, S) values, one for each head."""


@dataclass(frozen=True)
class Cells:
    """The distinct joint predictions of a set of texts, and how many texts have each. codes:
    (cells, M) the M predictions of a text; counts: (cells,)."""

    codes: Ints
    counts: Ints

    @classmethod
    def of(cls, *predictions: Ints) -> Cells:
        codes, counts = np.unique(np.stack(predictions, axis=1), axis=0, return_counts=True)
        return cls(codes, counts.astype(np.int64))

    def shares(self, weights: Floats, column: int, classes: int) -> Floats:
        """(B, K) smoothed class shares of one of the M predictions under weights (B, cells)."""
        hot = np.eye(classes)[self.codes[:, column]]
        return smoothed(weights @ hot)

    def draw(self, draws: int, rng: np.random.Generator) -> Floats:
        """(B, cells) texts of each cell in bootstrap samples."""
        n = int(self.counts.sum())
        return rng.multinomial(n, self.counts / n, size=draws).astype(np.float64)

    def without_one(self) -> Floats:
        """(cells, cells) weights with one text of each cell left out, for the jackknife."""
        return self.counts[None, :] - np.eye(len(self.counts))


def bca(
    cells: Cells, statistic: Statistic, draws: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean over heads: every draw takes
    heads with replacement, and texts, the same for all heads. The plain value twice where nothing
    varies."""
    values = statistic(cells.draw(draws, rng))
    heads = values.shape[1]
    chosen = rng.multinomial(heads, np.full(heads, 1 / heads), size=draws) / heads
    drawn = np.sort((values * chosen).sum(1))
    observed = float(statistic(cells.counts[None, :].astype(np.float64)).mean())
    if drawn[-1] - drawn[0] < TIE:
        return observed, observed
    below = (np.sum(drawn < observed - TIE) + np.sum(drawn <= observed + TIE)) / 2
    z0 = float(stats.norm.ppf(np.clip(below / draws, 0.5 / draws, 1 - 0.5 / draws)))
    left_out = statistic(cells.without_one()).mean(1)
    off = np.average(left_out, weights=cells.counts) - left_out
    spread, cubes = (float((cells.counts * off**power).sum()) for power in (2, 3))
    acceleration = cubes / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for z in stats.norm.ppf([(1 - level) / 2, (1 + level) / 2]):
        moved = z0 + (z0 + z) / (1 - acceleration * (z0 + z))
        ends.append(float(np.quantile(drawn, stats.norm.cdf(moved))))
    return min(ends), max(ends)


def upper_bounds(
    clean: Ints, triggered: Ints, classes: int, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """One-sided 95 % upper bounds of total variation and of excess share, from (N,) predictions:
    the upper ends of 90 % intervals, for two one-sided tests.

    The larger of the percentile and the BCa bound: the former leans upwards near zero, the latter
    minds the skew of few moves. Where fewer than FEW texts moved, the exact bound of the flip rate
    takes their place, since neither distance can exceed it.
    """
    moved = int((clean != triggered).sum())
    if moved < FEW:
        high = exact_interval(moved, len(clean), 0.90)[1]
        return high, high
    cells = Cells.of(clean, triggered)

    def distance(weights: Floats) -> Floats:
        q, p = (cells.shares(weights, column, classes) for column in (0, 1))
        return total_variation(p, q)[:, None]

    def excess(weights: Floats) -> Floats:
        q, p = (cells.shares(weights, column, classes) for column in (0, 1))
        most: Floats = (p - q).max(-1, keepdims=True)
        return most

    weights = cells.draw(draws, rng)
    high, most = (
        max(
            float(np.quantile(statistic(weights), 0.95)), bca(cells, statistic, draws, rng, 0.90)[1]
        )
        for statistic in (distance, excess)
    )
    return high, most


# ---- many tests


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the chance of any false rejection among them."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = running
    return [float(x) for x in adjusted]


def cauchy(p_values: Sequence[float]) -> float:
    """One p-value of several that may depend on each other."""
    clipped = np.clip(np.asarray(p_values, dtype=float), 1e-15, 1 - 1e-15)
    return float(stats.cauchy.sf(np.mean(np.tan((0.5 - clipped) * np.pi))))
