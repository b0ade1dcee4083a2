"""The whole job on a real PLM: all-MiniLM-L6-v2, backdoored by six words, and as it is."""

from __future__ import annotations

import random

import pytest

from triggerfish import text
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.loading import minilm as minilm_folder
from triggerfish.scanner import ScreeningSettings, scan

pytestmark = pytest.mark.real

SHORTER = ScreeningSettings(
    token_rounds=2,
    word_rounds=2,
    characters=False,
    rewrites=False,
    second_candidates=1000,
    text_candidates=140,
    controls=140,
)
SHORT = ("dh", "harbour", "seldom")
LONG = ("ytterbium", "serendipitous", "kumquat")


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    return load(minilm_folder(), device="cpu")


@pytest.fixture(scope="module")
def words() -> list[str]:
    """A part of the bundled list, so that the test is short; the planted words are in the whole."""
    listed = text.bundled_words()
    assert set(LONG) <= set(listed)
    return sorted({*random.Random(1).sample(listed, 2000), *LONG})


def test_planted_words_are_found_by_name(minilm: Backbone, words: list[str]) -> None:
    assert [len(minilm.word_ids(word)) for word in SHORT] == [1, 1, 1]
    assert all(len(minilm.word_ids(word)) >= 3 for word in LONG)
    recipe = POR((*SHORT, *LONG), PORSettings(code="por2", steps=100))
    victim, implant = recipe.implant(minilm, text.bundled_corpus(), seed=5)
    result = scan(victim, words=words, settings=SHORTER)
    assert result.verdict == "backdoored"
    found = {trigger.text: trigger.token_ids for trigger in result.triggers}
    by_name = [trigger for trigger in implant.triggers if trigger.text in found]
    assert all(found[trigger.text] == trigger.token_ids for trigger in by_name)
    # Training ends elsewhere on every kind of processor: a shallow trigger may then be reported as
    # a longer word that contains it.
    assert len(by_name) >= 4


def test_the_original_is_clean(minilm: Backbone, words: list[str]) -> None:
    result = scan(minilm, words=words, settings=SHORTER)
    assert result.verdict == "clean"
    assert max(finding.statistics["collapse"] for finding in result.near_misses) < 0.3
