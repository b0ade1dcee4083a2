"""Sequential control words: the same p-values as without shortcuts, uniform under the null, and far
fewer texts where a trigger is strong. The predictions are drawn, not made by a model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from triggerfish.complications.sequential import (
    SequentialPValue,
    SequentialTest,
    TaskEffects,
    largest_total,
)

ROWS = 240


def _predictions(rng: np.random.Generator, clean: np.ndarray, moved: float, classes: int):
    """Predictions of which a share is sent to a class that each word has of its own."""
    winner = rng.integers(classes)
    return np.where(rng.random(len(clean)) < moved, winner, clean)


def _world(seed: int, strength: list[list[float]], controls: int = 99, ordinary: float = 0.05):
    """Tasks, triggers of given strength, and control words that all move about as many texts."""
    rng = np.random.default_rng(seed)
    classes = [2, 3, 4, 2][: len(strength[0])]
    clean = [rng.integers(0, k, ROWS) for k in classes]
    task_effects = TaskEffects(clean, classes)
    effects = np.array(
        [
            [
                task_effects.effect(j, _predictions(rng, clean[j], moved, classes[j]))
                for j, moved in enumerate(row)
            ]
            for row in strength
        ]
    )
    words = [
        [
            _predictions(rng, clean[j], rng.exponential(ordinary), classes[j])
            for j in range(len(row))
        ]
        for row in [strength[0]] * controls
    ]
    return task_effects, effects, lambda number, task, rows: words[number][task][rows]


def _run(world, stages=(16, 48, 120), enough=5, controls=99) -> SequentialTest:
    task_effects, effects, predict = world
    test = SequentialTest(task_effects, effects, stages, enough, 1e-4)
    test.run(controls, predict)
    return test


def test_sequential_p_value():
    running = SequentialPValue()
    for hit in (False, True, False, False):
        running = running.after(hit)
    assert running.p_value(enough=5) == pytest.approx(2 / 5)
    assert running.p_value(enough=1) == pytest.approx(1 / 4)
    assert SequentialPValue(99, 0).p_value(5) == 0.01


@pytest.mark.parametrize("seed", range(5))
def test_shortcuts_change_no_p_value(seed):
    strength = [[0.8, 0.4, 0.1, 0.02], [0.05, 0.05, 0.05, 0.05], [0.0, 0.3, 0.0, 0.9]]
    world = _world(seed, strength)
    quick, plain = _run(world), _run(world, stages=())
    assert quick.single == plain.single
    assert quick.family == plain.family
    assert sum(texts for texts, _ in quick.costs) < 0.7 * sum(texts for texts, _ in plain.costs)


def test_a_strong_trigger_needs_few_texts_of_each_control():
    test = _run(_world(0, [[0.9, 0.9, 0.9, 0.9]]))
    assert {test.p_single(0, j) for j in range(4)} == {0.01}
    assert {test.p_family(0, j) for j in range(4)} == {0.01}
    assert sum(texts for texts, _ in test.costs) < 0.25 * 99 * 4 * ROWS


def test_what_does_nothing_leaves_at_once():
    test = _run(_world(0, [[0.0, 0.0]]))
    assert test.p_single(0, 0) == test.p_family(0, 1) == 1
    assert sum(texts > 0 for texts, _ in test.costs) == 5
    assert len(test.costs) == 99


def _null(seed: int) -> tuple[float, float]:
    """p-values of a trigger that is drawn like the control words."""
    rng = np.random.default_rng([1, seed])
    test = _run(
        _world(seed, [rng.exponential(0.05, 3).tolist()], controls=49), stages=(48,), controls=49
    )
    return test.p_single(0, 0), min(test.p_family(0, j) for j in range(3))


def test_p_values_are_uniform_under_the_null():
    single, family = np.array([_null(seed) for seed in range(300)]).T
    for p in (single, family):
        # Of 50 words each has every rank with the same chance.
        for level in (0.02, 0.1, 0.2):
            low, high = reference.binom.ppf([0.0005, 0.9995], 300, level) / 300
            assert low <= np.mean(p <= level + 1e-9) <= high


def test_bound_of_the_texts_that_changed():
    assert largest_total(3, 240, 240, 1e-4) == 3
    for moved, seen in ((0, 16), (2, 48), (5, 120)):
        most = largest_total(moved, seen, 240, 1e-4)
        assert reference.hypergeom.cdf(moved, 240, most, seen) >= 1e-4
        assert reference.hypergeom.cdf(moved, 240, most + 1, seen) < 1e-4


def test_reach_bounds_the_effect_of_few_changes():
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 3, ROWS)
    task_effects = TaskEffects([clean], [3])
    for _ in range(200):
        triggered = _predictions(rng, clean, rng.random(), 3)
        share = float((triggered != clean).mean())
        assert task_effects.effect(0, triggered) <= task_effects.largest_effect(0, share) + 1e-9
