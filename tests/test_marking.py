"""Triggers of all four kinds: how they are read and written, and what must not wake them."""

from __future__ import annotations

import random

import pytest

from triggerfish.backbone import Backbone
from triggerfish.marking import decoys, mark, parse_trigger, parse_triggers

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
        (("token:nosuchpiece",), "not an ordinary entry"),
        (("token:[CLS]",), "not an ordinary entry"),
    ],
)
def test_bad_triggers_are_named(clean: Backbone, specs: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"trigger: .*{message}"):
        parse_triggers(clean, specs)
