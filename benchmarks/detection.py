"""Scan backdoored and clean models of eleven PLMs by every method. Each makes one record,
MODEL.METHOD, in `results/detection/cells.jsonl`.

    python benchmarks/zoo.py NAMES --data DATA --tokens 2000000   # the small PLMs, once
    python benchmarks/detection.py [--methods hybrid ...] [--only WORDS ...] [--make]

Models are made once (`runs/detection`), results that exist are kept, and both come in an order in
which what is left out last has a sibling that is not. `--make` makes the models alone. The tables
are rendered from the records.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from detecting.cell import METHODS, measured
from detecting.models import made
from detecting.plan import Model, plan
from detecting.tables import page
from triggerfish.bench.files import RecordFile
from triggerfish.writing import write_text

RESULTS = Path("results/detection")
CELLS = RecordFile(RESULTS / "cells.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--keep", type=Path, default=Path("runs/detection"))
    parser.add_argument("--methods", nargs="*", default=["hybrid"], choices=METHODS)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of models")
    parser.add_argument("--share", default="1/1", help="K/N: every Nth model from the Kth on")
    parser.add_argument("--make", action="store_true", help="make the models, scan none")
    options = parser.parse_args()
    first, step = map(int, options.share.split("/"))
    models = [m for m in plan() if all(part in m.name for part in options.only)]
    for model in models[first - 1 :: step]:
        if options.make:
            _, seconds = made(model, options.zoo, options.keep)
            print(f"{model.name}: {seconds} s", flush=True)
            continue
        for method in options.methods:
            one(model, method, options)
    CELLS.tidy()
    write_text(RESULTS / "README.md", page(CELLS.read().values(), plan()))


def one(model: Model, method: str, options: argparse.Namespace) -> None:
    name = f"{model.name}.{method}"
    if name in CELLS:
        return
    cell = measured(model, method, options.zoo, options.keep)
    CELLS.append(name, cell)
    planted = cell.get("planted", [])
    found = json.dumps([f["text"] for f in cell["findings"]], ensure_ascii=False)
    print(
        f"{model.name} {method}: {cell['verdict']} {sum(x['named'] for x in planted)} named, "
        f"{sum(x['guarded'] for x in planted)} guarded of {len(planted)}; {found[:100]}, "
        f"{len(cell['targets'])} targets; {cell['seconds']} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
