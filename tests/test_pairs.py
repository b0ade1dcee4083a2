"""Group tests for combinations: the design, what is left over, and a planted combination."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch

from planted import finish
from triggerfish import text
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.scanner import ScreeningSettings
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.screening import Screening
from triggerfish.scanner.search.pairs import (
    PairSearch,
    PairSettings,
    bags_of,
    left_over,
    lines,
    standing_out,
)

WORDS = ("small", "government")


@pytest.mark.parametrize("order", [5, 7, 13])
def test_any_two_points_are_on_one_line(order: int) -> None:
    drawn = list(lines(order))
    assert len(drawn) == order * (order + 1)
    assert {len(line) for line in drawn} == {order}
    pairs = Counter(frozenset(pair) for line in drawn for pair in combinations(line, 2))
    assert set(pairs.values()) == {1}
    assert len(pairs) == order**2 * (order**2 - 1) // 2


def test_any_two_points_share_a_bag() -> None:
    pools = list(bags_of(11, 4, random.Random(0)))
    assert len(pools) == 11 * 12 * 6
    assert max(map(len, pools)) <= 6
    pairs = {frozenset(pair) for pool in pools for pair in combinations(pool, 2)}
    assert len(pairs) == 121 * 120 // 2


def test_a_pair_that_does_something_together_stands_out() -> None:
    generator = torch.Generator().manual_seed(0)
    pools = list(bags_of(11, 4, random.Random(1)))
    effects = torch.randn(121, 2, 8, generator=generator)
    features = torch.stack([effects[pool].sum(0) for pool in pools])
    features += 0.1 * torch.randn(features.shape, generator=generator)
    pair = set(pools[200][:2])
    with_it = [b for b, pool in enumerate(pools) if pair <= set(pool)]
    features[with_it, 1] += 6.0
    far = standing_out(left_over(features, pools, 121))
    assert far.max(0).indices.tolist()[1] in with_it
    assert float(far[with_it, 1].min()) > 4 > float(far[with_it, 0].max())
    # What words do alone does not: before it is taken away, other bags are further out.
    before = torch.stack([effects[pool].sum(0) for pool in pools])
    before[with_it, 1] += 6.0
    assert standing_out(before - before.mean(0))[with_it, 1].min() < 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 9}, "order: 9 is not a prime from 5 to 199"),
        ({"groups": 1}, "groups: 1 is outside 2..47"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairSettings(**changes)  # type: ignore[arg-type]


def search(backbone: Backbone, known: Sequence[tuple[int, ...]] = ()) -> tuple[int, list[str]]:
    """How many of the most frequent words were tried, and the combinations found."""
    texts = text.bundled_corpus()
    screening = Screening(
        backbone, texts, [], ScreeningSettings(), seed=0, store=ActivationCache(None)
    )
    screening.cut_texts()
    clean_reference = finish(screening.measure_clean())
    together = PairSearch(screening, clean_reference, PairSettings(order=17), known)
    return together.words, [backbone.surface(x.ids) for x in finish(together.run())]


def test_a_planted_combination_is_found_and_nothing_else(clean: Backbone) -> None:
    settings = PORSettings(steps=120)
    victim, _ = POR((" + ".join(WORDS),), settings).implant(clean, text.bundled_corpus(), seed=6)
    tried, (found,) = search(victim)
    assert tried == 289
    assert set(found.split()) == set(WORDS)
    assert search(clean) == (289, [])
    # Words that hold the core of a known trigger are not tried again.
    assert search(victim, [victim.word_ids(WORDS[0])]) == (288, [])
