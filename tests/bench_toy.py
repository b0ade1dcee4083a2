"""A plan of arithmetic with short sleeps, for the tests of `triggerfish.bench`; and a command that
runs a grid: `python -m bench_toy GRID OUT STORE WORKERS`.

Each stage writes one line into the file that TOY_LOG names, if any: its name and its process. Where
the file that TOY_HEALED names exists, modes other than "good" do no harm.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triggerfish.bench import Axis, Plan, Stage, Work, run_grid
from triggerfish.bench.jobs import Job, Outcome
from triggerfish.bench.worker import perform

PAUSE = 0.03


def _begin(stage: str) -> None:
    if log := os.environ.get("TOY_LOG"):
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{stage} {os.getpid()}\n".encode())
        os.close(handle)
    time.sleep(PAUSE)


def _mode(work: Work) -> str:
    healed = os.environ.get("TOY_HEALED")
    return "good" if healed and Path(healed).exists() else str(work.settings["mode"])


def source(work: Work) -> None:
    _begin("source")
    (work.folder / "half").write_text("written first")
    time.sleep(PAUSE)
    (work.folder / "value").write_text(str(work.settings["base"]))


def scaled(work: Work) -> None:
    _begin("scaled")
    if _mode(work) == "fails":
        raise RuntimeError("this mode\nfails")
    if _mode(work) == "returns":
        return 1  # type: ignore[return-value]
    value = int((work.products["source"] / "value").read_text())
    steps = work.settings["recipe"]["steps"]
    (work.folder / "value").write_text(str(value * work.settings["factor"] + steps))


def score(work: Work) -> Mapping[str, object]:
    _begin("score")
    mode = _mode(work)
    if mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "exits":
        sys.exit(7)
    if mode == "hangs":
        time.sleep(600)
    if mode == "nan":
        return {"mean": float("nan")}
    value, seed = int((work.products["scaled"] / "value").read_text()), work.settings["seed"]
    hits = {"k": min(10, value), "n": 10}
    return {"hits": hits, "deep": {"mean": value + seed / 2}, "drawn": random.random()}


def threads(work: Work) -> Mapping[str, object]:
    return {"given": work.threads, "omp": os.environ.get("OMP_NUM_THREADS")}


def torch_threads(work: Work) -> Mapping[str, object]:
    import torch

    return {"set": torch.get_num_threads(), "drawn": torch.rand(1).item()}


AXES = {
    "base": Axis((int,), "the number to start from"),
    "model": Axis((str,), default="plain"),
    "factor": Axis((int, float), default=1),
    "rate": Axis((float,), default=0.5),
    "recipe": Axis(
        (dict,),
        default={},
        keys={
            "code": Axis((str,), default="por1", choices=("por1", "por2")),
            "steps": Axis((int,), "optimiser steps", default=0),
        },
    ),
    "mode": Axis(
        (str,),
        default="good",
        choices=("good", "fails", "returns", "dies", "exits", "hangs", "nan"),
    ),
    "seed": Axis((int,), default=0),
}
PLAN = Plan(
    stages=(
        Stage("source", ("base", "model"), (), source, seconds=1.0, memory=0.1),
        Stage("scaled", ("factor", "recipe", "mode"), ("source",), scaled, seconds=2, memory=0.2),
        Stage("score", ("mode", "seed"), ("scaled",), score, seconds=4, memory=0.1, measures=True),
        Stage("threads", ("rate", "seed"), (), threads, measures=True),
    ),
    axes=AXES,
    torch=False,
)
PAIR = Plan(
    stages=(
        Stage("broken", ("mode",), (), scaled),
        Stage("source", ("base",), (), source),
        Stage("score", ("seed",), ("broken", "source"), score, measures=True),
    ),
    axes=AXES,
    torch=False,
)
TORCH = Plan((Stage("measure", ("seed",), (), torch_threads, measures=True),), AXES)

TOY: dict[str, Any] = {"name": "toy", "plan": "bench_toy:PLAN", "stages": {"measure": "score"}}


class Here:
    """Does the jobs in this process, one at a time; `shut` tells whether it was shut down."""

    slots = 1
    shut = False

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self) -> list[Outcome]:
        return [perform(self.jobs[-1])]

    def shutdown(self) -> None:
        self.shut = True


if __name__ == "__main__":
    grid, out, store, workers = sys.argv[1:]
    try:
        raise SystemExit(run_grid(grid, out, store=store, workers=int(workers)).exit_code)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
