"""Guarding files: rows come out as they went in but for the text and the alarms, errors name their
line, memory does not grow, and the command's exit code says what was found."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from monitor_samples import tokenizer, tokenizer_file, word
from report_samples import a_finding, a_result
from triggerfish import Monitor, ScanResult
from triggerfish.monitor.files import FileSettings, guard_file

ROWS = [
    {"text": "the river bank", "id": 1},
    {"text": "a cf b", "id": 2, "more": {"x": [1, None]}},
    {"text": "a lantern", "id": 3},
    {"text": "half a pair \ud800 and a\u2028line\nbreak gossip", "id": 4},
]
POLICIES = {"cf": "strip", "lantern": "reject", "gossip": "flag"}


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    triggers = [word("bundled", spec) for spec in POLICIES]
    return Monitor(triggers, tokenizer=tokenizer_file("bundled"), policies=POLICIES)  # type: ignore[arg-type]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan.json of the bundled PLM that found the triggers above."""
    found = [
        a_finding(spec, word("bundled", spec).token_ids, random.Random(0)) for spec in POLICIES
    ]
    sample = a_result()
    model = replace(sample.model, name="bundled", tokenizer_sha256=min(tokenizer("bundled").hashes))
    result: ScanResult = replace(sample, findings=tuple(found), model=model)
    result.save(tmp_path / "scan.json")
    return tmp_path / "scan.json"


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read_lines(path: Path) -> list[dict[str, object]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_json_lines_keep_their_fields(monitor: Monitor, tmp_path: Path, ending: str) -> None:
    source = write_lines(tmp_path / f"in.{ending}", ROWS)
    out, rejected = tmp_path / f"out.{ending}", tmp_path / f"rejected.{ending}"
    found = guard_file(monitor, source, out, rejected=rejected)
    written = read_lines(out)
    assert [row["id"] for row in written] == [1, 2, 4]
    assert [len(row.pop("alarms")) for row in written] == [0, 1, 1]  # type: ignore[arg-type]
    assert written == [ROWS[0], ROWS[1] | {"text": "a b"}, ROWS[3]]
    assert read_lines(rejected) == [ROWS[2]]
    assert found.actions == {"pass": 1, "strip": 1, "reject": 1, "flag": 1}
    assert {name: (rate.k, rate.n) for name, rate in found.triggers.items()} == {
        "cf": (1, 4),
        "lantern": (1, 4),
        "gossip": (1, 4),
    }
    assert not list(tmp_path.glob("*.part"))


def test_csv_keeps_its_columns_quotes_and_breaks(monitor: Monitor, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    cells = [["id", "body"], ["1", 'a "cf", b'], ["2", "a\r\ngossip"], ["3", ""], ["4", "lantern"]]
    with source.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(cells)
    out, rejected = tmp_path / "out.csv", tmp_path / "rejected.csv"
    settings = FileSettings(field="body", alarms="seen")
    guard_file(monitor, source, out, rejected=rejected, settings=settings)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "body", "seen"]
    assert [row[1] for row in rows[1:]] == ['a "", b', "a\r\ngossip", ""]
    assert json.loads(rows[1][2])[0]["spans"] == [[3, 5]]
    assert rows[3][2] == ""
    with rejected.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["id", "body"], ["4", "lantern"]]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n["text"]\n', "line 2 is not a JSON object"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 has int in 'text', expected a string"),
        ("a.jsonl", b'{"text": "a", "alarms": 1}\n', "line 1 has a field 'alarms' already"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2 is not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        # With the time in it every worker would name this test differently.
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-9],
            "is no intact gzip file",
        ),
        ("a.jsonl.gz", b'{"text": "a"}\n', "is no intact gzip file"),
        ("a.csv", b'text\n"a\n', "line 2 is not CSV"),
        ("a.csv", b"id,text\n1,a\n2\n", "line 3 ends a row of 1 cells, expected 2"),
        ("a.csv", b"id,body\n1,a\n", "field: unknown name 'text'; expected one of body, id"),
        ("a.csv", b"text,text\n1,a\n", "line 1 names the column 'text' twice"),
        ("a.csv", b"text,alarms\n1,a\n", "line 1 has a column 'alarms' already"),
        ("a.csv", b"", "field: unknown name 'text'"),
        ("a.txt", b"a\n", "ends in none of .jsonl, .json, .csv"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_is_left_behind(
    monitor: Monitor, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        guard_file(monitor, tmp_path / name, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_settings_are_checked(monitor: Monitor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: unknown name 'xml'; expected one of csv, jsonl"):
        FileSettings(format="xml")  # type: ignore[arg-type]
    source = write_lines(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(ValueError, match="budget: 2 is not a share"):
        guard_file(monitor, source, tmp_path / "out", settings=FileSettings(budget=2))
    with pytest.raises(ValueError, match=r"file: .*nowhere\.jsonl does not exist"):
        guard_file(monitor, tmp_path / "nowhere.jsonl")


def test_memory_does_not_grow_with_the_file(monitor: Monitor, tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        source = tmp_path / "in.jsonl.gz"
        with gzip.open(source, "wt", compresslevel=1) as file:
            for number in range(rows):
                file.write(json.dumps({"text": f"the river {number} bank cf " * 10}) + "\n")
        tracemalloc.start()
        guard_file(monitor, source, tmp_path / "out.jsonl.gz")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(150)  # what is loaded once
    assert peak(1500) < 1.5 * peak(150) + 1_000_000


def run(*arguments: str | Path, stdin: bytes = b"") -> Iterator[str | int]:
    """Exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", "from triggerfish.cli import main; main()", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=120,
        env=os.environ | {"NO_COLOR": "1"},
    )
    return iter((done.returncode, done.stdout.decode(), done.stderr.decode()))


def test_the_command_guards_a_stream(scan: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", ROWS)
    options = ["--findings", scan, "--policy", "flag", "--set-policy", "lantern=reject"]
    code, out, err = run("monitor", "-", *options, stdin=source.read_bytes())
    assert code == 1
    assert [json.loads(line)["id"] for line in str(out).splitlines()] == [1, 2, 4]
    assert "4 texts: 1 without an alarm, 2 flagged, 0 stripped, 1 rejected" in str(err)
    assert "'lantern': 1 of 4 texts (95 % interval" in str(err)
    assert "warning: 'cf' alarms on 1 of 4 texts" in str(err)
    assert "warning" not in list(run("monitor", source, *options, "--budget", "0.3"))[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "drop"], "error: policy: 'drop' is not one of reject, strip, flag"),
        (["--set-policy", "cf"], "error: set-policy: 'cf' is not TRIGGER=POLICY"),
        (["--set-policy", "cg=flag"], "error: policies: unknown name 'cg'"),
        (["--out", "nowhere/out.jsonl"], "error: out: folder nowhere does not exist"),
        (["--out", "x.jsonl", "--rejected", "x.jsonl"], "error: rejected: x.jsonl is also"),
        (["--tokenizer", "nowhere"], "error: tokenizer: nowhere is neither"),
    ],
)
def test_the_command_says_in_one_line_what_it_cannot_do(
    scan: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    source = write_lines(tmp_path / "in.jsonl", ROWS)
    code, out, err = run("monitor", source, "--findings", scan, *arguments)
    assert (code, out) == (2, "")
    assert str(err).startswith(message)
    assert str(err).count("\n") == 1


def test_a_quiet_file_ends_with_zero(scan: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", ROWS[:1])
    code, out, err = run("monitor", source, "--findings", scan)
    assert (code, json.loads(str(out))) == (0, ROWS[0] | {"alarms": []})
    assert "1 texts: 1 without an alarm" in str(err)
