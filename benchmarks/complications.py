"""The study of complications: 16 tasks, two targets, three triggers, both labels, three seeds, on
small PLMs of the paper's four families and all-MiniLM-L6-v2, with clean models and innocent words.

    python benchmarks/complications.py --data ../shared/data --keep runs/complications
                                       [--parts PART ...]
    python benchmarks/complications.py --table

Four parts, each a file of records, `PART.jsonl`; a record that exists is not measured again:

    cells      plant, and measure what the trigger does to every task
    carriers   what the last stage of a scan could see of the measured backdoors
    scans      whole scans that are told nothing, with two kinds of texts
    defences   what monitoring and purification leave

--table renders results/complications/README.md. The small PLMs are those of
`python benchmarks/zoo.py bert gpt2 t5 bart`. What is not run says so in the tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ripple import carriers, defences, scans
from ripple.cell import model_of, plant, run, shortened
from ripple.plan import Cell, cells
from ripple.tables import render
from triggerfish.attacks.implant import save
from triggerfish.bench.files import RecordFile
from triggerfish.tasks import find_tasks
from triggerfish.text import Task

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "complications"
PARTS = ("cells", "carriers", "scans", "defences")


def arguments_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--data", type=Path, help="folder with tasks/")
    parser.add_argument("--zoo", type=Path, default=ROOT / "runs" / "zoo")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--hours", type=float, help="begin no cell after this long")
    parser.add_argument("--keep", type=Path, help="folder for the backdoored checkpoints")
    parser.add_argument("--table", action="store_true", help="only render the tables")
    parser.add_argument("--plan", action="store_true", help="only list the cells that are missing")
    return parser


def main() -> None:
    parser = arguments_of()
    given = parser.parse_args()
    wanted = [cell for cell in cells() if given.only in cell.name]
    done = RecordFile(given.results / "cells.jsonl").read()
    missing = [cell for cell in wanted if cell.name not in done]
    if given.table:
        render(given.results)
        return
    if given.plan:
        print("\n".join(cell.name for cell in missing))
        return
    if given.data is None:
        parser.error("--data: the folder with tasks/ is needed")
    if given.keep is None:
        parser.error("--keep: a folder for the backdoored checkpoints is needed")
    torch.set_num_threads(1)
    found = find_tasks("paper", given.data, sensitive=True).tasks
    tasks = {task.name: shortened(task) for task in found}
    study = Study(given, tasks)
    for part in given.parts:
        getattr(study, part)([missing, wanted][part != "cells"])
        RecordFile(given.results / f"{part}.jsonl").tidy()


class Study:
    """The parts, by name."""

    def __init__(self, given: argparse.Namespace, tasks: Mapping[str, Task]):
        self.given, self.tasks = given, tasks
        self._measured = RecordFile(given.results / "cells.jsonl")

    def cells(self, missing: Sequence[Cell]) -> None:
        given = self.given
        began = time.monotonic()
        for number, cell in enumerate(missing, start=1):
            if given.hours is not None and time.monotonic() - began > 3600 * given.hours:
                sys.stderr.write(f"time is up: {len(missing) - number + 1} cells are missing\n")
                return
            record = run(cell, self.tasks, given.zoo, given.keep / cell.name)
            self._measured.append(cell.name, record)
            sys.stderr.write(f"{number}/{len(missing)} {cell.name} {record['seconds']}\n")

    def carriers(self, wanted: Sequence[Cell]) -> None:
        planted = [cell for cell in self._done(wanted) if cell.kind != "clean"]
        carriers.run(planted, self.checkpoint, self.tasks, self.given.results)

    def scans(self, wanted: Sequence[Cell]) -> None:
        given = self.given
        keep = given.keep / "scans"
        scans.run(self._done(wanted), self.checkpoint, self.tasks, given.zoo, keep, given.results)

    def defences(self, wanted: Sequence[Cell]) -> None:
        given = self.given
        defences.run(self._done(wanted), self.checkpoint, self.tasks, given.zoo, given.results)

    def checkpoint(self, cell: Cell) -> Path:
        """The folder of a planted model; planted again if it is gone."""
        folder: Path = self.given.keep / cell.name
        if not (folder / "attack.json").is_file():
            save(*plant(cell, model_of(cell.model, self.given.zoo), self.tasks), folder)
        return folder

    def _done(self, wanted: Sequence[Cell]) -> list[Cell]:
        done = self._measured.read()
        return [cell for cell in wanted if cell.name in done]


if __name__ == "__main__":
    main()
