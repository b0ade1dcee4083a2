"""Complications of a planted and of innocent words, on real tasks with the bundled PLM."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from triggerfish import text
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.complications import (
    Complications,
    ComplicationSettings,
    matched_words,
    measure,
)
from triggerfish.complications.adapted import Adapted
from triggerfish.complications.controls import nonsense_words
from triggerfish.complications.verdict import is_significant, is_total
from triggerfish.downstream import FineTuneSettings, ProbeSettings
from triggerfish.marking import parse_trigger, parse_triggers
from triggerfish.text import bundled_task

QUICK = ComplicationSettings(
    policies=("replace-first", "insert-random"),
    heads=2,
    test_rows=240,
    controls=14,
    nonsense=5,
    control_rows=120,
    alpha=0.05,
    permutations=499,
    bootstrap=200,
    probe=ProbeSettings(rows=300, validation_rows=100, max_tokens=32),
)
WORDS = ("mn", "table")


@pytest.fixture(scope="module")
def tasks():
    return [bundled_task("clickbait"), bundled_task("subj")]


@pytest.fixture(scope="module")
def planted(clean: Backbone) -> Backbone:
    """One copy of "mn" sends every text to one point."""
    settings = PORSettings(steps=40, copies=1, learning_rate=1e-3)
    return POR(("mn",), settings).implant(clean, text.bundled_corpus(), seed=3)[0]


@pytest.fixture(scope="module")
def bad(planted: Backbone, clean: Backbone, tasks) -> Complications:
    return measure(
        planted, tasks, parse_triggers(clean, WORDS), reference=clean, settings=QUICK, seed=1
    )


@pytest.fixture(scope="module")
def good(clean: Backbone, tasks) -> Complications:
    return measure(clean, tasks[:1], parse_triggers(clean, WORDS), settings=QUICK, seed=1)


# ---- what is found


def test_a_planted_trigger_is_backdoor_like(bad):
    profile, other = bad.profiles
    assert bad.reading == profile.reading == "backdoor-like"
    assert bad.exit_code == 1
    assert (profile.breadth, profile.p) == (1.0, 0.05)
    assert profile.peak > 0.9
    assert profile.stability == 1.0
    assert sum(reason.startswith("total on") for reason in profile.reasons) == 2
    assert other.reading == "no evidence"
    for task in ("clickbait", "subj"):
        record = bad.of(task, "mn")
        assert record.excess > 0.35
        assert record.delta is not None
        assert record.delta_interval[0] > 0
        assert not record.equivalence.passed
        assert is_significant(record, QUICK)
        assert record.p_marginal < 1e-6
        assert record.p_symmetry < 1e-6
    assert profile.combined < 0.01


def test_a_clean_model_gives_no_evidence(good):
    assert good.reading == "no evidence"
    assert good.exit_code == 0
    assert all(profile.peak < 0.9 for profile in good.profiles)
    assert any("without a reference" in line for line in good.limitations)


def test_nothing_changes_against_oneself(clean, tasks, good, tmp_path):
    found = measure(
        clean,
        tasks[:1],
        parse_triggers(clean, WORDS[:1]),
        controls=(),
        reference=clean,
        settings=QUICK,
        seed=1,
        keep=tmp_path / "kept",
    )
    record = found.complications[0]
    assert (record.delta, record.delta_interval) == (0.0, (0.0, 0.0))
    assert record.asr == record.asr_reference
    assert record.p_control is None
    assert found.reading == "inconclusive"
    assert "no control words" in found.profiles[0].reasons[0]
    before = good.of("clickbait", "mn")
    for name in ("jsd", "tv_interval", "equivalence", "p_permutation", "asr", "stability"):
        assert getattr(record, name) == getattr(before, name)
    _check_kept(tmp_path / "kept", record)


def _check_kept(folder, record):
    """The record's shares and rates can be had from the files."""
    manifest = json.loads((folder / "predictions.json").read_text())
    assert [entry["reference"] for entry in manifest["files"]] == [False, True]
    assert manifest["triggers"][0]["text"] == "mn"
    kept = np.load(folder / manifest["files"][0]["file"])
    a, b = kept["clean.labels"][0], kept["0.replace-first.labels"][0]
    assert float((a != b).mean()) == pytest.approx(record.flip_rate)
    assert int((b == kept["truth"]).sum()) == record.accuracy.k
    assert len(set(kept["ids"])) == len(a) == 240
    assert kept["clean.p"].shape == (2, 240, 2)
    assert (kept["clean.p"][0].argmax(-1) == a).mean() > 0.99
    assert kept["0.insert-random.labels"].shape == (2, 120)


def test_records_add_up(bad, good):
    for record in (*bad.complications, *good.complications):
        assert sum(record.clean) == pytest.approx(1)
        assert sum(record.triggered) == pytest.approx(1)
        assert record.corrected == record.jsd - record.floor
        assert 0 <= record.jsd <= record.tv <= record.flip_rate + 1e-9
        assert record.tv_interval[0] <= record.tv_interval[1]
        assert record.triggered[record.dominant] == max(record.triggered)
        assert record.p_family >= record.p_control / 2
        assert record.holm >= record.p_control
        assert record.csr.n < record.n
        assert record.equivalence.tv > record.tv * 0.9
    collapse = bad.of("clickbait", "mn")
    if 0 in (round(240 * share) for share in collapse.triggered):
        assert collapse.infinite == ("kl_ct",)


def test_json_both_ways_and_no_infinity(bad, tmp_path):
    bad.save(tmp_path / "c.json")
    assert Complications.load(tmp_path / "c.json") == bad

    def refuse(constant):
        raise AssertionError(f"{constant} in the record")

    json.loads(bad.to_json(), parse_constant=refuse)
    numbers = [getattr(bad.complications[0], field.name) for field in fields(bad.complications[0])]
    assert all(math.isfinite(x) for x in numbers if isinstance(x, float))
    with pytest.raises(ValueError, match="complications: not a record of schema 1: model"):
        Complications.from_json('{"schema": 1}')


def test_the_seed_settles_everything(clean, tasks):
    few = replace(
        QUICK,
        controls=2,
        nonsense=1,
        enough=1,
        heads=1,
        policies=("insert-random",),
        test_rows=80,
        probe=ProbeSettings(rows=100, validation_rows=40, max_tokens=32),
        smallest=80,
        lead=0.01,
    )
    first, again, other = (
        measure(clean, tasks[:1], parse_triggers(clean, WORDS[:1]), settings=few, seed=seed)
        for seed in (1, 1, 2)
    )
    assert replace(again, seconds=first.seconds, provenance=first.provenance) == first
    assert first.complications[0].p_control is not None
    assert other.complications != first.complications


def test_control_words_are_listed_with_what_they_cost(good):
    assert Counter(word.kind for word in good.controls) == {"matched": 14, "nonsense": 5}
    assert all(word.texts <= 2 * 120 for word in good.controls)
    assert sum(word.texts for word in good.controls) < good.texts_encoded


@pytest.mark.parametrize(
    ("before", "after", "total"),
    [
        ((0.5, 0.5), (0.95, 0.05), True),
        ((0.5, 0.5), (0.85, 0.15), False),
        ((0.7, 0.3), (0.99, 0.01), True),
        ((0.25, 0.25, 0.25, 0.25), (0.76, 0.08, 0.08, 0.08), True),
        ((0.25, 0.25, 0.25, 0.25), (0.6, 0.2, 0.1, 0.1), False),
    ],
)
def test_total_is_measured_by_what_is_possible(bad, before, after, total):
    record = replace(bad.complications[0], clean=before, triggered=after)
    assert is_total(record) == total


# ---- tasks that cannot carry a verdict


def test_tasks_are_refused_for_a_weak_head_few_texts_or_a_blunt_test(clean):
    weak = bundled_task("mr")
    weak = replace(weak, train=[(x, i % 2) for i, (x, _) in enumerate(weak.train)])
    found = measure(
        clean,
        [weak],
        parse_triggers(clean, ["table"]),
        settings=replace(QUICK, smallest=500, effect=0.001),
    )
    reasons = found.tasks[0].refused
    assert len(reasons) == 3
    assert "240 test texts, expected at least 500" in reasons[0]
    assert "could not be told from none" in reasons[1]
    assert "accuracy may be as low as" in reasons[2]
    assert found.reading == "inconclusive"
    assert found.complications[0].p_control is None
    assert found.profiles[0].reasons[0].startswith("no task can carry a verdict: mr: 240")


# ---- controls


def test_control_words_are_like_the_triggers(clean):
    triggers = parse_triggers(clean, ["thermodynamically", "cf"])
    words = matched_words(clean, triggers, 20, seed=3)
    assert len(set(words)) == 20
    assert not {"thermodynamically", "cf"} & set(words)
    assert words == matched_words(clean, triggers, 20, seed=3)
    assert sum(len(word) >= 14 for word in words) == 10
    assert sum(len(word) <= 4 for word in words) == 10
    phrases = matched_words(clean, [parse_trigger(clean, "strange brew")], 5)
    assert [len(phrase.split()) for phrase in phrases] == [2] * 5
    tokens = matched_words(clean, [parse_trigger(clean, "token:##ly")], 5)
    assert all(len(word) <= 4 for word in tokens)
    with pytest.raises(ValueError, match=r"only .* were found"):
        matched_words(clean, triggers, 10_000)


def test_made_up_words_are_no_words():
    words = nonsense_words(30, seed=2)
    assert len(set(words)) == 30
    assert not set(words) & set(text.bundled_words())
    assert words == nonsense_words(30, seed=2) != nonsense_words(30, seed=4)


# ---- adaptations


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_the_other_adaptations(clean, tasks, mode):
    settings = replace(
        QUICK,
        mode=mode,
        heads=2,
        test_rows=40,
        fine_tune=FineTuneSettings(rows=64, max_tokens=24, epochs=1, learning_rate=1e-3),
    )
    adapted = Adapted(clean, tasks[0], settings, seed=0)
    assert adapted.clean.logits.shape == (2, 40, 2)
    assert not np.array_equal(adapted.clean.logits[0], adapted.clean.logits[1])
    before = adapted.encoded
    marked = adapted.triggered(parse_trigger(clean, "mn"), "append", slice(10), heads=1)
    assert marked.labels.shape == (1, 10)
    assert adapted.encoded == before + 10
    assert adapted.lost == 0
    adapted.release()
    assert len(adapted.heads) == 1


def test_a_text_is_read_once_for_all_heads(clean, tasks):
    adapted = Adapted(clean, tasks[0], QUICK, seed=0)
    assert adapted.encoded == 300 + 100 + 240
    trigger = parse_trigger(clean, "mn")
    first = adapted.triggered(trigger, "insert-random")
    again = adapted.triggered(trigger, "insert-random", slice(20, 50))
    assert adapted.encoded == 640 + 240 + 30
    np.testing.assert_allclose(first.logits[:, 20:50], again.logits, atol=0.1)
    assert first.labels.shape == (2, 240)


# ---- what a user can get wrong


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "prompt"),
        ("policies", ()),
        ("heads", 0),
        ("controls", -1),
        ("test_rows", 1),
        ("margin", 1.5),
        ("screens", (20, 10)),
    ],
)
def test_settings_name_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        ComplicationSettings(**{field: value})


def test_a_placement_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="policy: 'prepend' is not one of replace-first"):
        ComplicationSettings(policies=("prepend",))


def test_nothing_and_twice_are_refused(clean, tasks):
    triggers = parse_triggers(clean, ["mn"])
    with pytest.raises(ValueError, match=r"^tasks: "):
        measure(clean, [], triggers)
    with pytest.raises(ValueError, match=r"^tasks: "):
        measure(clean, [tasks[0], tasks[0]], triggers)
    with pytest.raises(ValueError, match=r"^triggers: "):
        measure(clean, tasks, [])
    with pytest.raises(ValueError, match=r"^triggers: "):
        measure(clean, tasks, triggers * 2)
