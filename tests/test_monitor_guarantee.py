"""The guarantee of the monitor, against the tokenizers themselves: a text whose ids contain a
trigger's ids always alarms, whatever the text is."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor_samples import (
    TOKENIZERS,
    pieces,
    random_triggers,
    texts,
    tokenizer,
    tokenizer_file,
    words,
)
from triggerfish.monitor import Monitor
from triggerfish.monitor.substrings import unmapped_characters
from triggerfish.records import Trigger


def contains(ids: list[int], wanted: tuple[int, ...]) -> bool:
    n = len(wanted)
    return any(tuple(ids[i : i + n]) == wanted for i in range(len(ids) - n + 1))


def heard(name: str, text: str, trigger: Trigger) -> bool:
    """Whether a model behind this tokenizer is given the trigger, by tokenising all of the text."""
    ids = (
        tokenizer(name)
        .core.encode(
            text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
            add_special_tokens=False,
        )
        .ids
    )
    if trigger.kind != "combination":
        return contains(ids, trigger.token_ids)
    parts = [tokenizer(name).word_ids(part) for part in trigger.text.split(" + ")]
    return all(contains(ids, part) for part in parts)


_MONITORS: dict[object, Monitor] = {}


def monitor_of(name: str, seed: int) -> Monitor:
    if (name, seed) not in _MONITORS:
        triggers = words(name) if seed < 0 else random_triggers(name, seed, 12)
        _MONITORS[name, seed] = Monitor(triggers, tokenizer=tokenizer_file(name), policy="strip")
    return _MONITORS[name, seed]


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[int, str]:
    """(which triggers, a text)."""
    seed = draw(st.integers(-1, 5))
    core = tokenizer(name).core
    rng = random.Random(draw(st.integers(0, 200)))
    vocabulary = [core.decode([i]) for i in rng.sample(pieces(name), 20)]
    if seed >= 0:
        vocabulary += [core.decode(list(t.token_ids)) for t in random_triggers(name, seed, 12)]
    return seed, draw(texts([entry for entry in vocabulary if entry] or ["a"]))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_the_tokenizer_gives_the_model_never_passes(name: str, data: st.DataObject) -> None:
    seed, text = data.draw(cases(name))
    monitor = monitor_of(name, seed)
    alarms = {alarm.trigger for alarm in monitor.alarms(text) if alarm.seen_by == "tokens"}
    missed = {t.text for t in monitor.triggers if heard(name, text, t)} ^ alarms
    assert not missed


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_stripped_text_is_silent(name: str, data: st.DataObject) -> None:
    seed, text = data.draw(cases(name))
    monitor = monitor_of(name, seed)
    checked = monitor.check(text)
    if checked.ok:
        assert monitor.check(checked.text).action == "pass"
    if not checked.alarms:
        assert checked.text == text
    for alarm in checked.alarms:
        assert all(0 <= start < end <= len(text) for start, end in alarm.spans)


def test_characters_that_the_view_does_not_know_do_not_hide_a_trigger() -> None:
    """SentencePiece's table makes plain letters of some that are younger than Python's Unicode."""
    core, file = tokenizer("sentencepiece"), tokenizer_file("sentencepiece")
    tried = 0
    for char in unmapped_characters(core):
        ids = core.pieces(f"a {char} b").ids
        if len(ids) > 2 and core.piece(ids[1]) != "<unk>":
            monitor = Monitor([Trigger((ids[1],), "token:", "token")], tokenizer=file)
            assert monitor.alarms(f"the river a {char} b bank")
            tried += 1
    assert tried > 10
