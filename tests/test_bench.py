"""Runs of a grid: that they survive being killed anywhere, and what their tables say.

Most tests do the jobs in this process, through the same seam that a cluster would use; those about
processes use real ones.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from bench_toy import TOY, Here
from triggerfish.bench import Progress, Summary, render, run_grid
from triggerfish.bench.files import RecordFile
from triggerfish.bench.jobs import Job
from triggerfish.bench.local import LocalExecutor, worker_count
from triggerfish.bench.page import _md

PATIENCE = 60.0
"""Seconds until a test gives up waiting for something that should come at once."""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the toy stages."""
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("TOY_HEALED", str(tmp_path / "healed"))
    return tmp_path / "log"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a toy grid file."""

    def writer(**fields: Any) -> Path:
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump(TOY | fields))
        return file

    return writer


def stages_run(log: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in log.read_text().splitlines())


def cells(out: Path, kind: str = "cells") -> dict[str, dict[str, Any]]:
    """The records by hash, without what may differ between runs."""
    found = RecordFile(out / f"{kind}.jsonl").read()
    return {
        key: {name: value for name, value in record.items() if name != "seconds"}
        for key, record in found.items()
    }


def finished(out: Path, store: Path) -> dict[str, Any]:
    """Products and cells on disk; a product that is made again has another inode or time, a cell
    that is measured again other seconds."""
    products = {}
    for file in store.glob("*/*/product.json"):
        if ".partial" not in str(file) and ".removed" not in str(file):
            stat = file.stat()
            products[str(file)] = (stat.st_ino, stat.st_mtime_ns)
    return products | RecordFile(out / "cells.jsonl").read()


def leftovers(*roots: Path) -> list[Path]:
    return [
        path
        for root in roots
        for path in root.rglob("*")
        if path.name.endswith((".partial", ".removed", ".lock"))
    ]


# Runs -----------------------------------------------------------------------------------------


def test_twice_the_same_and_shared_products_made_once(
    tmp_path: Path, log: Path, write: Callable[..., Path]
) -> None:
    grid = write(axes={"base": [1, 2], "factor": [1, 3], "seed": [0, 1]})
    for name in ("one", "two"):
        executor = Here()
        summary = run_grid(grid, tmp_path / name, store=tmp_path / "s" / name, executor=executor)
        assert summary == Summary(total=8, done=8, failed=0, skipped=0)
        assert executor.shut
    assert stages_run(log) == {"source": 2 * 2, "scaled": 2 * 4, "score": 2 * 8}
    one, two = (cells(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert len(one) == 8
    record = next(iter(one.values()))
    assert record["environment"].keys() >= {"python", "torch", "transformers", "threads"}
    assert list(record["stages"]) == ["source", "scaled", "score"]
    for name in ("README.md", "index.html", "grid.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    # Another grid with the same store and other seeds: only the last stage is left.
    grid = write(axes={"base": 1, "factor": 3, "seed": [0, 5]})
    again = run_grid(grid, tmp_path / "one", store=tmp_path / "s" / "one", executor=Here())
    assert again == Summary(total=2, done=1, failed=0, skipped=1)
    assert stages_run(log)["score"] == 17
    assert stages_run(log)["scaled"] == 8
    assert "7 more cells lie here" in (tmp_path / "one" / "README.md").read_text()


def test_failures_are_recorded_and_tried_again(
    tmp_path: Path, log: Path, write: Callable[..., Path]
) -> None:
    grid = write(
        axes={"base": 1, "mode": ["good", "fails", "nan", "exits", "returns"], "seed": [0, 1]}
    )
    told: list[Progress] = []

    def run() -> Summary:
        return run_grid(
            grid, tmp_path / "out", store=tmp_path / "store", executor=Here(), progress=told.append
        )

    assert run() == Summary(total=10, done=2, failed=8, skipped=0)
    assert stages_run(log)["scaled"] == 5, "one product serves two cells, also when it fails"
    failed = {
        (r["settings"]["mode"], r["stage"], r["error"])
        for r in cells(tmp_path / "out", "failed").values()
    }
    assert ("fails", "scaled", "RuntimeError: this mode fails") in failed
    assert ("exits", "score", "SystemExit: 7") in failed
    assert (
        "returns",
        "scaled",
        "TypeError: stage 'scaled' makes a product, so it must return None",
    ) in failed
    assert any(mode == "nan" and "JSON cannot say" in error for mode, _, error in failed)
    assert all("Traceback" in r["traceback"] for r in cells(tmp_path / "out", "failed").values())
    assert told[0].current
    assert (told[-1].done, told[-1].failed, told[-1].remaining) == (2, 8, 0)
    assert any(p.news.startswith("failed: scaled mode=fails: RuntimeError") for p in told)
    assert leftovers(tmp_path) == []
    assert run().failed == 8
    (tmp_path / "healed").touch()
    assert run() == Summary(total=10, done=8, failed=0, skipped=2)
    assert cells(tmp_path / "out", "failed") == {}


def test_a_product_that_nobody_can_use_any_more_is_not_made(
    tmp_path: Path, log: Path, write: Callable[..., Path]
) -> None:
    grid = write(plan="bench_toy:PAIR", axes={"base": 1, "mode": "fails", "seed": [0, 1]})
    summary = run_grid(grid, tmp_path / "out", store=tmp_path / "store", executor=Here())
    assert summary == Summary(total=2, done=0, failed=2, skipped=0)
    assert stages_run(log) == {"scaled": 1}


def test_a_worker_that_dies_is_the_failure_of_its_job(
    tmp_path: Path, log: Path, write: Callable[..., Path]
) -> None:
    grid = write(axes={"base": [1, 2], "mode": ["dies", "good"]})
    summary = run_grid(grid, tmp_path / "out", store=tmp_path / "store", workers=1)
    assert summary == Summary(total=4, done=2, failed=2, skipped=0)
    assert summary.exit_code == 1
    for record in cells(tmp_path / "out", "failed").values():
        assert "ended by SIGKILL" in record["error"]
        assert record["settings"]["mode"] == "dies"
    assert leftovers(tmp_path) == []


def test_a_worker_that_dies_idle_is_replaced(tmp_path: Path, log: Path) -> None:
    executor = LocalExecutor(1)
    jobs = [
        Job(
            "bench_toy:PLAN",
            "source",
            str(n) * 32,
            {"base": n, "model": "plain"},
            {},
            1,
            str(tmp_path / "s"),
            "1-a@b",
        )
        for n in (1, 2)
    ]
    try:
        for job in jobs:
            executor.submit(job)
            (outcome,) = executor.wait()
            assert (outcome.hash, outcome.error) == (job.hash, "")
            worker = int(log.read_text().split()[-1])
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda: not multiprocessing.active_children(), "its end")
    finally:
        executor.shutdown()


def test_threads_of_a_worker(tmp_path: Path, write: Callable[..., Path]) -> None:
    grid = write(plan="bench_toy:TORCH", stages={}, threads=3)
    for name in ("one", "two"):
        assert run_grid(grid, tmp_path / name, store=tmp_path / "s", workers=1).done == 1
    (one,), (two,) = (cells(tmp_path / name).values() for name in ("one", "two"))
    assert one["result"]["set"] == 3
    assert one == two, "global generators are seeded"
    grid = write(stages={"measure": "threads"}, threads=3)
    run_grid(grid, tmp_path / "three", store=tmp_path / "s", workers=1)
    (record,) = cells(tmp_path / "three").values()
    assert record["result"] == {"given": 3, "omp": "3"}
    assert os.environ.get("OMP_NUM_THREADS") != "3"


def test_number_of_workers() -> None:
    assert worker_count(10_000, 0.001) == 1
    assert worker_count(1, 1e9) == 1
    assert worker_count(1, 0.001) >= 1
    executor = LocalExecutor(2)
    executor.shutdown()
    with pytest.raises(ValueError, match="workers: expected at least 1"):
        run_grid("grid.yaml", "out", workers=0)


# Being killed ---------------------------------------------------------------------------------


class Command:
    """A grid that runs in a process of its own, which is killed at the end of the block."""

    def __init__(self, grid: Path, out: Path, store: Path, workers: int = 2):
        arguments = [str(grid), str(out), str(store), str(workers)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench_toy", *arguments],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited too long for {what}"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """A zombie does not live; nobody may be there to bury the orphans of a killed process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_killed_at_random_moments_and_resumed(
    tmp_path: Path, log: Path, write: Callable[..., Path]
) -> None:
    grid = write(axes={"base": [1, 2, 3], "factor": [1, 2], "seed": [0, 1, 2]})
    run_grid(grid, tmp_path / "whole", store=tmp_path / "whole-store", executor=Here())
    out, store = tmp_path / "out", tmp_path / "store"
    chance = random.Random(20)
    seen: dict[str, Any] = {}
    for _ in range(5):
        goal = len(seen) + chance.randrange(1, 5)
        with Command(grid, out, store) as command:

            def reached(goal: int = goal, run: subprocess.Popen[bytes] = command.process) -> bool:
                return len(finished(out, store)) >= goal or run.poll() is not None

            wait_for(reached, "products")
            time.sleep(chance.random() * 0.15)
            command.end(signal.SIGKILL)
        now = finished(out, store)
        assert now | seen == now, "what was finished is not made again"
        seen = now
    assert run_grid(grid, out, store=store, executor=Here()).failed == 0
    now = finished(out, store)
    assert now | seen == now
    assert len(now) == 3 + 6 + 18
    assert cells(out) == cells(tmp_path / "whole")
    assert leftovers(tmp_path) == []


def test_a_half_written_record_is_measured_again(
    tmp_path: Path, log: Path, write: Callable[..., Path]
) -> None:
    grid = write(axes={"base": 1, "seed": [0, 1, 2]})
    out, store = tmp_path / "out", tmp_path / "store"
    run_grid(grid, out, store=store, executor=Here())
    before, file = cells(out), out / "cells.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    again = run_grid(grid, out, store=store, executor=Here())
    assert again == Summary(total=3, done=1, failed=0, skipped=2)
    assert cells(out) == before
    file.write_bytes(file.read_bytes()[20:])
    with pytest.raises(ValueError, match=r"cells\.jsonl:1: not JSON"):
        run_grid(grid, out, store=store, executor=Here())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_run_and_a_folder_has_one_run(
    tmp_path: Path, log: Path, write: Callable[..., Path], number: int
) -> None:
    grid = write(axes={"base": 1, "mode": "hangs", "seed": [0, 1]})
    out, store = tmp_path / "out", tmp_path / "store"
    with Command(grid, out, store) as command:
        wait_for(lambda: log.exists() and stages_run(log)["score"] == 2, "both workers")
        workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
        assert any(map(lives, workers))
        with pytest.raises(ValueError, match=rf"out: another run.*process {command.process.pid}\)"):
            run_grid(grid, out, store=store, executor=Here())
        assert command.end(number) == (-9 if number == signal.SIGKILL else 130)
        wait_for(lambda: not any(map(lives, workers)), "the workers' end")
    if number == signal.SIGKILL:
        assert leftovers(out, store) != []
    else:
        assert leftovers(out, store) == []
    (tmp_path / "healed").touch()
    assert run_grid(grid, out, store=store, executor=Here()).done == 2
    assert leftovers(out, store) == []
    assert stages_run(log)["scaled"] == 1


# Dry runs -------------------------------------------------------------------------------------


def test_dry_run_touches_nothing(tmp_path: Path, log: Path, write: Callable[..., Path]) -> None:
    grid = write(axes={"base": [1, 2], "seed": list(range(30))})
    before = sorted(tmp_path.rglob("*"))
    summary = run_grid(grid, tmp_path / "o", store=tmp_path / "s", dry_run=True, workers=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert (summary.total, summary.done, summary.skipped) == (60, 0, 0)
    assert summary.preview is not None
    assert summary.preview.seconds == 2 * 1 + 2 * 2 + 60 * 4
    text = summary.preview.text()
    assert "toy: 60 cells, 0 done, 60 to do" in text
    assert "... and 10 more cells" in text
    assert "expected: 4 min of work, about 2 min with 2 workers of 1 thread" in text


def test_dry_run_knows_what_is_there_and_what_it_took(
    tmp_path: Path, log: Path, write: Callable[..., Path]
) -> None:
    def run(**axes: Any) -> Summary:
        dry = {"dry_run": True} if axes.pop("dry", False) else {"executor": Here()}
        return run_grid(write(axes=axes), tmp_path / "o", store=tmp_path / "s", **dry)

    run(base=1, seed=[0, 1])
    run(base=1, mode="fails")
    preview = run(base=[1, 2], mode=["good", "fails"], dry=True).preview
    assert preview is not None
    assert preview.states == ("done", "failed", "to do", "to do")
    assert preview.missing[:2] == ((), ("scaled", "score"))
    source, scaled, score = preview.stages
    assert (source.products, source.there, source.needed, source.measured) == (2, 1, 1, True)
    assert (scaled.products, scaled.there, scaled.needed) == (4, 1, 3)
    assert (score.there, score.needed) == (1, 3)
    assert source.seconds < 1, "measured, and not the guess"


def test_the_runner_needs_no_torch(tmp_path: Path, write: Callable[..., Path]) -> None:
    code = (
        "import sys; from triggerfish.bench import run_grid; "
        "run_grid(*sys.argv[1:], dry_run=True); import triggerfish.bench.page; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(write(axes={"base": 1})), str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        check=True,
        timeout=PATIENCE,
    )


# Tables ---------------------------------------------------------------------------------------


def test_tables_from_cells_alone(tmp_path: Path, log: Path, write: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    grid = write(
        axes={"base": [4, 6], "mode": ["good", "fails"], "seed": [0, 1]},
        exclude=[{"base": 6, "mode": "fails"}],
        tables=[
            {"title": "By mode", "rows": ["base"], "columns": ["mode"], "value": "hits"},
            {
                "title": "By metric",
                "rows": ["recipe.code"],
                "columns": {"hit rate": "hits", "mean": "deep.mean", "none": "deep.men"},
                "where": {"mode": "good"},
                "format": ".2f",
            },
        ],
    )
    run_grid(grid, out, store=tmp_path / "store", executor=Here())
    text = (out / "README.md").read_text()
    assert "6 cells: 4 measured, 2 failed, 0 not run" in text
    assert r"| 4 | 40.0 % (8/20; 19.1-63.9), 2 cells | failed \[1\] |" in text
    assert "| 6 | 60.0 % (12/20; 36.1-80.9), 2 cells |  |" in text
    assert "| por1 | 50.00 % (20/40; 33.80-66.20), 4 cells | 5.25 (4.00-6.50), 4 cells |" in text
    assert "1. stage scaled: RuntimeError: this mode fails" in text
    assert "no result here has a value at 'deep.men'; did you mean 'deep.mean'?" in text
    assert "Pooled over base, seed." in text
    measured = out / "cells.jsonl"
    measured.write_text("".join(measured.read_text().splitlines(keepends=True)[1:]))
    (out / "failed.jsonl").unlink()
    render(out)
    text = (out / "README.md").read_text()
    assert "| not run |" in text
    assert "1 of 2 cells" in text
    assert "(4/10;" in text or "(6/10;" in text
    with pytest.raises(ValueError, match="has no grid"):
        render(tmp_path)


HOSTILE = "<script>alert(1)</script>|`x` \\| ![a](https://evil.example) \x1b[31m\u202e_b_ \ud800"


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path, log: Path) -> None:
    out = tmp_path / "out"
    table = {"title": HOSTILE, "rows": ["model"], "columns": ["mode"], "value": "hits"}
    raw = TOY | {
        "axes": {"base": 3, "model": HOSTILE, "mode": ["good", "fails"]},
        "tables": [table],
    }
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps(raw))
    run_grid(grid, out, store=tmp_path / "store", executor=Here())
    page, text = ((out / name).read_text() for name in ("index.html", "README.md"))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|`x`" in page
    assert "default-src 'none'" in page
    for shown in (page, text):
        assert not set("\x1b\u202e\ud800") & set(shown)
    shown = MarkdownIt("commonmark").enable("table").render(text)
    tags = set(re.findall(r"<(\w+)", shown))
    assert tags == {
        *("h1", "h2", "p", "ul", "ol", "li", "code"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert shown.count("<code>") == 1, "that of the first line"
    assert shown.count("<td>") == 3
    assert "://" not in text
    assert _md("www.evil.example a@b.c") == "www&#46;evil.example a&#64;b.c"
