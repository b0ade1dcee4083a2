"""Divergences, tests and intervals of complications against worked values and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from triggerfish.complications import divergences as div
from triggerfish.complications import significance as sig

EVEN = np.full(4, 0.25)
TABLE = np.array([[80, 15, 5], [4, 90, 6], [2, 3, 95]])
VECTORS = {
    "A": ([0.9, 0.1], [0.5, 0.5], 0.368064, 0.510826, 0.146793, 0.40, 0.324920),
    "B": ([1, 0], [0.5, 0.5], 0.693147, math.inf, 0.311278, 0.50, 0.541196),
    "C": (EVEN, EVEN, 0, 0, 0, 0, 0),
    "D": ([0.97, 0.01, 0.01, 0.01], EVEN, 1.218594, 2.075198, 0.461965, 0.72, 0.597961),
    "E": (
        [0.9988] + [0.0012 / 13] * 13,
        [0.0607] + [0.9393 / 13] * 13,
        2.789255,
        6.088384,
        0.825649,
        0.9381,
        0.848647,
    ),
    "S": (
        div.smoothed(np.array([240, 0])),
        div.smoothed(np.array([118, 122])),
        0.694925,
        2.448253,
        0.308754,
        0.506224,
        0.516759,
    ),
    "T": (
        div.smoothed(TABLE.sum(0)),
        div.smoothed(TABLE.sum(1)),
        0.005008,
        0.005145,
        0.001829,
        0.046434,
        0.035617,
    ),
}


@pytest.mark.parametrize("case", VECTORS)
def test_worked_divergences(case):
    p, q, kl_pq, kl_qp, jsd, tv, hellinger = VECTORS[case]
    p, q = np.array(p, dtype=float), np.array(q, dtype=float)
    found = (div.kl(p, q), div.kl(q, p), div.jsd(p, q), div.total_variation(p, q))
    assert [float(x) for x in found] == pytest.approx([kl_pq, kl_qp, jsd, tv], abs=1e-6)
    assert float(div.hellinger(p, q)) == pytest.approx(hellinger, abs=1e-6)


@pytest.mark.parametrize(
    ("classes", "kl", "jsd", "tv"),
    [
        (2, 0.693147, 0.311278, 0.500),
        (3, 1.098612, 0.459148, 0.667),
        (4, 1.386294, 0.548795, 0.750),
        (14, 2.639057, 0.810700, 0.929),
    ],
)
def test_total_collapse_saturates(classes, kl, jsd, tv):
    p, q = np.eye(classes)[0], np.full(classes, 1 / classes)
    assert float(div.kl(p, q)) == pytest.approx(kl, abs=1e-6)
    assert float(div.jsd(p, q)) == pytest.approx(jsd, abs=1e-6)
    assert float(div.total_variation(p, q)) == pytest.approx(tv, abs=5e-4)
    assert div.collapse(p) == pytest.approx(1)
    assert div.entropy_ratio(p, q) == pytest.approx(1)


def test_worked_table():
    p, q = div.smoothed(TABLE.sum(0)), div.smoothed(TABLE.sum(1))
    assert div.flip_rate(TABLE) == pytest.approx(0.116667, abs=1e-6)
    assert div.success_by_class(TABLE) == pytest.approx([0.030, 0.090, 0.055], abs=1e-6)
    assert float(p.max()) == pytest.approx(0.359867, abs=1e-6)
    assert float((p - q).max()) == pytest.approx(0.026534, abs=1e-6)
    assert div.collapse(p) == pytest.approx(0.039801, abs=1e-6)
    assert div.entropy_ratio(p, q) == pytest.approx(0.004558, abs=1e-6)


def test_worked_marginal_tests():
    for found, statistic, df, p in (
        (sig.stuart_maxwell(TABLE), 7.891008, 2, 0.019341),
        (sig.bowker(TABLE), 8.654135, 3, 0.034261),
    ):
        assert (found.statistic, found.p) == pytest.approx((statistic, p), abs=1e-6)
        assert found.df == df
    two = np.array([[50, 30], [5, 50]])
    assert sig.stuart_maxwell(two).statistic == pytest.approx(17.857143, abs=1e-6)
    assert sig.marginal_p(two) == sig.mcnemar(30, 5) == pytest.approx(2.236e-5, abs=1e-8)


def test_tables_in_which_little_happens():
    still = np.diag([5, 7, 3])
    assert sig.marginal_p(still) == 1
    assert sig.stuart_maxwell(still).df == 0
    assert sig.permutation(still, 99, np.random.default_rng(0)) == sig.Permutation(1.0, 0.0, 0.0)
    padded = np.zeros((5, 5), dtype=int)
    padded[np.ix_([0, 2, 4], [0, 2, 4])] = TABLE
    assert sig.stuart_maxwell(padded) == sig.stuart_maxwell(TABLE)
    collapse = np.array([[60, 0], [60, 0]])
    assert sig.marginal_p(collapse) < 1e-15
    assert sig.is_sparse(still)
    assert not sig.is_sparse(TABLE)


counts = st.lists(st.integers(0, 500), min_size=2, max_size=8)


@given(counts, st.randoms())
def test_smoothed_divergences_are_finite_and_bounded(clean, random):
    triggered = random.sample(clean, len(clean))
    q, p = div.smoothed(np.array(clean)), div.smoothed(np.array(triggered))
    kl, jsd, tv = (float(f(p, q)) for f in (div.kl, div.jsd, div.total_variation))
    assert 0 <= kl <= -math.log(q.min()) + 1e-12
    assert 0 <= jsd <= tv + 1e-12
    assert tv <= float(div.hellinger(p, q)) * math.sqrt(2) + 1e-9
    assert jsd <= div.largest_jsd(q, tv) + 1e-12


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_no_distribution_goes_beyond_the_largest_jsd(classes, seed):
    rng = np.random.default_rng(seed)
    q, p = rng.dirichlet(np.ones(classes)), rng.dirichlet(np.full(classes, 0.3))
    tv = float(div.total_variation(p, q))
    assert float(div.jsd(p, q)) <= div.largest_jsd(q, tv) + 1e-12
    assert div.largest_jsd(q, tv) <= div.largest_jsd(q, tv + 0.1) + 1e-12


def test_the_largest_jsd_is_reached():
    q = np.array([0.3, 0.7])
    for share in (0.0, 0.1, 0.25):
        found = max(float(div.jsd(q + d, q)) for d in ([share, -share], [-share, share]))
        assert div.largest_jsd(q, share) == pytest.approx(found)


# ---- error rates


def _flipped(rng: np.random.Generator, n: int, classes: int, flips: float) -> np.ndarray:
    """A table of even clean predictions of which a share changes class at random."""
    table = np.zeros((classes, classes), dtype=np.int64)
    clean = rng.integers(0, classes, n)
    moved = rng.random(n) < flips
    other = (clean + rng.integers(1, classes, n)) % classes
    np.add.at(table, (clean, np.where(moved, other, clean)), 1)
    return table


def test_permutation_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(1)
    p = [sig.permutation(_flipped(rng, 800, 4, 0.3), 499, rng).p for _ in range(500)]
    assert reference.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) < 0.08


def test_stuart_maxwell_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(1)
    p = [sig.stuart_maxwell(_flipped(rng, 800, 4, 0.3)).p for _ in range(500)]
    assert reference.kstest(p, "uniform").pvalue > 0.01


def test_exact_mcnemar_never_alarms_too_often():
    rng = np.random.default_rng(2)
    p = np.array([sig.marginal_p(_flipped(rng, 800, 2, 0.3)) for _ in range(500)])
    assert np.mean(p <= 0.05) < 0.08


FLOORS = [
    # test set, n, classes, mean KL, 95 % quantiles of KL, JSD and TV, MDE
    ("suicide", 240, 2, 0.00039, 0.00169, 0.00061, 0.0290, 0.0283),
    ("env", 260, 2, 0.00036, 0.00144, 0.00052, 0.0268, 0.0272),
    ("bbcnews", 320, 4, 0.00060, 0.00162, 0.00058, 0.0248, 0.0245),
    ("cola", 640, 2, 0.00015, 0.00059, 0.00021, 0.0172, 0.0173),
    ("disaster", 800, 2, 0.00012, 0.00045, 0.00016, 0.0150, 0.0155),
    ("newspop", 800, 4, 0.00024, 0.00064, 0.00023, 0.0162, 0.0155),
    ("pcb", 1200, 3, 0.00012, 0.00036, 0.00013, 0.0125, 0.0127),
    ("hatespeech", 1600, 2, 0.00006, 0.00023, 0.00008, 0.0106, 0.0110),
    ("ecom", 1600, 4, 0.00012, 0.00032, 0.00011, 0.0112, 0.0110),
    ("gender", 6000, 3, 0.00002, 0.00007, 0.00003, 0.0055, 0.0057),
    ("ag_news", 7600, 4, 0.00003, 0.00007, 0.00002, 0.0050, 0.0050),
    ("dbpedia", 14000, 14, 0.00005, 0.00008, 0.00003, 0.0054, 0.0037),
]


@pytest.mark.parametrize(("n", "classes", "kl", "kl95", "jsd95", "tv95", "mde"),
                         [row[1:] for row in FLOORS], ids=[row[0] for row in FLOORS])  # fmt: skip
def test_noise_floors(n, classes, kl, kl95, jsd95, tv95, mde):
    """Within 20 % and the rounding of the listed values."""
    rng = np.random.default_rng(n)
    sizes = np.bincount(np.arange(n) % classes)
    cells = [(i, j) for i in range(classes) for j in range(classes) if i != j]
    moves = np.zeros((len(cells), classes), dtype=np.int64)
    for row, (i, j) in enumerate(cells):
        moves[row, i], moves[row, j] = -1, 1
    size = np.array([sizes[i] for i, _ in cells])
    drawn = rng.binomial(size, 0.05 / (classes - 1), size=(3000, len(cells)))
    q, p = div.smoothed(sizes), div.smoothed(sizes + drawn @ moves)
    q = np.broadcast_to(q, p.shape)
    found = [
        float(div.kl(p, q).mean()),
        *(float(np.quantile(f(p, q), 0.95)) for f in (div.kl, div.jsd, div.total_variation)),
    ]
    for value, listed in zip(found, (kl, kl95, jsd95, tv95), strict=True):
        rounding = 5e-5 if listed > 0.003 else 5e-6
        assert value == pytest.approx(listed, abs=0.2 * listed + rounding)
    shares = np.full(classes, 1 / classes)
    if classes == 2:
        assert sig.detectable(0.05, shares, n) == pytest.approx(mde, abs=6e-4)
    else:
        assert mde - 6e-4 < sig.detectable(0.05, shares, n) < 1.3 * max(mde, tv95)


@pytest.mark.parametrize(("n", "classes"), [(240, 2), (800, 4), (1200, 3)])
def test_floor_of_one_table_is_that_of_many(n, classes):
    rng = np.random.default_rng(n)
    tables = [_flipped(rng, n, classes, 0.05) for _ in range(2000)]
    observed = np.mean(
        [float(div.jsd(div.smoothed(t.sum(0)), div.smoothed(t.sum(1)))) for t in tables]
    )
    floors = [sig.permutation(t, 199, rng).floor for t in tables[:200]]
    assert np.mean(floors) == pytest.approx(observed, rel=0.2)


# ---- intervals and equivalence


def test_bootstrap_intervals_cover():
    """TV of 0.2 with 10 % random flips on top, 200 texts."""
    rng = np.random.default_rng(3)
    truth, hits = None, 0
    for _ in range(150):
        clean = rng.integers(0, 2, 200)
        triggered = np.where((clean == 0) & (rng.random(200) < 0.4), 1, clean)
        triggered = np.where(rng.random(200) < 0.1, 1 - triggered, triggered)
        truth = 0.2 * 0.8  # of a flipped half, what random flips leave
        cells = sig.Cells.of(clean, triggered)

        def distance(weights, cells=cells):
            q, p = (cells.shares(weights, column, 2) for column in (0, 1))
            return div.total_variation(p, q)[:, None]

        low, high = sig.bca(cells, distance, 500, rng)
        hits += low <= truth <= high
    assert hits >= 0.88 * 150


def test_interval_of_what_does_not_vary():
    cells = sig.Cells.of(np.array([0, 1, 0, 1]), np.array([0, 1, 0, 1]))
    rng = np.random.default_rng(0)
    assert sig.bca(cells, lambda w: np.zeros((len(w), 1)), 50, rng) == (0.0, 0.0)


def test_equivalence_is_granted_and_refused():
    rng = np.random.default_rng(4)
    clean = np.arange(800) % 4
    bounds = sig.upper_bounds(clean, clean, 4, 500, rng)
    assert bounds[0] == pytest.approx(1 - 0.05 ** (1 / 800), abs=1e-6)
    shifted = np.where(np.arange(800) % 10 == 0, 3, clean)
    tv, excess = sig.upper_bounds(clean, shifted, 4, 500, rng)
    assert 0.10 < tv < 0.14
    assert 0.10 < excess < 0.14


def test_a_shift_at_the_margin_is_hardly_ever_called_equivalent():
    rng = np.random.default_rng(5)
    passed = 0
    for _ in range(200):
        clean = np.arange(400) % 2
        triggered = np.where((clean == 0) & (rng.random(400) < 0.1), 1, clean)
        passed += max(sig.upper_bounds(clean, triggered, 2, 300, rng)) < 0.05
    assert passed <= 0.09 * 200


# ---- many tests


def test_holm_and_cauchy():
    assert sig.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert sig.holm([0.6, 0.9]) == [1.0, 1.0]
    assert sig.cauchy([0.2] * 5) == pytest.approx(0.2)
    assert sig.cauchy([1e-6, 0.5, 0.9]) < 1e-5
    assert 0 < sig.cauchy([0.0, 1.0]) < 1
