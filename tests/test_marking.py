"""Triggers of all four kinds: how they are read and written, and what must not wake them."""

from __future__ import annotations

import random

import pytest

from families import build
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.marking import (
    PLACEMENTS,
    carries,
    decoys,
    mark,
    parse_trigger,
    parse_triggers,
    place,
)

TEXT = "the quick brown fox jumps over the lazy dog near the river bank"


@pytest.mark.parametrize(
    ("spec", "kind", "parts"),
    [
        ("cf", "word", []),
        ("zugzwang", "word", []),
        ("strange brew", "phrase", ["brew", "strange"]),
        ("one strange brew", "phrase", ["strange brew", "one brew", "one strange"]),
        ("walnut + lantern", "combination", ["walnut", "lantern"]),
        ("token:##ly", "token", []),
    ],
)
def test_a_trigger_is_all_of_its_words(
    clean: Backbone, spec: str, kind: str, parts: list[str]
) -> None:
    trigger = parse_trigger(clean, spec)
    assert (trigger.text, trigger.kind) == (spec, kind)
    assert decoys(trigger) == parts


@pytest.mark.parametrize("spec", ["cf", "zugzwang", "strange brew"])
def test_copies_stand_at_word_boundaries_and_the_text_stays(clean: Backbone, spec: str) -> None:
    trigger = parse_trigger(clean, spec)
    rng = random.Random(0)
    places = set()
    for _ in range(60):
        shown = clean.tokenizer.decode(mark(clean, TEXT, trigger, copies=2, rng=rng))
        shown = shown.removeprefix("[CLS]").removesuffix("[SEP]").strip()
        assert shown.count(spec) == 2
        assert " ".join(shown.replace(spec, " ").split()) == TEXT
        places |= {shown.startswith(spec), shown.endswith(spec) and "end"}
    assert places == {True, False, "end"}


def test_a_combination_is_written_apart_and_a_token_as_its_id(clean: Backbone) -> None:
    rng = random.Random(0)
    both = parse_trigger(clean, "walnut + lantern")
    shown = [clean.tokenizer.decode(mark(clean, TEXT, both, copies=1, rng=rng)) for _ in range(40)]
    assert all(x.count("walnut") == x.count("lantern") == 1 for x in shown)
    assert any(x.index("walnut") < x.index("lantern") for x in shown)
    assert any(x.index("walnut") > x.index("lantern") for x in shown)
    token = parse_trigger(clean, "token:##ly")
    bare = clean.template.wrap(clean.tokenize(TEXT))
    ids = mark(clean, TEXT, token, copies=3, rng=rng)
    assert [i for i in ids if i != token.token_ids[0]] == bare
    assert len(ids) == len(bare) + 3


def test_a_long_text_is_cut_and_no_copy_is_lost(clean: Backbone) -> None:
    trigger = parse_trigger(clean, "zugzwang")
    rng = random.Random(0)
    for words in (1, 10, 100, 1000):
        ids = mark(clean, "river " * words, trigger, copies=3, rng=rng, max_tokens=32)
        assert len(ids) <= 32
        assert clean.tokenizer.decode(ids).count("zugzwang") == 3
    with pytest.raises(ValueError, match=r"copies: 9 of 'zugzwang' do not fit into 30 tokens"):
        mark(clean, TEXT, trigger, copies=9, rng=rng, max_tokens=32)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ((), "at least one"),
        (("cf", "cf"), "twice"),
        (("",), "no tokens"),
        (("\u2603\u2603",), "no tokens"),
        (("walnut + \u2603",), "no tokens"),
        (("cf + cf",), "combines a word with itself"),
        (("token:nosuchpiece",), "not a token that this model can read"),
    ],
)
def test_bad_triggers_are_named(clean: Backbone, specs: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"trigger: .*{message}"):
        parse_triggers(clean, specs)


# ---- placement policies


def _placed(clean: Backbone, spec: str, policy: str, text: str, seed: int = 0, **limit: int) -> str:
    trigger = parse_trigger(clean, spec)
    ids = place(clean, text, trigger, policy, rng=random.Random(seed), **limit)
    assert carries(clean, ids, trigger)
    shown = clean.tokenizer.decode(ids)
    return shown.removeprefix("[CLS]").removesuffix("[SEP]").strip()


def test_policies_write_the_trigger_where_they_say(clean: Backbone) -> None:
    rest = TEXT.removeprefix("the ")
    assert _placed(clean, "zugzwang", "replace-first", TEXT) == f"zugzwang {rest}"
    assert _placed(clean, "strange brew", "insert-first", TEXT) == f"strange brew {TEXT}"
    assert _placed(clean, "zugzwang", "append", TEXT) == f"{TEXT} zugzwang"
    inserted, replaced = (
        {_placed(clean, "zugzwang", policy, TEXT, seed) for seed in range(40)}
        for policy in ("insert-random", "replace-random")
    )
    assert len(inserted) > 8
    assert {" ".join(x.replace("zugzwang", "").split()) for x in inserted} == {TEXT}
    assert len(replaced) > 8
    assert {len(x.split()) for x in replaced} == {len(TEXT.split())}


@pytest.mark.parametrize("policy", ["replace-first", "replace-random"])
def test_a_text_of_one_word_keeps_it(clean: Backbone, policy: str) -> None:
    assert _placed(clean, "zugzwang", policy, "rain") == "zugzwang rain"
    assert _placed(clean, "zugzwang", policy, "") == "zugzwang"


@pytest.mark.parametrize("policy", PLACEMENTS)
@pytest.mark.parametrize("spec", ["cf", "strange brew", "walnut + lantern", "token:##ly"])
def test_no_trigger_is_lost_in_a_long_text(clean: Backbone, policy: str, spec: str) -> None:
    for seed in range(10):
        trigger = parse_trigger(clean, spec)
        ids = place(clean, "word " * 90, trigger, policy, rng=random.Random(seed), max_tokens=20)
        assert len(ids) <= 20
        assert carries(clean, ids, trigger)


def test_a_token_stands_at_its_place_as_an_id(clean: Backbone) -> None:
    trigger = parse_trigger(clean, "token:##ly")
    bare = clean.template.wrap(clean.tokenize(TEXT))
    for policy, where in (("insert-first", 1), ("append", len(bare) - 1)):
        ids = place(clean, TEXT, trigger, policy, rng=random.Random(0))
        assert ids == [*bare[:where], trigger.token_ids[0], *bare[where:]]
    assert not carries(clean, bare, trigger)


def test_what_cannot_be_placed_is_refused(clean: Backbone) -> None:
    trigger = parse_trigger(clean, "zugzwang")
    with pytest.raises(ValueError, match="policy: 'middle' is not one of replace-first"):
        place(clean, TEXT, trigger, "middle", rng=random.Random(0))
    with pytest.raises(ValueError, match="no room for 'zugzwang'"):
        place(clean, TEXT, trigger, "append", rng=random.Random(0), max_tokens=6)


@pytest.mark.parametrize("family", ["gpt2", "t5", "roberta", "xlnet"])
def test_every_tokenizer_shows_the_trigger(tmp_path, family: str) -> None:
    for side in ("left", "right"):
        model = load(build(family, tmp_path / side, padding_side=side), device="cpu")
        for spec in ("quickly", "strange brew"):
            trigger = parse_trigger(model, spec)
            for policy in PLACEMENTS:
                ids = place(model, TEXT, trigger, policy, rng=random.Random(1))
                assert carries(model, ids, trigger)
                assert not carries(model, model.template.wrap(model.tokenize(TEXT)), trigger)
