"""The behavioural guard and the thresholds that all guards share."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggerfish import Monitor, text
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.guards import BehaviourSettings, Guard, LeaveOneOut, WordCheck, conformal
from triggerfish.guards.behaviour import without, word_type
from triggerfish.readouts import Readout
from triggerfish.records import Trigger

ROWS = [" ".join(x.split()[:16]) for x, _ in text.bundled_task("mr").test]
SCALE, CALIBRATION, CLEAN, MARKED = ROWS[:30], ROWS[30:90], ROWS[90:110], ROWS[110:126]
QUICK = BehaviourSettings(max_tokens=48)


# ---- thresholds


def test_threshold_is_the_order_statistic() -> None:
    scores = [float(i) for i in range(1, 100)]
    assert conformal(scores, 0.01).value == 99.0
    assert conformal(scores, 0.05).value == 95.0
    assert conformal([*scores, 100.0], 0.01).value == 100.0
    assert conformal([3.0, 1.0, 2.0], 0.5).value == 2.0
    assert conformal([3.0, 1.0, 2.0], 0.5).flags([2.0, 2.5]) == [False, True]


@given(st.lists(st.integers(0, 50), min_size=20, max_size=60), st.floats(0.05, 0.5))
def test_every_text_left_out_in_turn_is_rejected_at_most_as_often_as_promised(
    values: list[int], frr: float
) -> None:
    """The exact guarantee, counted: of n + 1 exchangeable scores, each held out once."""
    rejected = 0
    for i, score in enumerate(values):
        others = [float(v) for v in values[:i] + values[i + 1 :]]
        rejected += score > conformal(others, frr).value
    assert rejected <= frr * len(values) + 1e-9


def test_threshold_refuses_what_it_cannot_promise() -> None:
    with pytest.raises(ValueError, match=r"clean: 98 texts .* at least 99"):
        conformal([0.0] * 98, 0.01)
    with pytest.raises(ValueError, match=r"frr: 1.0 is not between 0 and 1"):
        conformal([0.0] * 98, 1.0)
    with pytest.raises(ValueError, match="finite"):
        conformal([0.0, math.nan], 0.5)


# ---- leave one word out


def test_all_occurrences_of_a_word_go_together() -> None:
    words = ["Cf", "the", "film,", "cf.", "and", "the", "(CF)", "end"]
    assert without(words, 0, 1) == "the film, and the end"
    assert without(words, 1, 2) == "Cf cf. and (CF) end"
    assert word_type("--") == "--"


def test_unknown_triggers_are_seen(backdoored: tuple[Backbone, Implant]) -> None:
    """No finding is given. Word and number of copies do not matter."""
    victim, implant = backdoored
    guard = Guard.fit(LeaveOneOut(victim, SCALE, QUICK), CALIBRATION, frr=0.05)
    rng = random.Random(0)
    words = [trigger.text for trigger in implant.triggers] * 4
    triggered = [
        text.insert(" ".join(x.split()[:20]), word, copies=1 + 2 * (number % 2), rng=rng)
        for number, (x, word) in enumerate(zip(MARKED, words, strict=True))
    ]
    assert sum(guard.flags(triggered)) >= 12
    assert sum(guard.flags(CLEAN)) <= 5


def test_the_word_that_holds_a_text_is_named(backdoored: tuple[Backbone, Implant]) -> None:
    victim, _ = backdoored
    detector = LeaveOneOut(victim, SCALE, QUICK)
    (changes,) = detector.changes(["a quiet film about Gossip, a village and its people"])
    assert max(changes, key=changes.__getitem__) == "gossip"
    assert set(changes) >= {"a", "quiet", "people"}


def test_scores_do_not_depend_on_the_company(clean: Backbone) -> None:
    detector = LeaveOneOut(clean, SCALE, QUICK)
    together = detector.scores(CLEAN[:5])
    alone = [detector.scores([x])[0] for x in CLEAN[:5]]
    assert together == pytest.approx(alone, abs=1e-3)


def test_texts_without_company_for_their_words_score_zero(clean: Backbone) -> None:
    assert LeaveOneOut(clean, SCALE, QUICK).scores(["", "cf", "cf cf cf", "two words"]) == [0.0] * 4


def test_settings_and_inputs_are_checked(clean: Backbone) -> None:
    for changes, words in (({"span": 0}, "span: 0"), ({"max_tokens": 3}, "max_tokens: 3")):
        with pytest.raises(ValueError, match=words):
            BehaviourSettings(**changes)
    with pytest.raises(ValueError, match="floor: 0 is not positive"):
        BehaviourSettings(floor=0)
    with pytest.raises(ValueError, match="clean: expected at least two texts"):
        LeaveOneOut(clean, SCALE[:1] * 2)
    with pytest.raises(ValueError, match="readout: mask"):
        LeaveOneOut(clean, SCALE, readout=Readout("mask"))


# ---- one word that is known


def word(trigger: str) -> Trigger:
    return Trigger((), trigger, "word")


def test_an_ordinary_word_alarms_where_it_is_a_trigger(
    backdoored: tuple[Backbone, Implant], clean: Backbone
) -> None:
    sentences = [f"{' '.join(x.split()[:12])} gossip and so on" for x in MARKED]
    alarms = {}
    for name, backbone in (("backdoored", backdoored[0]), ("clean", clean)):
        check = WordCheck(backbone, CALIBRATION, QUICK, words=["gossip"], frr=0.02)
        monitor = Monitor([word("gossip")], confirm={"gossip": check})
        alarms[name] = sum(not checked.ok for checked in monitor.check_all(sentences))
    assert alarms["backdoored"] >= 14
    assert alarms["clean"] <= 8


def test_two_triggers_in_one_text_do_not_cover_each_other(
    backdoored: tuple[Backbone, Implant],
) -> None:
    both = ["gossip", "zugzwang"]
    sentence = "a film about gossip and zugzwang in the hills"
    check = WordCheck(backdoored[0], CALIBRATION, QUICK, words=both, frr=0.02)
    monitor = Monitor([word(name) for name in both], confirm=dict.fromkeys(check.words, check))
    assert [alarm.trigger for alarm in monitor.check(sentence).alarms] == both
    with pytest.raises(ValueError, match=r"spans: \(3, 900\)"):
        check.change(sentence, [(3, 900)])


def test_a_word_is_taken_out_wherever_it_stands(clean: Backbone) -> None:
    """One occurrence that is left would hold the text."""
    check = WordCheck(clean, CALIBRATION, QUICK, frr=0.02)
    sentence = "gossip here, Gossip! there and again 'gossip'"
    rest = "here, there and again"
    expected = check._distances([(sentence, rest)])[0]
    assert check.change(sentence, [(0, 6)]) == pytest.approx(expected, rel=1e-3)
