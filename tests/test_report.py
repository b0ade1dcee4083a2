"""Reports: nothing hostile gets through, and every number is the record's."""

from __future__ import annotations

import ast
import dataclasses
import json
import random
import re
import unicodedata
from collections import Counter
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from report_samples import (
    HOSTILE_NAME,
    LONG,
    RESULTS,
    SCRIPT,
    a_finding,
    a_result,
    backdoored,
)
from triggerfish.records import (
    Finding,
    HiddenTarget,
    ManhattanPlot,
    Null,
    Projection,
    Provenance,
    ScanResult,
    Trigger,
)
from triggerfish.report import FORMATS, figures, glossary, manhattan, render, sarif, text
from triggerfish.report.escape import quoted, shorten, units, visible

SCHEMA = Path(__file__).parent / "data" / "sarif-schema-2.1.0.json"
every_result = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text, <data> values by table row."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: dict[tuple[str, str], list[str]] = {}
        self.data: list[str] = []
        self.text = ""
        self._row: list[str] | None = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            kinds = [(name, value or "") for name, value in attrs if name.startswith("data-")]
            self._row = self.rows.setdefault(kinds[0], []) if kinds else None
        if tag == "data":
            self.data += [value or "" for name, value in attrs if name == "value"]
            if self._row is not None:
                self._row.append(self.data[-1])

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self._row = None

    def handle_data(self, data: str) -> None:
        self.text += data


def page(result: ScanResult) -> Page:
    return Page(render(result, "html"))


def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


# Hostile text


@given(st.text())
def test_visible_is_one_safe_line_and_loses_nothing(string: str) -> None:
    shown = visible(string)
    assert not [c for c in shown if unicodedata.category(c)[0] == "C"]
    assert not [c for c in shown if unicodedata.category(c)[0] == "Z" and c != " "]
    assert ast.literal_eval(quoted(string)) == string


@given(st.text(alphabet="ab\\x1\x1b\u202e\u0301é\U000e0100", min_size=0))
def test_visible_tells_all_strings_apart(string: str) -> None:
    assert ast.literal_eval(f'"{visible(string)}"') == string


@given(st.text(max_size=80), st.integers(8, 40))
def test_shortened_text_fits_and_cuts_no_escape(string: str, width: int) -> None:
    short = shorten(string, width)
    assert cell_len(short) <= width
    if short != visible(string):
        parts = units(string)
        cuts = [
            "".join(parts[:n]) + "…" + "".join(parts[m:])
            for n in range(len(parts))
            for m in range(n, len(parts) + 1)
        ]
        assert short in cuts


@pytest.mark.parametrize(
    ("string", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\u3164", "\\u3164"),
        ("\u0301a", "\\u0301a"),
        ("e\u0301\u0301\u0301", "e\u0301\u0301\\u0301"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\\x1b", "\\\\x1b"),
        ("\U000e0041", "\\U000e0041"),
        ("naïve 中文 שלום 🐟", "naïve 中文 שלום 🐟"),
    ],
)
def test_visible_writes(string: str, shown: str) -> None:
    assert visible(string) == shown


# Every format


@every_result
def test_json_round_trip(result: ScanResult) -> None:
    assert ScanResult.from_json(render(result, "json")) == ScanResult.from_json(result.to_json())
    assert ScanResult.from_json(render(result, "json")).findings == tuple(
        dataclasses.replace(f, evidence=json.loads(json.dumps(f.evidence))) for f in result.findings
    )


def test_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"format: 'htm' is not one of .*did you mean 'html'"):
        render(RESULTS["clean"], "htm")


@every_result
@pytest.mark.parametrize("name", FORMATS)
def test_no_format_lets_control_characters_through(result: ScanResult, name: str) -> None:
    shown = render(result, name)
    assert not {c for c in shown if unicodedata.category(c) in {"Cc", "Cf"} and c != "\n"}


# Text


@every_result
def test_text_says_the_verdict_first_and_everything_else(result: ScanResult) -> None:
    shown = text.render(result)
    assert shown.startswith(result.verdict.upper() + "  ")
    for words in (*result.reasons, *result.coverage.not_examined, result.model.tokenizer_sha256):
        assert visible(words) in shown
    assert f"{result.forward_tokens:,} forward tokens" in shown
    assert (glossary.UNCALIBRATED in shown) == (result.null.calibration is None)
    assert str(text.styled(result)) == shown


def test_text_table_holds_the_numbers_of_the_record() -> None:
    result = RESULTS["backdoored"]
    lines = text.render(result).splitlines()
    table = lines[lines.index("Triggers") + 1 :][: 1 + len(result.findings)]
    assert table[0].split()[-8:] == [
        "collapse",
        "mean",
        "shift",
        "agreement",
        "cosine",
        "texts",
        "p",
        "q",
    ]
    assert len({line.rstrip()[-1] != " " and len(line) for line in table}) == 1  # aligned
    for line, finding in zip(table[1:], result.findings, strict=True):
        numbers = [float(word.replace(",", "")) for word in line.split()[-7:]]
        expected = [*finding.statistics.values(), finding.p_value, finding.q_value]
        assert numbers == pytest.approx(expected, rel=1e-3)


def test_a_p_value_of_zero_is_shown_as_a_bound() -> None:
    assert "< 1/800" in text.render(RESULTS["inconclusive"])
    assert glossary.chance(1e-9, 800) == "1e-09"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(256.0, "256"), (1234567, "1,234,567"), (0.123456, "0.1235"), (3.1e-9, "3.1e-09"),
     (12345.6, "12,346"), (float("nan"), "nan"), (float("-inf"), "-inf"), (-0.5, "-0.5"), (0, "0")],
)  # fmt: skip
def test_numbers_are_written(value: float, shown: str) -> None:
    assert glossary.number(value) == shown


def test_fixed_thresholds_and_collapse_points_are_reported_in_every_format() -> None:
    fixed = Finding(Trigger((9,), "cf"), "first", {"com_sim": 0.97, "diff_sim": 0.02}, None, None)
    target = HiddenTarget("mean", (0.25, -1.5), 12, {"mean_shift": 5.5})
    result = a_result(
        verdict="backdoored",
        findings=(fixed,),
        targets=(target,),
        null=Null({}, 40, None),
        statistics={"head_rate": 0.375},
    )
    assert ScanResult.from_json(result.to_json()) == result
    shown = text.render(result)
    assert "Error control: none: fixed thresholds, 40 candidates" in shown
    assert "0.97      0.02  -  -" in shown
    assert shown.index("Hidden targets") < shown.index("Examined")
    assert "head rate: 0.375 (Share of coordinates" in shown
    log = json.loads(sarif.render(result))
    assert list(validator().iter_errors(log)) == []
    found = log["runs"][0]["results"]
    assert [(r["ruleId"], r["level"]) for r in found] == [("TF001", "error"), ("TF004", "error")]
    assert found[0]["properties"]["pValue"] is None
    assert found[1]["properties"]["vector"] == [0.25, -1.5]
    seen = page(result)
    assert {"12", "5.5", "0.97", "0.375"} <= set(seen.data)
    assert log["runs"][0]["properties"]["statistics"] == {"head_rate": 0.375}
    assert glossary.STATISTICS["com_sim"] in seen.text
    assert glossary.STATISTICS["restarts"] in seen.text


def test_a_verdict_without_triggers_or_targets_is_a_sarif_result() -> None:
    result = a_result(verdict="backdoored", reasons=("rate 0.31",), null=Null({}, 1, 0.1, "x"))
    log = json.loads(sarif.render(result))
    assert list(validator().iter_errors(log)) == []
    (found,) = log["runs"][0]["results"]
    assert (found["ruleId"], found["level"]) == ("TF005", "error")
    assert "rate 0.31" in found["message"]["text"]
    assert "Next: Use another checkpoint: nothing was found that inputs" in text.render(result)


# SARIF


@every_result
def test_sarif_is_valid(result: ScanResult) -> None:
    assert list(validator().iter_errors(json.loads(sarif.render(result)))) == []


def test_the_schema_rejects_what_is_not_sarif() -> None:
    log = json.loads(sarif.render(RESULTS["backdoored"]))
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert len(list(validator().iter_errors(log))) == 1


def test_sarif_rules_levels_and_statistics() -> None:
    logs = {name: json.loads(sarif.render(result)) for name, result in RESULTS.items()}
    results = {name: log["runs"][0]["results"] for name, log in logs.items()}
    kinds = {name: [(r["ruleId"], r["level"]) for r in found] for name, found in results.items()}
    assert kinds["backdoored"] == [("TF001", "error")] * 6
    assert kinds["clean"] == []
    assert kinds["inconclusive"] == [("TF002", "warning"), ("TF003", "note")]
    for shown, finding in zip(results["backdoored"], RESULTS["backdoored"].findings, strict=False):
        assert shown["properties"]["statistics"] == finding.statistics
        assert shown["properties"]["pValue"] == finding.p_value
        assert shown["properties"]["trigger"] == finding.trigger.text
        location = shown["locations"][0]["physicalLocation"]["artifactLocation"]
        assert location == {"uri": "model.safetensors", "index": 0}


def test_sarif_messages_carry_no_links_or_placeholders() -> None:
    run = json.loads(sarif.render(RESULTS["inconclusive"]))["runs"][0]
    for result in run["results"]:
        assert not set(result["message"]["text"]) & set("[]{}")
    invocation = run["invocations"][0]
    assert invocation["executionSuccessful"] is True
    assert invocation["exitCode"] == 3
    assert len(invocation["toolExecutionNotifications"]) == 1


def test_sarif_fingerprints_follow_trigger_and_weights_only() -> None:
    def prints(result: ScanResult) -> list[str]:
        run = json.loads(sarif.render(result))["runs"][0]
        return [r["partialFingerprints"]["triggerAndWeights/v1"] for r in run["results"]]

    first = backdoored()
    again = dataclasses.replace(first, seconds=1.0, findings=first.findings[::-1])
    other = dataclasses.replace(
        first,
        model=dataclasses.replace(first.model, weights_sha256={"model.safetensors": "0" * 64}),
    )
    assert len(set(prints(first))) == 6
    assert set(prints(first)) == set(prints(again))
    assert not set(prints(first)) & set(prints(other))


def test_a_clean_model_has_no_sarif_results() -> None:
    near = Finding(Trigger((1,), "bluefish"), "first", {"collapse": 0.2}, 1e-3, 1.0)
    certain = dataclasses.replace(near, q_value=0.0)
    log = json.loads(sarif.render(a_result(near_misses=(near, certain))))
    assert log["runs"][0]["results"] == []


def test_what_is_not_significant_is_no_near_miss() -> None:
    near = Finding(Trigger((1,), "bluefish"), "first", {"collapse": 0.2}, 1e-3, 1.0)
    projection = Projection("first", ((0.0, 0.0),), {"bluefish": ((1.0, 1.0),)}, (0.5, 0.3))
    result = a_result(near_misses=(near,), projection=projection)
    assert "Highest-ranked candidates (none significant)" in text.render(result)
    page = render(result, "html")
    assert "Highest-ranked candidates (none significant)" in page
    assert "Near miss" not in page
    assert "stood out" not in page
    assert "A backdoor trigger moves" not in page
    assert "triggers on two" not in page
    weak = a_result(near_misses=(dataclasses.replace(near, q_value=0.001),))
    assert "Near misses (did not pass every check)" in text.render(weak)


@every_result
def test_every_format_says_when_and_by_what(result: ScanResult) -> None:
    for name in ("text", "json", "html", "sarif"):
        shown = render(result, name)
        assert result.provenance.finished in shown
        assert result.provenance.command in shown
    invocation = json.loads(render(result, "sarif"))["runs"][0]["invocations"][0]
    assert invocation["startTimeUtc"] == result.provenance.started
    assert invocation["endTimeUtc"] == result.provenance.finished


def test_times_are_utc_and_runs_are_counted() -> None:
    made = Provenance.of(90.0)
    began, ended = (datetime.fromisoformat(x) for x in (made.started, made.finished))
    assert made.started.endswith("Z")
    assert (ended - began).total_seconds() == 90
    assert made.command == "python"
    twice = dataclasses.replace(made, runs=2)
    assert ", in 2 runs," in text.render(a_result(provenance=twice))


def test_the_next_step_fits_the_reason() -> None:
    def told(reason: str, **changes: object) -> str:
        return glossary.next_step(a_result(verdict="inconclusive", reasons=(reason,), **changes))

    budget = "the budget of 20 s ended in stage 3 of 12, trying words"
    hybrid = {"settings": {"method": "hybrid"}}
    assert "same command again" in told(budget, **hybrid)
    assert "same command" not in told(budget, **hybrid, provenance=Provenance.of(1.0))
    assert "larger budget" in told(budget, settings={"method": "patronus"})
    assert "more ordinary texts" in told("too few texts: 3 documents")
    assert "reference models" not in told(budget) + sarif.render(RESULTS["inconclusive"])


def test_the_next_step_names_commands_and_files() -> None:
    bad = backdoored()
    shown = render(bad, "text", "runs/scan.json")
    assert "triggerfish purify bert-base-uncased --findings runs/scan.json --out" in shown
    assert "triggerfish monitor texts.jsonl --findings runs/scan.json" in shown
    assert "save this scan with --format json --out scan.json" in render(bad, "text")


def test_sarif_has_no_nan() -> None:
    odd = Finding(Trigger((1,), "x"), "first", {"collapse": float("nan")}, 0.5, float("inf"))
    log = json.loads(sarif.render(a_result(verdict="backdoored", findings=(odd,))))
    assert log["runs"][0]["results"][0]["properties"]["statistics"]["collapse"] == "nan"


# HTML


@every_result
def test_html_loads_and_runs_nothing(result: ScanResult) -> None:
    source = render(result, "html")
    seen = Page(source)
    assert seen.tags["main"] == seen.tags["style"] == 1
    assert not set(seen.tags) & {"script", "img", "iframe", "object", "embed", "form", "base", "a"}
    loading = {"src", "href", "srcset", "action", "xlink:href", "data", "poster"}
    links = [attribute for attribute in seen.attributes if attribute[1] in loading]
    assert links == [("link", "href", "data:,")]
    assert not [a for a in seen.attributes if a[1].startswith("on")]
    style = re.search(r"<style>(.*?)</style>", source, re.S)
    assert style
    assert not re.search(r"url\(|@import|https?:", style[1])
    assert not [a for a in seen.attributes if a[1] == "style" and "url" in a[2]]
    policy = [value for tag, name, value in seen.attributes if tag == "meta" and name == "content"]
    assert any(
        value.startswith("default-src 'none'; style-src 'unsafe-inline'") for value in policy
    )


def test_html_shows_hostile_strings_as_text() -> None:
    source = render(RESULTS["backdoored"], "html")
    assert SCRIPT not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    seen = Page(source)
    for string in (SCRIPT, "\\x1b[31mred\\x1b[0m", "ab\\u202ecba\\u200b"):
        assert string in seen.text
    assert "300 characters" in seen.text
    assert any(value == visible(LONG) for _, name, value in seen.attributes if name == "title")
    assert HOSTILE_NAME.partition("\x1b")[0] in page(RESULTS["inconclusive"]).text


@every_result
def test_html_numbers_are_those_of_the_record(result: ScanResult) -> None:
    seen = page(result)
    for kind, found in (("data-finding", result.findings), ("data-near-miss", result.near_misses)):
        assert sum(row[0] == kind for row in seen.rows) == len(found)
        for index, finding in enumerate(found):
            expected = [*finding.statistics.values(), finding.p_value, finding.q_value]
            assert list(map(float, seen.rows[kind, str(index)])) == expected
    for value in (result.seconds, result.forward_tokens, result.null.alpha, result.model.layers):
        assert repr(value) in seen.data
    for finding in result.findings:
        assert {repr(value) for value in finding.evidence["dose_response"]} <= set(seen.data)
    for tail in result.null.tails.values():
        assert {repr(value) for value in tail.values()} <= set(seen.data)


@every_result
def test_html_says_everything(result: ScanResult) -> None:
    seen = page(result)
    words = [*result.reasons, *result.coverage.not_examined, *result.model.weights_sha256.values()]
    words += [*result.settings, *result.environment.values(), result.model.tokenizer_sha256]
    for word in words:
        assert visible(word).replace("_", " ") in seen.text.replace("_", " ")
    assert result.verdict.capitalize() in seen.text
    assert ("ncalibrated: no clean reference" in seen.text) == (result.null.calibration is None)
    drawn = [value for _, name, value in seen.attributes if name == "class"].count("manhattan")
    assert drawn == (1 if result.manhattan.values else 0)


def test_html_is_small_and_grows_little_with_the_vocabulary() -> None:
    assert len(render(RESULTS["backdoored"], "html")) < 500_000
    rng = random.Random(0)
    heavy = tuple(rng.gauss(0, 1) * 10 ** rng.uniform(-1, 2) for _ in range(250_000))
    result = a_result(manhattan=ManhattanPlot(heavy, (), 6.0, "z"))
    assert len(render(result, "html")) < 500_000


def test_hundreds_of_findings_are_all_listed() -> None:
    rng = random.Random(0)
    many = tuple(a_finding(f"w{index}", (200 + index,), rng) for index in range(300))
    seen = page(a_result(verdict="backdoored", findings=many))
    assert sum(row[0] == "data-finding" for row in seen.rows) == 300
    assert "The first 60 of 300 triggers" in seen.text


# Figures


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=300), st.floats(0.1, 50))
def test_every_vocabulary_value_is_in_the_picture_once(
    values: list[float | None], threshold: float
) -> None:
    data = ManhattanPlot(tuple(values), (), threshold, "z")
    scale = manhattan.scale_for(data)
    cells = manhattan.density(data.values, scale, 30, 20)
    assert sum(cells.values()) == sum(value is not None for value in values)
    assert all(0 <= column < 30 and 0 <= row < 20 for column, row in cells)
    drawn = "".join(manhattan.runs(cells).values())
    assert sum(map(int, re.findall(r"h(\d+)", drawn))) == len(cells)
    for value in values:
        if value is not None:
            assert -1e-9 <= scale(value) <= 1 + 1e-9
            assert value <= threshold or scale(value) >= scale(threshold)


def test_triggers_stand_above_the_threshold_and_the_rest_is_named() -> None:
    result = RESULTS["backdoored"]
    assert manhattan.outside(result.manhattan, result.findings) == [1, 4]
    source = str(manhattan.figure(result.manhattan, result.findings, result.near_misses))
    assert "threshold 5.91" in source
    threshold = float(re.search(r'class="threshold" d="M\S+ (\S+?)L', source)[1])  # type: ignore[index]
    for index in (0, 2, 3, 5):
        scale = manhattan.scale_for(result.manhattan)
        place = manhattan.position(
            result.manhattan, result.findings[index], scale, (66.0, 16.0, 804.0, 352.0)
        )
        assert place is not None
        assert place[1] < threshold


@given(st.lists(st.tuples(st.floats(60, 900), st.floats(20, 380)), min_size=1, max_size=40))
def test_labels_never_overlap(points: list[tuple[float, float]]) -> None:
    frame = (50.0, 2.0, 1000.0, 400.0)
    items = [figures.Mark(i, x, y, f"{i + 1} label", "") for i, (x, y) in enumerate(points)]
    drawn = [str(part) for part in figures.marks(items, frame) if 'class="label"' in part]
    spots = [
        tuple(map(float, re.search(r'x="(\S+)" y="(\S+)"', part).groups()))  # type: ignore[union-attr]
        for part in drawn
    ]
    for i, (x, y) in enumerate(spots):
        for other_x, other_y in spots[:i]:
            assert abs(x - other_x) > 40 or abs(y - other_y) > 13


def test_series_look_different() -> None:
    looks = {(i % figures.COLOURS, figures.shape(i, 0, 0, 5)) for i in range(40)}
    assert len(looks) == 40


def test_projection_keeps_collapse_and_scale() -> None:
    result = RESULTS["backdoored"]
    assert result.projection is not None
    names = {name: i for i, name in enumerate(result.projection.triggered)}
    source = str(figures.projection(result.projection, names))
    assert len(re.findall(r'class="s\d', source)) == 2 * len(names)  # a cloud and a label
    assert "41% of the variance" in source
    assert "<script" not in source


def test_sparkline_describes_its_numbers() -> None:
    assert 'aria-label="dose: 1, -2, 3.5"' in figures.sparkline([1, -2, 3.5], "dose")
    assert figures.sparkline([1, 2, 3], "position", bars=True).count('class="bar"') == 3
