"""CPU seconds of what a user types first, in each precision, and in another checkout:

    python benchmarks/precision.py [--before CHECKOUT] [--commands scan,attack,demo]

Each command runs in a process of its own, on one thread, with an empty cache; those of a row follow
each other directly. `--before` also runs the commands of a checkout that has no `--precision`. Rows
"without bf16" ask oneDNN to leave the bf16 instructions of the processor alone, which makes it a
processor without them. Writes results/precision; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from triggerfish.bench.files import Record, RecordFile

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "results" / "precision"
WITHOUT = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
COMMANDS = {
    "scan": ["scan", "bundled", "--effort", "quick"],
    "attack": ["attack", "por", "bundled", "--trigger", "cf", "--steps", "60", "--out", "planted"],
    "demo": ["demo"],
}
CODES = {0, 1, 3}
PRECISIONS = ("before", "bf16", "fp32", "auto")


def measure(command: str, precision: str, bf16: bool, before: Path | None) -> Record:
    checkout = before if precision == "before" else ROOT
    fixed = [] if precision == "before" else ["--precision", precision]
    run = [sys.executable, "-c", "from triggerfish.cli import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": f"{checkout}/src",
            "XDG_CACHE_HOME": f"{folder}/cache",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **({} if bf16 else WITHOUT),
        }
        began, spent = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*run, *COMMANDS[command], *fixed],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in CODES:
        raise SystemExit(f"{command} ({precision}) ended with {done.returncode}: {done.stderr}")
    return {
        "command": command,
        "precision": precision,
        "bf16_instructions": bf16,
        "cpu_seconds": round(after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime, 1),
        "wall_seconds": round(time.monotonic() - began, 1),
        "exit_code": done.returncode,
    }


def page(rows: list[Record]) -> str:
    found = {(r["command"], r["bf16_instructions"], r["precision"]): r for r in rows}
    lines = [
        "# Precision and time",
        "",
        "CPU seconds of whole commands on one thread, start of Python included. Each line was",
        "measured in one run. *Before* is the version that used bf16 on every processor. Without",
        "bf16 instructions means that oneDNN was asked not to use those of the same processor. A",
        "dash was not measured. Command: `python benchmarks/precision.py --before CHECKOUT`.",
        "",
        f"Processor: {processor()}.",
        "",
        "| command | bf16 instructions | before | `bf16` | `fp32` | `auto` |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for command, words in COMMANDS.items():
        for bf16 in (True, False):
            cells = [found.get((command, bf16, name)) for name in PRECISIONS]
            if any(cells):
                said = " | ".join(f"{one['cpu_seconds']:.0f}" if one else "-" for one in cells)
                lines.append(f"| `{' '.join(words)}` | {'yes' if bf16 else 'no'} | {said} |")
    return "\n".join([*lines, ""])


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="checkout of the earlier version")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--only-without", action="store_true", help="only rows without bf16")
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    records = RecordFile(OUT / "timings.jsonl")
    for command in given.commands.split(","):
        for bf16 in (False,) if given.only_without else (True, False):
            for precision in given.precisions.split(","):
                key = f"{command} {precision} {'with' if bf16 else 'without'}"
                if key in records or (precision == "before" and given.before is None):
                    continue
                row = measure(command, precision, bf16, given.before)
                print(json.dumps(row), flush=True)
                records.append(key, row)
    (OUT / "README.md").write_text(page([*records.read().values()]), encoding="utf-8")


if __name__ == "__main__":
    main()
