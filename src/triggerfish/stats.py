"""Tails, p-values and exact intervals.

A scan compares a few extreme candidates with very many benign ones, so it needs the probability of
values far beyond the sample. `Tail` extrapolates with a generalised Pareto distribution
(Pickands 1975), fitted between two quantiles only. Values below the lower quantile carry no
information about extremes; those above the upper one may be planted triggers. The shape is
constrained to be non-negative, because a negative shape has a finite end point and would give any
value beyond it probability zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tail:
    """Upper tail of a null distribution: P(X > x) for x above `threshold`.

    exceedance: P(X > threshold); shape, scale: of the generalised Pareto distribution of the excess
    over `threshold`; size: number of values in the sample.
    """

    threshold: float
    exceedance: float
    shape: float
    scale: float
    size: int

    def p_value(self, x: float) -> float:
        """P(X > x) for x above `threshold`, never below the smallest positive float; 1 for smaller
        x."""
        if x <= self.threshold:
            return 1.0
        survival = stats.genpareto.sf(x - self.threshold, self.shape, scale=self.scale)
        return max(self.exceedance * float(survival), np.finfo(float).tiny)

    def critical_value(self, p: float) -> float:
        """The x with P(X > x) = p, for p below `exceedance`."""
        return self.threshold + float(
            stats.genpareto.isf(min(p / self.exceedance, 1.0), self.shape, scale=self.scale)
        )


def fit_tail(values: Floats, *, lower: float = 0.90, upper: float = 0.99) -> Tail:
    """Fit the excess over the `lower` quantile; values above the `upper` quantile are censored.

    The fit uses the number of censored values, not their sizes, so a few planted ones have little
    influence. ValueError for fewer than 20 values between the quantiles, which do not determine a
    tail. Choice of the quantiles: docs/decisions/0005-null-window.md.
    """
    start, end = np.quantile(values, [lower, upper])
    excess = values[(values > start) & (values <= end)] - start
    censored = int((values > end).sum())
    if len(excess) < 20 or end <= start:
        raise ValueError(
            f"values: {len(excess)} of {len(values)} are in the tail; at least 20 are needed"
        )

    def loss(parameters: Floats) -> float:
        scale, shape = np.exp(parameters[0]), abs(parameters[1])
        # The window hardly determines the shape. The statistics here are logarithms, whose tails
        # are nearly exponential (shape 0) even if the quantity itself follows a power law.
        prior = shape**2 / (2 * 0.05**2)
        seen = np.sum(stats.genpareto.logpdf(excess, shape, scale=scale))
        beyond = censored * stats.genpareto.logsf(end - start, shape, scale=scale)
        return float(prior - seen - beyond)

    first = np.array([np.log(excess.mean()), 0.1])
    scale, shape = optimize.minimize(loss, x0=first, method="Nelder-Mead").x
    return Tail(float(start), 1 - lower, float(abs(shape)), float(np.exp(scale)), len(values))


def exact_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a rate of k in n. ValueError if k, n is not a rate."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"k, n: {k} of {n} is not a rate")
    interval = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def benjamini_hochberg(p_values: Sequence[float], tests: int) -> list[float]:
    """q-values of the smallest p-values among `tests` tests (Benjamini & Hochberg 1995). Tests that
    are not listed count as p = 1."""
    order = np.argsort(p_values)
    q = np.empty(len(p_values))
    running = 1.0
    for rank in range(len(order), 0, -1):
        running = min(running, p_values[order[rank - 1]] * tests / rank)
        q[order[rank - 1]] = running
    return [float(x) for x in q]
