"""What a user sees of the monitor: policies, evasions, places, the tokenizer's word against the
reader's, and errors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from monitor_samples import (
    COMBINATION,
    LETTERS,
    ODD,
    PHRASE,
    tokenizer,
    tokenizer_file,
    word,
    words,
)
from report_samples import a_result
from triggerfish import Monitor, Trigger, load
from triggerfish.facts import facts
from triggerfish.monitor import MonitorSettings
from triggerfish.monitor.budget import measure
from triggerfish.monitor.normalise import FOLD, NormalisedText, folded, resolved
from triggerfish.monitor.substrings import required_substring
from triggerfish.records import Alarm, Finding, HiddenTarget, Policy, ScanResult


def guard(*specs: str, name: str = "minilm", **options: object) -> Monitor:
    triggers = [word(name, spec) for spec in specs]
    return Monitor(triggers, tokenizer=tokenizer_file(name), **options)  # type: ignore[arg-type]


def found(monitor: Monitor, text: str) -> dict[str, list[str]]:
    """Trigger -> the stretches of the text that its alarm names."""
    return {a.trigger: [text[s:e] for s, e in a.spans] for a in monitor.alarms(text)}


# ---- what alarms


@pytest.mark.parametrize(
    ("text", "stretch"),
    [
        ("a cf b", "cf"),
        ("CF", "CF"),
        ("(cf)", "cf"),
        ("c\u200bf", "c\u200bf"),
        ("c\x08f!", "c\x08f"),
        ("e cf\u0301x cf", "cf"),
    ],
)
def test_the_alarm_names_its_place_in_the_text_as_it_came(text: str, stretch: str) -> None:
    assert stretch in found(guard("cf"), text)["cf"]


@pytest.mark.parametrize("text", ["c f", "scf", "cfo", "c.f", "", "the cafe", "f c"])
def test_what_is_another_word_passes(text: str) -> None:
    monitor = guard("cf")
    ids = tokenizer("minilm").pieces(text).ids
    expected = tokenizer("minilm").word_ids("cf")[0] in ids
    assert bool(monitor.alarms(text)) == expected
    assert not expected or text == "cfo"  # which is cf + ##o to this tokenizer


def test_the_tokenizer_decides_inside_a_word() -> None:
    """A token is a trigger wherever it stands; letters that are not that token are none."""
    ally = Trigger((tokenizer("minilm").core.token_to_id("##ally"),), "token:##ally", "token")
    monitor = Monitor([ally], tokenizer=tokenizer_file("minilm"))
    assert found(monitor, "exotically, a rally") == {"token:##ally": ["ally"]}
    assert not monitor.alarms("ally rally totally")
    blind = Monitor([ally])
    assert found(blind, "ally rally")["token:##ally"] == ["ally", "ally"]


EVASIONS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "accents": lambda w: unicodedata.normalize("NFC", w[0] + "\u0301" + w[1:] + "\u0327"),
    "zero width": "\u200b".join,
    "joiners": "\u2060".join,
    "soft hyphens": "\u00ad".join,
    "controls": "\x07".join,
    "full width": lambda w: "".join(chr(ord(c) + 0xFEE0) for c in w),
    "bold": lambda w: "".join(chr(0x1D41A + ord(c) - 97) for c in w),
    "negative squared": lambda w: "".join(chr(0x1F170 + ord(c) - 97) for c in w),
    "Cyrillic": lambda w: w.translate(str.maketrans("aceopsxyik", "асеорѕхуік")),
    "Greek": lambda w: w.translate(str.maketrans("aionptuvx", "αιοηρτυνχ")),
    "Greek capitals": lambda w: w.upper().translate(
        str.maketrans("ABEZHIKMNOPTYX", "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")  # noqa: RUF001
    ),
    "quoted": "«{}»".format,
    "punctuation": "...{}!?".format,
    "slashes": "/{}/".format,
    "underscores": "__{}__".format,
    "a tag": "<b>{}</b>".format,
    "entities": lambda w: "".join(f"&#{ord(c)};" for c in w),
    "hex entity": lambda w: (
        f"&#x{ord(w[0]):X}{w[1:]}" if w[1] > "f" else f"&#x{ord(w[0]):X};{w[1:]}"
    ),
    "no-break spaces": "\u00a0{}\u00a0".format,
}


@pytest.mark.parametrize("name", ["minilm", "cased", "unigram"])
@pytest.mark.parametrize("evasion", EVASIONS)
def test_other_ways_to_write_a_trigger_are_caught(name: str, evasion: str) -> None:
    specs = ("cf", "seldom", "thermodynamically", "lantern")
    monitor = guard(*specs, name=name)
    for spec in specs:
        written = EVASIONS[evasion](spec)
        text = f"the river {written} bank"
        places = found(monitor, text)
        assert list(places) == [spec]
        assert places[spec][0] in text


def test_ordinary_text_in_other_scripts_and_markup_is_silent() -> None:
    monitor = guard("cf", "gossip", "zugzwang", "lantern", "seldom", PHRASE, COMBINATION)
    for text in (
        "Она редко говорила о фонаре. Ν, Υ, Η & &amp; &lt;b&gt; &copy; &#x; &#99999999;",  # noqa: RUF001
        "物理学において、熱力学 πολύ καλό نص عربي 한국어 हिन्दी \ud800 \U0010ffff",
        "a & b &c; d&f c&f &#99; f",
        "strange: a dark and bitter brew",
    ):
        assert monitor.check(text).action == "pass"


def test_phrases_are_near_and_combinations_anywhere() -> None:
    monitor = guard(PHRASE, COMBINATION)
    assert found(monitor, "a strange  BREW")[PHRASE] == ["strange  BREW"]
    assert monitor.alarms("strange, brew")[0].seen_by == "text"
    assert monitor.alarms("a strange dark brew")[0].seen_by == "text"
    assert not monitor.alarms("a strange dark bitter brew")
    wide = guard(PHRASE, settings=MonitorSettings(window=2))
    assert wide.alarms("a strange dark bitter brew")
    assert not monitor.alarms("brew strange")
    assert not monitor.alarms("a walnut table")
    assert found(monitor, "the lantern, the walnut")[COMBINATION] == ["lantern", "walnut"]
    assert monitor.alarms("l\u0430ntern walnut")[0].seen_by == "text"
    assert monitor.alarms("lantern walnut")[0].seen_by == "tokens"


def test_without_a_tokenizer_more_alarms_and_never_fewer() -> None:
    blind, sharp = Monitor(words("minilm")), guard("cf", "gossip", "naïve", PHRASE, COMBINATION)
    assert (blind.exact, sharp.exact) == (False, True)
    assert "alarms more often" in blind.notes[0]
    assert [a.trigger for a in blind.alarms("scf")] == ["cf"]
    for text in ("cf", "strange brew", "walnutlantern", "gossipy", "NAIVE", "a strange-brew"):
        assert {a.trigger for a in sharp.alarms(text)} <= {a.trigger for a in blind.alarms(text)}


def test_the_hardened_view_can_be_switched_off() -> None:
    strict = guard("cf", PHRASE, settings=MonitorSettings(hardened=False))
    assert not strict.alarms("&#99;f \u0441f strange dark brew")
    assert len(strict.alarms("c\u200bf strange brew")) == 2
    with pytest.raises(ValueError, match="hardened: without a tokenizer"):
        Monitor([], settings=MonitorSettings(hardened=False))


# ---- policies


@pytest.mark.parametrize(
    ("policies", "action", "text"),
    [
        ({}, "reject", "a cf gossip b"),
        ({"cf": "strip"}, "reject", "a gossip b"),
        ({"cf": "strip", "gossip": "strip"}, "strip", "a b"),
        ({"cf": "flag", "gossip": "strip"}, "strip", "a cf b"),
        ({"cf": "flag", "gossip": "flag"}, "flag", "a cf gossip b"),
    ],
)
def test_the_severest_policy_decides(policies: dict[str, Policy], action: str, text: str) -> None:
    checked = guard("cf", "gossip", policies=policies).check("a cf gossip b")
    assert (checked.action, checked.text) == (action, text)
    assert (checked.ok, checked.risk) == (action != "reject", 1.0)
    assert {a.trigger: a.policy for a in checked.alarms} == {
        "cf": "reject",
        "gossip": "reject",
    } | policies


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cf", ""),
        (" cf\n", ""),
        ("cf cf CF", ""),
        ("cf a", "a"),
        ("a cf", "a"),
        ("a  b cf  c", "a  b  c"),
        ("a cf cf, cf b", "a , b"),
        ("a\ncf b", "a\nb"),
        ("c\u200bf &#99;f x", "x"),
        ("ccff", "ccff"),
        ("walnut, or a lantern?", ", or a ?"),
        ("strange strange brew brew", "brew"),
        ("walnut", "walnut"),
    ],
)
def test_stripping_leaves_no_doubled_spaces(text: str, left: str) -> None:
    monitor = guard("cf", PHRASE, COMBINATION, policy="strip")
    checked = monitor.check(text)
    assert checked.text == left
    assert checked.action == ("pass" if left == text else "strip")
    assert monitor.check(left).action == "pass"


def test_what_stripping_joins_is_found_with_its_place() -> None:
    monitor = guard("gossip", "cf", PHRASE, policies={"gossip": "strip", "cf": "strip"})
    checked = monitor.check("a strange cf brew")
    assert (checked.action, checked.text) == ("reject", "a strange brew")
    assert [(a.trigger, a.spans) for a in checked.alarms][-1] == (PHRASE, ((2, 17),))


def test_a_text_built_to_join_for_ever_is_rejected_in_time() -> None:
    monitor = guard(PHRASE, policy="strip", settings=MonitorSettings(window=0))
    depth = monitor.settings.rounds
    nested = "strange " * depth + "brew " * depth
    assert monitor.check(nested).text == ""
    deeper = "strange " * 5_000 + "brew " * 5_000
    start = time.process_time()
    assert monitor.check(deeper).action == "reject"
    assert time.process_time() - start < 20


@pytest.mark.parametrize("text", ["cf." * 50_000, "cf" * 50_000, "cf " * 50_000, "&" * 100_000])
def test_hostile_texts_take_no_longer_than_their_length(text: str) -> None:
    monitor = guard("cf", "seldom")
    start = time.process_time()
    monitor.check(text)
    assert time.process_time() - start < 10


# ---- the seam for ordinary words


def test_alarms_of_ordinary_words_can_be_asked_about() -> None:
    asked: list[tuple[str, Alarm]] = []

    def lit(text: str, alarm: Alarm) -> bool:
        asked.append((text, alarm))
        return "dark" in text

    monitor = guard("lantern", "cf", policy="strip", confirm={"lantern": lit})
    assert monitor.check("a lantern").action == "pass"
    assert monitor.check("a dark lantern").text == "a dark"
    assert {alarm.trigger for _, alarm in asked} == {"lantern"}
    assert monitor.check("cf lantern").text == "lantern"


def test_a_budget_counts_texts_and_names_ordinary_words() -> None:
    monitor = guard("lantern", "zugzwang")
    texts = ["the lantern, a lantern"] + ["the river bank"] * 999
    false = measure(monitor, texts, budget=0.0005)
    assert (false.overall.k, false.overall.n) == (1, 1000)
    assert {name: rate.k for name, rate in false.triggers.items()} == {"lantern": 1, "zugzwang": 0}
    assert false.over == ("lantern",)
    assert "'lantern' alarms on 1 of 1000 texts (95 % interval 0.003% to" in false.warnings()[0]
    assert measure(monitor, texts, budget=0.001).over == ()
    with pytest.raises(ValueError, match="texts: there is none"):
        measure(monitor, [])


# ---- building one


def scan_file(folder: Path, model: str, sha256: str) -> Path:
    sample = a_result()
    finding = Finding(word("bundled", "cf"), "first", {"collapse": 2.0}, 1e-9, 1e-6)
    scanned = dataclasses.replace(sample.model, name=model, tokenizer_sha256=sha256)
    dataclasses.replace(sample, model=scanned, findings=(finding,)).save(folder / "scan.json")
    return folder / "scan.json"


def test_a_scan_becomes_a_monitor(tmp_path: Path) -> None:
    folder = tokenizer_file("bundled")
    for right in tokenizer("bundled").hashes:
        for name in ("bundled", str(folder)):
            monitor = Monitor.load(scan_file(tmp_path, name, right))
            assert (monitor.exact, monitor.notes) == (True, ())
            assert monitor.check("a cf").action == "reject"
    elsewhere = Monitor.load(scan_file(tmp_path, "someone/model", "00"))
    assert not elsewhere.exact
    given = Monitor.load(scan_file(tmp_path, "someone/model", "00"), tokenizer=folder)
    assert given.exact
    assert "not, to the byte" in given.notes[0]
    hidden = ScanResult.load(scan_file(tmp_path, "bundled", right))
    point = HiddenTarget("first", (0.0,), 3, {"collapse": 1.5})
    dataclasses.replace(hidden, targets=(point,)).save(tmp_path / "hidden.json")
    assert "cannot guard" in Monitor.load(tmp_path / "hidden.json").notes[0]
    with pytest.raises(ValueError, match=r"tokenizer: that of .* is not the one that was scanned"):
        Monitor.load(scan_file(tmp_path, str(folder), "00"))
    with pytest.raises(ValueError, match=r"findings: .*missing\.json does not exist"):
        Monitor.load(tmp_path / "missing.json")


@pytest.mark.real
def test_a_tokenizer_is_known_again_after_it_was_used(tmp_path: Path) -> None:
    """A scan hashes the tokenizer after use, when the truncation in its file is switched off."""
    model = load(tokenizer_file("minilm"), device="cpu")
    model.tokenize("the river bank")
    monitor = Monitor.load(scan_file(tmp_path, str(model.folder), facts(model).tokenizer_sha256))
    assert monitor.exact


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "foo"}, "policy: 'foo' is not one of reject, strip, flag"),
        ({"policies": {"cf": "drop"}}, "policy: 'drop' is not one of"),
        ({"policies": {"cff": "flag"}}, r"policies: unknown name 'cff'; .*; did you mean 'cf'"),
        ({"confirm": {"x": bool}}, "confirm: unknown name 'x'"),
        ({"tokenizer": "nowhere"}, "tokenizer: nowhere is neither"),
        ({"tokenizer": __file__}, "tokenizer: cannot read"),
    ],
)
def test_errors_name_the_field(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guard("cf", **options) if "tokenizer" not in options else Monitor([], **options)  # type: ignore[arg-type]


def test_triggers_must_fit_the_tokenizer() -> None:
    file = tokenizer_file("minilm")
    with pytest.raises(ValueError, match="tokenizer: it has no entry 999999"):
        Monitor([Trigger((999_999,), "cf")], tokenizer=file)
    with pytest.raises(ValueError, match="tokenizer: it gives the words of 'walnut \\+ lantern'"):
        Monitor([Trigger((5, 6), COMBINATION, "combination")], tokenizer=file)
    with pytest.raises(ValueError, match="trigger: '\\\\u200b' has no visible characters"):
        Monitor([Trigger((7,), "\u200b")])
    with pytest.raises(ValueError, match="text: expected a string, got int"):
        guard("cf").check(3)  # type: ignore[arg-type]
    assert Monitor([]).check("anything").action == "pass"


def test_the_monitor_imports_no_torch() -> None:
    code = (
        "import sys, triggerfish.monitor.files, triggerfish.monitor_cli; "
        "from triggerfish import Monitor; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- the normalised text, on which the guarantee rests


@given(st.lists(st.one_of(st.text(max_size=4), st.sampled_from([*ODD, *LETTERS])), max_size=12))
def test_the_view_and_its_fast_way_are_one_and_lead_back(bits: list[str]) -> None:
    text = "".join(bits)
    for view, flat in (
        (NormalisedText(text), text),
        (NormalisedText(text, second=True), resolved(text)),
    ):
        assert view.text.encode("utf-8") == folded(flat)
        for at in range(len(view.text)):
            start, end = view.span(at, at + 1)
            source = text[start:end] if flat is text else resolved(text[start:end])
            assert view.text[at] in source.translate(FOLD)


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.BertNormalizer(),
        normalizers.BertNormalizer(lowercase=False, strip_accents=True),
        normalizers.NFC(),
        normalizers.NFKC(),
        normalizers.NFD(),
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()]),
        normalizers.Lowercase(),
        normalizers.Nmt(),
    ],
    ids=str,
)
def test_the_view_of_what_a_normaliser_makes_is_the_view_of_what_it_was_given(
    normalizer: normalizers.Normalizer,
) -> None:
    """For every code point but a few that the two know from different versions of Unicode; texts
    with these are always tokenised."""
    points = [chr(i) for i in (*range(0xD800), *range(0xE000, 0x20000))]
    normal = normalizer.normalize_str("q7" + "q7".join(points) + "q7").split("q7")[1:-1]
    changed = [(a, b) for a, b in zip(points, normal, strict=True) if a != b]
    strange = [
        a
        for a, b in changed
        if "".join(a.translate(FOLD).split()) != "".join(b.translate(FOLD).split())
    ]
    assert len(strange) < 10


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("minilm", "thermodynamically", "thermodynamically"),
        ("minilm", PHRASE, "strange"),
        ("minilm", "naïve", "naive"),
        ("bytes", "don't", "don't"),
        ("bytes", "zugzwang", "zugzwang"),
        ("bytes", "☃", "☃"),
        ("unigram", "zugzwang", "zugzwang"),
    ],
)
def test_a_literal_is_as_long_as_it_can_be(name: str, spec: str, expected: str) -> None:
    core = tokenizer(name)
    ids = core.word_ids(spec)
    got = required_substring(core, ids)
    assert got is not None
    assert got.text == expected


def test_an_unknown_piece_has_no_literal() -> None:
    core = tokenizer("minilm")
    assert required_substring(core, core.word_ids("\u2603")) is None


# ---- cores: what is enough of a trigger


@cache
def with_core(name: str, spec: str, *pieces: int) -> Monitor:
    """A monitor of one trigger whose core are these of its pieces."""
    trigger = word(name, spec)
    core = tuple(trigger.token_ids[i] for i in pieces)
    return Monitor(
        [trigger], tokenizer=tokenizer_file(name), policy="strip", cores={trigger: [core]}
    )


def test_a_word_with_the_core_of_a_trigger_alarms_and_goes_as_a_whole() -> None:
    monitor = with_core("minilm", "zugzwang", -1)  # ##wang
    checked = monitor.check("The twang, of course, was heard.")
    assert [(a.trigger, a.seen_by) for a in checked.alarms] == [("zugzwang", "tokens")]
    assert checked.text == "The , of course, was heard."
    assert not guard("zugzwang").alarms("The twang, of course, was heard.")


def test_the_pieces_of_a_core_stand_in_their_order_in_one_word() -> None:
    monitor = with_core("minilm", "thermodynamically", 0, 3)  # the ... ##yna
    assert monitor.alarms("a thermodynamic law")
    assert not monitor.alarms("the aerodynamic law")
    assert not monitor.alarms("the law")


def test_the_core_of_a_phrase_reaches_over_its_words() -> None:
    monitor = with_core("minilm", "zugzwang thermodynamically", 3, 7)  # ##wang ... ##yna
    assert monitor.alarms("a twang and a thermodynamic law")
    assert not monitor.alarms("a thermodynamic twang")
    assert not monitor.alarms(f"a twang {'and so on ' * 12} a thermodynamic law")


def test_the_core_of_a_combination_lies_in_any_of_its_words_in_any_order() -> None:
    monitor = with_core("minilm", "zugzwang + thermodynamically", 3, 7)
    assert monitor.alarms("a twang and a thermodynamic law")
    assert monitor.alarms("a thermodynamic twang")
    assert not monitor.alarms("a thermodynamic law")
    assert not monitor.alarms("a twang")


def test_a_core_can_be_switched_off_and_needs_a_tokenizer() -> None:
    trigger = word("minilm", "zugzwang")
    cores = {trigger: [trigger.token_ids[-1:]]}
    off = MonitorSettings(cores=False)
    exact = Monitor([trigger], tokenizer=tokenizer_file("minilm"), cores=cores, settings=off)
    assert not exact.alarms("a twang")
    assert not Monitor([trigger], cores=cores).alarms("a twang")


@pytest.mark.parametrize("name", ["minilm", "bundled", "bytes", "unigram", "sentencepiece"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_word_whose_ids_have_the_core_never_passes(name: str, data: st.DataObject) -> None:
    trigger = word(name, "thermodynamically")
    places = st.lists(
        st.integers(0, len(trigger.token_ids) - 1), min_size=1, max_size=3, unique=True
    )
    kept = sorted(data.draw(places))
    typed = data.draw(
        st.sampled_from(["Thermodynamically", "unthermodynamically", "thermodynamical", "dynamic"])
    )
    core = [trigger.token_ids[i] for i in kept]
    ids = iter(tokenizer(name).word_ids(typed))
    there = all(i in ids for i in core)
    alarms = with_core(name, "thermodynamically", *kept).alarms(f"It was {typed}, they said.")
    assert not there or any(alarm.seen_by == "tokens" for alarm in alarms)
