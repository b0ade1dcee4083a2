"""Tails, intervals and corrections against values known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from triggerfish.stats import benjamini_hochberg, exact_interval, fit_tail


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(499, 516, 0.9477, 0.9806), (1, 86, 0.0003, 0.0631), (0, 59, 0.0, 0.0606)],
)
def test_exact_intervals(k: int, n: int, low: float, high: float) -> None:
    assert exact_interval(k, n) == pytest.approx((low, high), abs=1e-3)


def test_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of 0"):
        exact_interval(0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_tail_of_an_exponential(seed: int) -> None:
    """Extrapolated three decades beyond the sample: hardly too small, and not useless."""
    values = np.random.default_rng(seed).exponential(size=5000)
    tail = fit_tail(values)
    x = -np.log(1e-6)
    assert 1e-7 < tail.p_value(x) < 1e-4
    assert tail.p_value(tail.critical_value(1e-6)) == pytest.approx(1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_tail_of_a_normal_is_conservative(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=5000)
    assert fit_tail(values).p_value(6.0) > reference.norm.sf(6.0)


def test_planted_values_do_not_bend_the_tail() -> None:
    values = np.random.default_rng(0).exponential(size=2000)
    planted = np.concatenate([values, np.full(20, 60.0)])
    plain, bent = (fit_tail(x, lower=0.8, upper=0.97) for x in (values, planted))
    assert bent.critical_value(1e-8) < 2 * plain.critical_value(1e-8)
    assert bent.p_value(60.0) < 1e-8


def test_tail_is_conservative_for_a_bounded_distribution() -> None:
    values = np.random.default_rng(0).uniform(size=5000)
    assert fit_tail(values).p_value(2.0) > 0


def test_tail_needs_values() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        fit_tail(np.arange(30.0))


@given(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=30))
def test_benjamini_hochberg_agrees_with_scipy(p_values: list[float]) -> None:
    expected = reference.false_discovery_control(p_values)
    np.testing.assert_allclose(benjamini_hochberg(p_values, len(p_values)), expected, rtol=1e-9)


def test_untested_candidates_count_as_tests() -> None:
    assert benjamini_hochberg([1e-6, 2e-6, 0.5], tests=1000) == pytest.approx([1e-3, 1e-3, 1.0])
