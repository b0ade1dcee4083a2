"""Interrupts and full disks at random moments: the same command again gives the same result.

    python tests/hostile/interrupts.py [--moments 20] [--full 10] [--only scan,monitor]

Each command runs once without a disturbance; then again and again in a new folder, disturbed at a
random moment by SIGKILL, SIGINT or SIGTERM in turn, or by a disk (tmpfs, so it needs root) that is
full from that moment on, and once more without. Prints a table; exit code 1 where a result differs,
an exit code is not 130, 143 or 2, or a traceback was shown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
CODES = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
DISK = "16m"
NAMED = "school"
"""A planted word of the tiny model."""
EXPECTED = ("disturbed", "ended before")
CHANGING = {"seconds", "checking_seconds", "provenance", "started", "runs", "environment", "out"}
QUICK = ("characters=false", "rewrites=false", "predictions=false", "second_candidates=300",
         "text_candidates=60", "controls=80", "screen_texts=8", "holdout_texts=16",
         "clean_texts=60", "holdout_candidates=4")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """arguments: of the command; OUT stands for the folder of a run. result: what must be the same,
    of that folder."""

    arguments: tuple[str, ...]
    result: Callable[[Path], Any]


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in CHANGING}
    return [without_times(x) for x in value] if isinstance(value, list) else value


def json_of(name: str, out: Path) -> Any:
    return without_times(json.loads((out / name).read_text()))


def rows(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("passed.jsonl", "rejected.jsonl")]


def cells(out: Path) -> list[Any]:
    lines = (out / "grid" / "cells.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


def checkpoint(out: Path) -> Any:
    folder = out / "purified"
    weights = sorted((x.name, x.read_bytes()) for x in folder.glob("*.safetensors"))
    return sorted(os.listdir(folder)), weights, json_of("purified/scan.json", out)["findings"]


def cases(folder: Path) -> dict[str, Case]:
    """The commands, and in `folder` what they read."""
    from golden import models
    from triggerfish import text
    from triggerfish.marking import parse_trigger
    from triggerfish.records import Coverage, Finding
    from triggerfish.scanner.result import bare_result

    model = shutil.copytree(models.FOLDER / "tiny-bert", folder / "model")
    shutil.copy(models.FOLDER / "tiny-bert-por1.safetensors", model / "model.safetensors")
    (folder / "corpus.txt").write_text("\n".join(models.texts()))
    (folder / "words.txt").write_text("walnut\n")
    backbone = models.load(model, device="cpu")
    finding = Finding(parse_trigger(backbone, NAMED), "first", {}, None, None)
    bare_result(
        backbone,
        verdict="backdoored",
        reasons=[],
        coverage=Coverage(0, 0, 0, (), 0),
        candidates=0,
        settings={},
        seconds=0.0,
        forward_tokens=0,
        findings=[finding],
    ).save(folder / "scan.json")
    plain = [x[:200] for x in text.bundled_corpus()[:400]]
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(20_000):
            words = plain[number % len(plain)] + (f" {NAMED}" if number % 50 == 0 else "")
            file.write(json.dumps({"text": words, "id": number}) + "\n")
    (folder / "grid.yaml").write_text(
        "name: toy\nplan: bench_toy:PLAN\nstages: {measure: threads}\n"
        "axes: {rate: [0.1, 0.2, 0.3, 0.4], seed: [0, 1, 2, 3, 4, 5, 6, 7]}\n"
    )
    settings = [x for setting in QUICK for x in ("--set", setting)]
    texts = ["--corpus", str(folder / "corpus.txt"), "--words", str(folder / "words.txt")]
    scanned = ["--findings", str(folder / "scan.json")]
    return {
        "monitor": Case(
            ("monitor", str(folder / "rows.jsonl"), *scanned, "--out", "OUT/passed.jsonl",
             "--rejected", "OUT/rejected.jsonl"),
            rows,
        ),
        "bench": Case(
            ("bench", str(folder / "grid.yaml"), "--out", "OUT/grid", "--store", "OUT/store",
             "--workers", "1"),
            cells,
        ),
        "scan": Case(
            ("scan", str(model), *texts, "--method", "screening", *settings, "--format", "json",
             "--out", "OUT/scan.json", "--html", "OUT/page.html", "--state", "OUT/state"),
            partial(json_of, "scan.json"),
        ),
        "purify": Case(
            ("purify", str(model), *scanned, *texts, "--out", "OUT/purified", "--rounds", "1",
             "--set", "steps=3", "--set", "batch=4", "--set", "words=6"),
            checkpoint,
        ),
    }  # fmt: skip


def start(case: Case, out: Path) -> subprocess.Popen[str]:
    given = [x.replace("OUT", str(out)) for x in case.arguments]
    return subprocess.Popen(
        [sys.executable, "-m", "triggerfish", *given],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS}", "HF_HUB_OFFLINE": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate(timeout=1200)[1]
    return process.returncode, said


def disturbed_by_signal(case: Case, out: Path, moment: float, number: int) -> tuple[int, str]:
    process = start(case, out)
    time.sleep(moment)
    process.send_signal(number)
    return finish(process)


def disturbed_by_full_disk(case: Case, out: Path, moment: float) -> tuple[int, str]:
    process = start(case, out)
    time.sleep(moment)
    ballast = out / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
    ended = finish(process)
    ballast.unlink()
    return ended


def problem(case: Case, code: int, said: str, allowed: set[int], out: Path, expected: Any) -> str:
    """What is wrong after a disturbed run, and after the run that follows it; "" if nothing."""
    if "Traceback" in said:
        return "traceback"
    if code not in allowed:
        return f"exit code {code}"
    code, said = finish(start(case, out))
    if code not in (0, 1, 3) or "Traceback" in said:
        return f"the next run: {code} {said.strip().splitlines()[-1:]}"
    if left := [x.name for x in out.rglob(".*.partial")]:
        return f"left: {left}"
    return "" if case.result(out) == expected else "another result"


def tried(
    name: str, case: Case, moments: int, full: int, work: Path, rng: random.Random
) -> list[tuple[str, Counter[str]]]:
    began = time.monotonic()
    (work / name).mkdir()
    code, said = finish(start(case, work / name))
    assert code in (0, 1, 3), said
    usual, expected = time.monotonic() - began, case.result(work / name)
    found: dict[str, Counter[str]] = {}
    for count in range(moments + full):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            out, moment = Path(folder), rng.uniform(0.3, usual)
            if count < moments:
                number = SIGNALS[count % len(SIGNALS)]
                kind, allowed = number.name, {CODES[number], 0, 1, 3}
                ended = disturbed_by_signal(case, out, moment, number)
                wrong = problem(case, *ended, allowed, out, expected)
            else:
                kind, allowed = "full disk", {2, 0, 1, 3}
                mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(out)]
                subprocess.run(mount, check=True)
                try:
                    ended = disturbed_by_full_disk(case, out, moment)
                    wrong = problem(case, *ended, allowed, out, expected)
                finally:
                    subprocess.run(["umount", "-l", str(out)], check=True)
            ended_as = "ended before" if ended[0] in (0, 1, 3) else "disturbed"
            found.setdefault(kind, Counter())[wrong or ended_as] += 1
            print(f"{name}, {kind} after {moment:.1f} s of {usual:.1f}: {wrong or 'as expected'}")
    return list(found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="signals for each command")
    parser.add_argument("--full", type=int, default=10, help="full disks for each command")
    parser.add_argument("--only", default="", help="names of commands, with commas")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "in").mkdir()
        known = cases(work / "in")
        lines, failed = [], 0
        for name in asked.only.split(",") if asked.only else known:
            rng = random.Random(f"{asked.seed}/{name}")
            for kind, ends in tried(name, known[name], asked.moments, asked.full, work, rng):
                good = ends["disturbed"] + ends["ended before"]
                wrong = {end: n for end, n in ends.items() if end not in EXPECTED}
                failed += sum(wrong.values())
                lines.append(
                    f"| {name} | {kind} | {ends.total()} | {ends['disturbed']} | {good} | "
                    f"{', '.join(wrong) or '-'} |"
                )
    print("| command | disturbance | runs | stopped by it | same result after | problems |")
    print("|---|---|---:|---:|---:|---|")
    print("\n".join(lines))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
