"""Run the smoke grid undisturbed, again, and killed at random moments; compare the cells.

    python benchmarks/resume.py [--kills 5] [--seed N]

Each of the three runs has a store of its own. The third is ended by SIGKILL, SIGTERM and SIGINT in
turn and started again, each time at a random moment of what the first run took, until it has been
killed as often as asked; then it may finish. `results/smoke` gets the first run's cells and tables,
`results/smoke/resume.json` the comparison.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from triggerfish.bench.files import RecordFile
from triggerfish.writing import write_json

GRID = Path("benchmarks/grids/smoke.yaml")
RUNS, RESULTS = Path("runs/resume"), Path("results/smoke")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "triggerfish", "bench", str(GRID)]
    where = ["--out", str(RUNS / name / "out"), "--store", str(RUNS / name / "store")]
    return subprocess.Popen([*command, *where], stderr=subprocess.DEVNULL)


def cells(name: str) -> dict[str, Any]:
    """Every cell by its hash, without what may differ: seconds."""
    found = RecordFile(RUNS / name / "out" / "cells.jsonl").read()
    for cell in found.values():
        del cell["seconds"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    shutil.rmtree(RUNS, ignore_errors=True)
    started = time.monotonic()
    for name in ("first", "second"):
        if start(name).wait() != 0:
            raise SystemExit(f"the {name} run failed")
    whole = (time.monotonic() - started) / 2
    kills = []
    while len(kills) < options.kills:
        run, moment = start("killed"), rng.uniform(0.05, 0.6) * whole
        number = SIGNALS[len(kills) % len(SIGNALS)]
        try:
            run.wait(moment)
            raise SystemExit("the run finished before it was killed often enough; try a new seed")
        except subprocess.TimeoutExpired:
            run.send_signal(number)
            run.wait()
        kills.append({"signal": number.name, "after_seconds": round(moment, 1)})
        print(f"killed by {number.name} after {moment:.1f} s", flush=True)
    if start("killed").wait() != 0:
        raise SystemExit("the resumed run failed")
    first, second, killed = (cells(name) for name in ("first", "second", "killed"))
    record = {
        "cells": len(first),
        "again_identical": first == second,
        "resumed_identical": first == killed,
        "kills": kills,
        "seconds_undisturbed": round(whole, 1),
    }
    shutil.rmtree(RESULTS, ignore_errors=True)
    shutil.copytree(RUNS / "first" / "out", RESULTS)
    write_json(RESULTS / "resume.json", record)
    print(json.dumps(record, indent=1))
    raise SystemExit(0 if record["again_identical"] and record["resumed_identical"] else 1)


if __name__ == "__main__":
    main()
