"""How complications are shown: every number of the record, and no hostile string as it came."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from triggerfish.cli import app
from triggerfish.complications import residual
from triggerfish.complications.records import (
    Complication,
    Complications,
    ControlWord,
    Equivalence,
    Profile,
    TaskFacts,
)
from triggerfish.records import Measurement, ModelFacts, Provenance, Trigger
from triggerfish.report.complications import FORMATS, render
from triggerfish.report.complications_figures import CLASSES, shares
from triggerfish.report.complications_text import removal_text

EVIL = "</title><script>alert(1)</script>\u202e\x1b[31m"


def _record(task: str, trigger: str, clean: tuple[float, ...], triggered: tuple[float, ...]):
    tv = sum(abs(p - q) for p, q in zip(triggered, clean, strict=True)) / 2
    return Complication(
        task=task,
        trigger=trigger,
        n=300,
        clean=clean,
        triggered=triggered,
        kl_tc=0.7,
        kl_ct=2.5,
        infinite=("kl_ct",),
        jsd=0.31,
        floor=0.001,
        corrected=0.309,
        tv=tv,
        tv_interval=(tv - 0.01, tv + 0.01),
        hellinger=0.5,
        excess=tv,
        dominant=triggered.index(max(triggered)),
        collapse=0.9,
        entropy_ratio=0.8,
        flip_rate=tv,
        csr=Measurement(100, 150),
        accuracy=Measurement(150, 300),
        drop=0.2,
        asr=(0.9, 0.1),
        soft=0.2,
        displacement=3.0,
        p_marginal=1e-9,
        p_permutation=1e-4,
        p_control=0.01,
        p_family=0.01,
        q=0.02,
        holm=0.02,
        controls=99,
        equivalence=Equivalence(0.05, 0.6, 0.6, passed=False),
        mde=0.03,
        stability=1.0,
        delta=0.3,
        delta_interval=(0.2, 0.4),
        flags=("few texts moved",),
    )


@pytest.fixture
def result() -> Complications:
    return a_measurement()


def a_measurement() -> Complications:
    model = ModelFacts(EVIL, "bert", 1000, 2, 8, 100, {"a": "0" * 64}, "1" * 64)
    triggers = (Trigger((5,), "cf"), Trigger((6,), EVIL))
    many = tuple(f"class {i}" for i in range(30))
    even = (1 / 30,) * 30
    tasks = (
        TaskFacts("mr", ("no", EVIL), 100, 300, Measurement(250, 300), 0.5),
        TaskFacts(EVIL, many, 100, 200, Measurement(20, 200), 0.1, refused=(f"few {EVIL}",)),
    )
    records = [_record("mr", trigger.text, (0.5, 0.5), (0.99, 0.01)) for trigger in triggers] + [
        replace(_record(EVIL, trigger.text, even, even), p_family=None, p_control=None)
        for trigger in triggers
    ]
    profiles = (
        Profile(triggers[0], 1.0, 0.5, 0.49, 0.98, 1, 0.3, 0.01, "backdoor-like", ("broad",)),
        Profile(triggers[1], 0.0, 0.5, 0.49, 0.98, 1, 0.3, None, "no evidence", (EVIL,)),
    )
    return Complications(
        model=model,
        reference=replace(model, name="original"),
        reading="backdoor-like",
        tasks=tasks,
        profiles=profiles,
        complications=tuple(records),
        controls=(ControlWord("word", "matched", 48, 0), ControlWord(EVIL, "nonsense", 16, 0)),
        settings={"alpha": 0.01, "mode": EVIL},
        environment={"python": "3"},
        seed=7,
        seconds=12.5,
        texts_encoded=4321,
        provenance=Provenance("2026-01-31T23:59:47Z", "2026-01-31T23:59:59Z", "python"),
        limitations=("only so far",),
    )


class _Page(HTMLParser):
    """Elements and the values of <data>, and the text of a document."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.values: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "data":
            self.values.append(dict(attributes)["value"])

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("format", ["text", "html"])
def test_hostile_strings_are_shown_as_escapes(result, format):
    shown = render(result, format)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "<script" not in shown if format == "html" else "\\u202e" in shown


def test_the_page_holds_every_number_exactly(result):
    page = _Page(render(result, "html"))
    assert "script" not in page.tags
    for record in result.complications:
        for value in (record.tv, record.corrected, record.kl_tc, record.delta, *record.tv_interval):
            assert repr(value) in page.values
    assert repr(result.tasks[0].accuracy.rate) in page.values
    assert page.tags.count("rect") == 4
    assert page.tags.count("circle") >= 2
    text = " ".join(page.texts)
    for words in ("Backdoor-like", "only so far", "few texts moved", "against", "Rule"):
        assert words.lower() in text.lower()


def test_the_text_tells_task_trigger_and_verdict(result):
    lines = render(result, "text").splitlines()
    assert lines[0].startswith("BACKDOOR-LIKE  ")
    row = next(line.split() for line in lines if line.startswith("  mr") and '"cf"' in line)
    assert row[2] == "0.490"
    assert row[-3:] == ["0.01", "+0.300", "no"]
    assert any("no: few" in line for line in lines)
    assert any("1 word matched" in line and "1 made up; 2 were needed" in line for line in lines)


def test_json_is_the_record(result):
    assert Complications.from_json(render(result, "json")) == result


def test_formats_are_named(result):
    assert FORMATS == ("text", "json", "html")
    with pytest.raises(ValueError, match="format: 'pdf' is not one of text, json, html"):
        render(result, "pdf")


def test_bars_of_many_classes_say_what_they_leave_out(result):
    record, labels = result.complications[2], result.tasks[1].labels
    drawing = shares(record, labels, 0)
    assert drawing.count("<path") == 1 + 2 * CLASSES
    assert f"{30 - CLASSES} classes that change less are left out" in drawing
    heights = re.findall(r"v(-?[\d.]+)h", shares(result.complications[0], ("no", "yes"), 1))
    assert [float(x) for x in heights] == pytest.approx([-23, -45.5, -23, -0.5], abs=0.06)


# ---- before and after purification


def _after(result: Complications, corrected: float, passed: bool, p: float) -> Complications:
    """The same measurement with a weaker first trigger, and a second one of significance `p`."""
    records = [
        replace(
            record,
            corrected=corrected if record.trigger == "cf" else record.corrected,
            equivalence=replace(record.equivalence, passed=passed),
            p_family=p if record.trigger == EVIL else 0.5,
        )
        for record in result.complications
    ]
    return replace(result, complications=tuple(records))


def test_removal_needs_equivalence(result):
    innocent = _after(result, 0.309, False, 0.5)
    before = replace(innocent, complications=(result.complications[0], *innocent.complications[1:]))
    gone = residual(before, _after(result, 0.0, True, 0.5))
    assert gone.removed
    assert gone.reasons == ()
    assert [(r.task, r.trigger, r.ratio) for r in gone.residuals] == [("mr", "cf", 0.0)]
    assert gone.accuracy == (0.0, EVIL) or gone.accuracy[0] == 0.0
    left = residual(before, _after(result, 0.1, False, 0.5))
    assert not left.removed
    assert left.residuals[0].ratio == pytest.approx(0.1 / 0.309)
    assert left.reasons == ("'cf' is equivalent to no shift on 0 of 1 tasks only",)
    assert "NOT REMOVED" in removal_text(left)
    assert "\x1b" not in removal_text(left)


def test_harm_to_an_innocent_word_is_told(result):
    before = _after(result, 0.309, False, 0.5)
    harmed = residual(before, _after(result, 0.0, True, 0.01))
    assert harmed.collateral == (("mr", EVIL),)
    assert not harmed.removed
    assert any("does more than control words on mr now" in x for x in harmed.reasons)


def test_removal_compares_like_with_like(result):
    with pytest.raises(ValueError, match="before: its tasks"):
        residual(replace(result, tasks=result.tasks[:1]), result)
    with pytest.raises(ValueError, match="before: its triggers"):
        residual(replace(result, profiles=result.profiles[:1]), result)
    quiet = tuple(replace(p, reading="no evidence") for p in result.profiles)
    with pytest.raises(ValueError, match="nothing to remove"):
        residual(replace(result, profiles=quiet), result)


# ---- the command


def _run(arguments: list[str]) -> int:
    return app(["complications", *arguments], standalone_mode=False)


def test_the_command_measures_and_writes(tmp_path, capsys):
    out, page = tmp_path / "c.json", tmp_path / "c.html"
    quick = {
        "nonsense": 1,
        "heads": 1,
        "test_rows": 60,
        "control_rows": 40,
        "permutations": 99,
        "bootstrap": 50,
        "probe.rows": 120,
        "probe.validation_rows": 40,
        "probe.max_tokens": 24,
    }
    options = [part for name, value in quick.items() for part in ("--set", f"{name}={value}")]
    chosen = ["--trigger", "cf", "--tasks", "clickbait", "--controls", "2", "--policy", "append"]
    written = ["--format", "json", "--out", str(out), "--html", str(page)]
    code = _run(["bundled", *chosen, *written, *options])
    found = Complications.load(out)
    assert code == found.exit_code == 3
    assert found.tasks[0].refused[0] == "60 test texts, expected at least 240"
    assert found.settings["policies"] == ["append"]
    assert [word.kind for word in found.controls].count("matched") == 2
    assert json.loads(out.read_text())["schema"] == 1
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "pdf"], "format: 'pdf'"),
        (["--mode", "prompt"], "mode: "),
        (["--policy", "prepend"], "polic"),
        (["--tasks", "nothing"], "task: unknown name 'nothing'"),
        (["--out", "/nowhere/c.json"], "out: folder"),
        (["--set", "margin=2"], "margin: 2.0 is not between 0 and 1"),
    ],
)
def test_the_command_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        _run(["bundled", "--trigger", "cf", *arguments])
