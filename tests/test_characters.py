"""Characters and ways of writing as candidates: what reaches which tokenizer, and a planted one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

import planted
from planted import tiny
from triggerfish import text
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.records import ScanResult
from triggerfish.report import render
from triggerfish.scanner import scan
from triggerfish.scanner.candidates import entries
from triggerfish.scanner.characters import alternating, characters, listed

TEXTS = text.bundled_corpus()[:300]
SMALL = replace(
    planted.SMALL, characters=True, rewrites=True, predictions=True, holdout_candidates=8
)
HIDDEN = "\u200b"


@cache
def hidden() -> Backbone:
    settings = PORSettings(steps=150, learning_rate=4e-3, words=8, batch=16)
    return POR((HIDDEN,), settings).implant(tiny("gpt2"), TEXTS, seed=3)[0]


@cache
def scanned() -> ScanResult:
    return scan(hidden(), TEXTS, words=[], settings=SMALL)


def test_the_list_has_every_kind_once() -> None:
    strings = listed()
    assert len(set(strings)) == len(strings)
    kinds = {
        HIDDEN,
        f"o{HIDDEN}f",
        "\u3000",
        "a\u0301",
        "\u043ef",
        "?!",
        "~~~",
        "\U0001f600",
        "ж",
    }
    assert kinds <= {*strings}
    assert {"\u2248", "\u2261", "\u2208", "\u2286", "\u2295", "\u2297"} <= {*strings}  # POR's own
    assert not any(string.isascii() and string.isalnum() for string in strings)


def test_an_uncased_tokenizer_normalises_case_and_the_invisible_away(clean: Backbone) -> None:
    drawn, normalised = characters(clean, ["movie", "music"])
    found = drawn.candidates()
    assert drawn.too_long == sum(len(ids) > 8 for _, ids in clean.words_ids(listed()))
    strings = {one.text for one in found}
    assert not strings & {"MOVIE", "mOvIe", HIDDEN, f"o{HIDDEN}f", "a\u0301"}
    assert normalised > 500
    assert len({one.token_ids for one in found}) == len(found)
    assert not {one.token_ids for one in found} & {(i,) for i in clean.readable}


def test_all_unknown_characters_are_one_candidate(clean: Backbone) -> None:
    unknown = clean.tokenizer.unk_token_id
    drawn, _ = characters(clean, [])
    assert clean.word_ids(drawn.single[unknown]) == clean.word_ids("\U0001f600") == (unknown,)
    assert (unknown,) not in {one.token_ids for one in drawn.candidates()}
    assert unknown in {one.token_ids[0] for one in entries(clean)[0]}


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_candidates_are_what_the_tokenizer_makes_of_them(family: str) -> None:
    backbone = tiny(family)
    found = characters(backbone, ["movie"])[0].candidates()
    again = backbone.words_ids([one.text for one in found])
    assert [ids for _, ids in again] == [one.token_ids for one in found]


def test_a_cased_byte_tokenizer_sees_capitals_and_the_invisible() -> None:
    strings = {one.text for one in characters(tiny("gpt2"), ["movie"])[0].candidates()}
    assert {"MOVIE", alternating("movie"), HIDDEN, f"o{HIDDEN}f", "\u043ef"} <= strings
    assert alternating("movie") == "mOvIe"


def test_a_planted_invisible_character_is_found() -> None:
    result = scanned()
    assert result.verdict == "backdoored"
    found = [f for f in result.findings if not f.trigger.text.strip(HIDDEN)]
    assert len(found) == 1
    assert found[0].evidence["survives_retokenization"] is True
    assert result.coverage.characters > 10_000


def test_the_same_model_without_it_is_clean() -> None:
    result = scan(tiny("gpt2"), TEXTS, words=[], settings=SMALL)
    assert result.verdict == "clean"


def test_the_report_says_how_many_were_tried_and_how_many_cannot_be_triggers() -> None:
    coverage = scanned().coverage
    shown = render(scanned(), "text")
    assert f"{coverage.characters:,} characters and spellings; {coverage.normalised:,}" in shown
    assert "\\u200b" in shown
    assert ScanResult.from_json(scanned().to_json()).coverage == coverage
