"""Files of records: nothing that was appended is lost, and nothing damaged passes for a record."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from triggerfish.bench.files import RecordFile

RECORDS = {"b": {"rate": 0.1, "words": ["naïve", "\u2028", "\ud800"]}, "a": {"n": 1}}


@pytest.fixture
def records(tmp_path: Path) -> RecordFile:
    found = RecordFile(tmp_path / "study" / "cells.jsonl")
    for key, record in RECORDS.items():
        found.append(key, record)
    return found


def test_records_come_back_in_the_order_of_their_keys(records: RecordFile) -> None:
    assert list(records.read().items()) == sorted(RECORDS.items())
    assert "a" in records
    assert "c" not in records
    lines = records.path.read_bytes().splitlines(keepends=True)
    records.tidy()
    assert records.path.read_bytes().splitlines(keepends=True) == lines[::-1]
    records.append("a", {"n": 2})
    assert records.read()["a"] == {"n": 2}, "the last line of a key counts"
    records.tidy(without=["b"])
    assert records.path.read_text() == '{"key": "a", "n": 2}\n'
    records.tidy(without=["a"])
    assert not records.path.exists()
    assert records.read() == {}


def test_a_last_line_cut_anywhere_is_measured_again(records: RecordFile) -> None:
    whole = records.path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole)):
        records.path.write_bytes(whole[:end])
        # A record that lacks nothing but its line end is one.
        assert ("a" in records) == (end == len(whole) - 1)
        assert records.read()["b"] == RECORDS["b"]
        records.append("a", RECORDS["a"])
        assert records.read() == RECORDS
        records.tidy()
        assert len(records.path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"key": "c"', "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "expected a JSON object with a text under 'key'"),
        (b'{"key": 1}', "expected a JSON object with a text under 'key'"),
    ],
)
def test_any_other_damaged_line_is_an_error(records: RecordFile, line: bytes, error: str) -> None:
    first, second = records.path.read_bytes().splitlines()
    damaged = b"\n".join([first, line, second, b""])
    records.path.write_bytes(damaged)
    for use in (records.read, records.tidy):
        with pytest.raises(ValueError, match=rf"cells\.jsonl:2: {error}"):
            use()
    assert records.path.read_bytes() == damaged


def test_what_cannot_be_a_record_is_not_written(records: RecordFile) -> None:
    before = records.path.read_bytes()
    with pytest.raises(ValueError, match="a field 'key' of its own"):
        records.append("c", {"key": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.append("c", {"rate": float("nan")})
    assert records.path.read_bytes() == before


def _write(path: Path, writer: int) -> None:
    records = RecordFile(path)
    for number in range(50):
        records.append(f"{writer}-{number}", {"text": str(writer) * 5000})
        if number % 10 == writer:
            records.tidy()


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, writer)) for writer in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0, 0, 0]
    assert RecordFile(path).read() == {
        f"{writer}-{number}": {"text": str(writer) * 5000}
        for writer in range(3)
        for number in range(50)
    }
