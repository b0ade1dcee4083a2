"""Purify backdoored PLMs from what a scan found in them, and measure what is left; results in
`results/purify`.

    python benchmarks/purify.py --data ../shared/data [--only PART ...]
                                [--plm NAME ...] [--device auto] [--table]

Six parts, each a file of records, `PART.jsonl`; a record that exists is not measured again:

    grid        every PLM: scan, purify from what was found until a scan is clean, probes
    original    a few PLMs once more, with the clean original at hand
    baselines   every method on a few PLMs
    partial     only some of the planted triggers are known, with and without negatives
    again       an attacker poisons 1 % of a task: is the purified PLM easier to backdoor?
    tuning      all weights fine-tuned: clean, backdoored, purified, and with triggered copies

Backdoored PLMs come from the bench's store (`runs/bench`) or are planted; those in `runs/zoo` need
`python benchmarks/zoo.py --data DATA`. Scans, purified PLMs and sheets of predictions are kept in
`runs/purify`. `--table` renders the README and the figures from the records alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from monitor import environment
from monitoring.victims import Options
from purifying import grid, tuning
from purifying.models import EIGHT, ORDER, Victim
from purifying.sheets import Prober
from purifying.tables import render
from triggerfish.bench.files import RecordFile
from triggerfish.purify import METHODS

RESULTS = Path("results/purify")
PARTS = ("grid", "original", "baselines", "partial", "again", "tuning")
TASKS = ("sst2", "trec6", "clinc_domain", "ag_news", "subj")
FEW = TASKS[:2]
ORIGINAL_PLMS = ("bert-btop", "minilm-por1", "roberta-neuba", "bundled-por1")
BASELINE_PLMS = ("bundled-por1", "gpt2-neuba")
PARTIAL_PLM = AGAIN_PLM = "bundled-por1"
TUNED_PLMS = ("bundled-por1", "distilbert-uor", "gpt2-por1", "t5-por1")


def cell(records: RecordFile, name: str, device: str, measure: Callable[[], Any]) -> None:
    if name in records:
        return
    started, used = time.monotonic(), time.process_time()
    found = measure()
    seconds = {
        "seconds": round(time.monotonic() - started, 1),
        "process_seconds": round(time.process_time() - used, 1),
    }
    records.append(name, found | seconds | {"environment": environment(device)})
    print(f"{records.path.stem}/{name}: {seconds}", flush=True)


class Plan:
    """What is measured, in which order."""

    def __init__(self, asked: argparse.Namespace):
        self.out: Path = asked.out
        self.asked = asked
        self.prober = Prober(asked.data, TASKS, asked.seed)
        self.options = Options(asked.data, asked.seed, 0, 0, 0, asked.device, True)

    def victim(self, name: str) -> Victim:
        return Victim(name, self.options)

    def run(self) -> None:
        for part in self.asked.only:
            getattr(self, part)()
            self._records(part).tidy()

    def _cell(self, part: str, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        cell(self._records(part), name, self.asked.device, measure)

    def _records(self, part: str) -> RecordFile:
        return RecordFile(self.out / f"{part}.jsonl")

    def grid(self) -> None:
        for name in self.asked.plm or ORDER:
            victim = self.victim(name)
            self._cell("grid", name, lambda v=victim: grid.cell(v, self.prober))

    def original(self) -> None:
        for name in self.asked.plm or ORIGINAL_PLMS:
            victim = self.victim(name)
            self._cell("original", name, lambda v=victim: grid.cell(v, self.prober, original=True))

    def baselines(self) -> None:
        for plm in self.asked.plm or BASELINE_PLMS:
            victim = self.victim(plm)
            for method in METHODS:
                self._cell(
                    "baselines",
                    f"{plm}-{method}",
                    lambda v=victim, m=method: grid.baseline(v, self.prober, m, FEW),
                )

    def partial(self) -> None:
        victim = Victim(PARTIAL_PLM, self.options, EIGHT)
        for draw, known, negatives in product(range(3), (6, 4, 2), (True, False)):
            kind = "with" if negatives else "without"
            self._cell(
                "partial",
                f"{victim.name}-{known}-{kind}-{draw}",
                lambda k=known, d=draw, n=negatives: grid.partial(
                    victim, self.prober, k, d, n, FEW
                ),
            )

    def again(self) -> None:
        for name, measure in tuning.again_all(self.victim(AGAIN_PLM), self.prober):
            self._cell("again", name, measure)

    def tuning(self) -> None:
        for task in TASKS:
            for plm in self.asked.plm or (TUNED_PLMS if task in FEW else TUNED_PLMS[:1]):
                victim = self.victim(plm)
                if not (grid.RUNS / "models" / plm).is_dir():
                    print(f"tuning/{plm}-{task}: not purified yet", flush=True)
                    continue
                self._cell(
                    "tuning",
                    f"{plm}-{task}",
                    lambda v=victim, t=task: tuning.fine_tuned(v, self.prober, t),
                )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data folder with tasks/")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--plm", nargs="+", choices=ORDER, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only render the README and figures")
    asked = parser.parse_args()
    if not asked.table and asked.data is None:
        parser.error("--data: needed, unless --table is given")
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not asked.table:
        Plan(asked).run()
    render(asked.out)


if __name__ == "__main__":
    main()
