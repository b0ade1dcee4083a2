"""Texts, findings, tokenizers and bodies that are made to hurt the monitor and its service: bounded
time, one documented error, and a service that goes on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile.fuzz_monitor import BODIES, FINDINGS, fuzz_body, fuzz_findings
from hostile.monitor_load import CASES, growth, loads
from monitor_samples import tokenizer_file, word
from service_samples import write_findings
from triggerfish import Monitor
from triggerfish.monitor.asgi import GuardSettings, check_texts
from triggerfish.monitor.files import guard_file
from triggerfish.monitor.requests import Refused
from triggerfish.monitor.search import BLOCK, Search
from triggerfish.monitor.service import ServeSettings, app
from triggerfish.monitor.service.findings import Findings
from triggerfish.monitor.service.metrics import Metrics
from triggerfish.monitor.turns import Turns
from triggerfish.monitor.words import Phrases, words
from triggerfish.records import Checked

HOSTILE = "\x1b[31mcf\u202e\x9b"


# ---- time and memory


@pytest.mark.parametrize("name", CASES)
def test_time_grows_with_the_text(name: str) -> None:
    """A square would be sixteen times as long, and a pattern that tries all ways never ends."""
    first, second = growth(CASES[name], (3_000, 12_000))
    assert second < 10 * first + 0.1


def test_time_grows_with_the_findings() -> None:
    few, many = loads((300, 3_000))
    assert many[1] < 30 * few[1] + 0.5
    assert many[2] < 5 * few[2] + 0.5


@given(
    st.lists(st.text("ab\u00e9", min_size=1, max_size=4), min_size=1, max_size=8, unique=True),
    st.text("ab\u00e9 ", max_size=40),
    st.integers(0, BLOCK + 5),
)
@settings(max_examples=60, deadline=None)
def test_all_places_are_found_across_blocks(strings: list[str], text: str, before: int) -> None:
    long = "." * before + text
    found = list(Search([x.encode() for x in strings]).places_in_text(long))
    expected = [
        (at, at + len(x), n)
        for n, x in enumerate(strings)
        for at in range(len(long))
        if long.startswith(x, at)
    ]
    assert sorted(found) == sorted(expected)
    assert [place[0] for place in found] == sorted(place[0] for place in found)


def as_pattern(phrase: tuple[str, ...], window: int) -> re.Pattern[str]:
    """What a phrase of whole words means, as a pattern that tries all ways."""
    between = rf"[\W_]++(?:[^\W_]++[\W_]++){{0,{window}}}?"
    start = r"(?<![^\W_])" if phrase[0][0].isalnum() else ""
    end = r"(?![^\W_])" if phrase[-1][-1].isalnum() else ""
    return re.compile(start + between.join(map(re.escape, phrase)) + end)


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "a.b", "--", "ba"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab", " ", " ", ".", "_", "--"]), max_size=24),
    st.integers(0, 2),
)
@settings(max_examples=200, deadline=None)
def test_phrases_are_found_as_a_pattern_finds_them(
    parts: list[str], bits: list[str], window: int
) -> None:
    phrase, text = words(" ".join(parts)), "".join(bits)
    places = sorted(
        (at, at + len(x), x)
        for x in set(phrase)
        for at in range(len(text))
        if text.startswith(x, at)
    )
    found = Phrases({7: phrase}, window=window, whole=True).find(text, places)
    expected = [match.span() for match in as_pattern(phrase, window).finditer(text)]
    assert found == ({7: expected} if expected else {})


# ---- whatever comes


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def changed(data: st.DataObject, document: Any) -> Any:
    """The document with one value somewhere replaced."""
    if isinstance(document, dict | list) and document and data.draw(st.integers(0, 5)):
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        key = data.draw(st.sampled_from(keys))
        copy = dict(document) if isinstance(document, dict) else list(document)
        copy[key] = changed(data, copy[key])
        return copy
    return data.draw(VALUES)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_findings_are_read_or_refused(data: st.DataObject) -> None:
    whole = json.loads(data.draw(st.sampled_from(FINDINGS)))
    fuzz_findings(json.dumps(changed(data, whole)).encode())
    fuzz_findings(data.draw(st.binary(max_size=40)))


@pytest.mark.parametrize("ids", [[-1], [2**32], [2**70], [], [10**9]])
def test_ids_that_are_none(ids: list[int]) -> None:
    whole = json.loads(FINDINGS[0])
    for field in ("trigger", "sufficient_subsets"):
        other = json.loads(FINDINGS[0])
        if field == "trigger":
            other["findings"][0]["trigger"]["token_ids"] = ids
        else:
            other["findings"][0]["sufficient_subsets"] = [ids]
        fuzz_findings(json.dumps(other).encode())
    fuzz_findings(json.dumps(whole).encode())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bodies_are_read_or_refused(data: st.DataObject) -> None:
    document = json.loads(data.draw(st.sampled_from(BODIES)))
    fuzz_body(json.dumps(changed(data, document)).encode())
    fuzz_body(data.draw(st.binary(max_size=60)))


def with_normalizer(folder: Path, normalizer: dict[str, Any]) -> Path:
    """A tokenizer.json that makes the library panic."""
    whole = json.loads((tokenizer_file("bundled") / "tokenizer.json").read_text(encoding="utf-8"))
    whole["normalizer"] = normalizer
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(whole), encoding="utf-8")
    return file


@pytest.mark.parametrize("charsmap", [None, "", "/w=="])
def test_a_tokenizer_that_panics_is_one_error(tmp_path: Path, charsmap: str | None) -> None:
    file = with_normalizer(tmp_path, {"type": "Precompiled", "precompiled_charsmap": charsmap})
    with pytest.raises(ValueError, match=r"tokenizer: cannot (read|use) .*tokenizer\.json"):
        Monitor([word("bundled", "cf")], tokenizer=file)


def test_a_row_that_would_be_no_json_is_named(tmp_path: Path) -> None:
    monitor = Monitor([word("bundled", "cf")], tokenizer=tokenizer_file("bundled"))
    source = tmp_path / "in.jsonl"
    for number in ("NaN", "-Infinity", "1e999"):
        source.write_text('{"text": "a"}\n{"text": "b", "score": [' + number + "]}\n")
        with pytest.raises(ValueError, match="line 2 holds NaN or an infinity in 'score'"):
            guard_file(monitor, source, tmp_path / "out.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]


def test_findings_from_a_stream(tmp_path: Path) -> None:
    findings = write_findings(tmp_path / "scan.json", "cf").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(findings,))
    writer.start()
    assert Monitor.load(pipe).check("a cf").action == "reject"
    writer.join()
    with pytest.raises(ValueError, match=r"findings: .*pipe is no ordinary file"):
        Findings(pipe, Monitor.load)
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"findings: .*bad\.json is not UTF-8"):
        Monitor.load(tmp_path / "bad.json")


# ---- the service


class Panics:
    """As a native library does."""

    class PanicException(BaseException):
        pass

    def check_all(self, texts: Any) -> list[Checked]:
        raise self.PanicException("the text says swordfish")


def test_a_panic_in_a_check_lets_nothing_pass(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused, match="the monitor failed") as refusal:
        asyncio.run(check_texts(Panics(), ["a"], GuardSettings()))
    assert refusal.value.status == 503
    assert "PanicException" in caplog.text
    assert "swordfish" not in caplog.text
    opened = asyncio.run(check_texts(Panics(), ["a"], GuardSettings(fail_open=True)))
    assert opened is None


def test_work_that_does_not_end_is_given_up_and_nothing_waits_behind_it() -> None:
    turns, over = Turns("test"), threading.Event()

    async def tried() -> None:
        with pytest.raises(TimeoutError):
            await turns.run(0.5, over.wait)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await turns.run(0.5, int)
        assert time.monotonic() - began < 0.4
        assert turns.taken > 0.5
        over.set()
        while turns.taken:
            await asyncio.sleep(0.01)
        assert await turns.run(5, int, "3") == 3

    asyncio.run(tried())


def test_the_event_loop_goes_on_while_a_text_is_checked() -> None:
    class Busy:
        def check_all(self, texts: Any) -> list[Checked]:
            time.sleep(0.3)
            return [Checked(text) for text in texts]

    async def tried() -> int:
        turns = 0
        checking = asyncio.create_task(check_texts(Busy(), ["short"], GuardSettings()))
        while not checking.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(tried()) > 5


def health(service: app._Service) -> dict[str, Any]:
    response = asyncio.run(service.health(None))  # type: ignore[arg-type]
    found: dict[str, Any] = json.loads(bytes(response.body))
    return found


def service_of(findings: Path, **changes: Any) -> app._Service:
    return app._Service(ServeSettings(findings, reload_seconds=0.02, **changes))


async def until(condition: Any, *tasks: Any) -> None:
    """Run the tasks of a service until something is so."""
    running = [asyncio.create_task(task()) for task in tasks]
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in running), "a task of the service died"
    for task in running:
        task.cancel()
    assert condition()


def test_health_says_what_could_not_be_reloaded_and_since_when(tmp_path: Path) -> None:
    file = write_findings(tmp_path / "scan.json", "cf")
    service = service_of(file)
    assert health(service)["status"] == "ok"
    panicking = tmp_path / "model"
    panicking.mkdir()
    with_normalizer(panicking, {"type": "Precompiled", "precompiled_charsmap": None})
    whole = json.loads(file.read_text(encoding="utf-8"))
    whole["model"]["name"] = str(panicking)
    file.write_text(json.dumps(whole), encoding="utf-8")
    asyncio.run(until(lambda: service.findings.problem, service._watch))
    told = health(service)
    assert told["status"] == "stale findings"
    assert "tokenizer: cannot" in told["findings"]["error"]
    assert told["findings"]["file"] == str(file)
    assert told["findings"]["error_since"] >= told["findings"]["since"]
    assert service.check_all(["a cf"])[0].action == "reject"
    write_findings(file)
    asyncio.run(until(lambda: not service.findings.problem, service._watch))
    told = health(service)
    assert (told["status"], told["triggers"]) == ("no triggers", 0)


def test_a_reload_that_panics_or_never_ends_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_findings(tmp_path / "scan.json", "cf")
    service = service_of(file, load_seconds=0.1)
    over = threading.Event()

    def load(path: Path) -> Monitor:
        if not over.is_set():
            over.wait()
            raise Panics.PanicException("x" + HOSTILE)
        raise AssertionError

    monkeypatch.setattr(service.findings, "_load", load)
    os.utime(file, (1, 1))
    asyncio.run(until(lambda: service.findings.problem, service._watch))
    assert "takes more than 0.1 seconds" in health(service)["findings"]["error"]
    over.set()
    asyncio.run(until(lambda: "Panic" in service.findings.problem.what, service._watch))
    assert "\\x1b[31mcf\\u202e\\x9b" in health(service)["findings"]["error"]


def test_a_worker_whose_check_does_not_end_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    service = service_of(
        write_findings(tmp_path / "scan.json", "cf"), guard=GuardSettings(check_seconds=0.1)
    )
    monkeypatch.setattr(app, "SUPERVISED", 0.02)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(app.LARGE_TEXTS, "_began", time.monotonic() - 1)
    asyncio.run(until(lambda: ended, service._supervise))
    assert ended[0] == 1


def test_hostile_triggers_command_no_terminal() -> None:
    metrics = Metrics()
    metrics.know([HOSTILE])
    shown = metrics.render().decode("utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert "x1b[31mcf" in shown
    assert bytes(app._Json({"trigger": HOSTILE}).body).isascii()
