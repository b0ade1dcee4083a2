"""Guard fine-tuned models by what a scan found in their PLM, beside the published defences;
results in `results/monitor`.

    python benchmarks/monitor.py --data ../shared/data [--only downstream detectors evasion]
                                 [--plm NAME ...] [--task NAME ...] [--device auto] [--table]

Three parts, each a file of records, `PART.jsonl`; a record that exists is not measured again:

    downstream   every PLM x task: attack success and accuracy with and without each guard
    detectors    the monitor and the other detectors on one fine-tuned model: what each sees, false
                 alarms in thirteen domains, latency
    evasion      spellings of the triggers: caught? does the model react?

Backdoored PLMs come from the bench's store (`runs/bench`) or are planted; those in `runs/zoo` need
`python benchmarks/zoo.py --data DATA`. Scans and fine-tuned models are kept in `runs/monitor`.
`--table` renders the README from the records alone.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from monitoring import downstream, evasion
from monitoring.detectors import Bench
from monitoring.tables import render
from monitoring.victims import PLMS, Options, Victim
from triggerfish.bench.files import RecordFile
from triggerfish.text import Task, read_task
from triggerfish.writing import write_text

RESULTS = Path("results/monitor")
PARTS = ("downstream", "detectors", "evasion")
DEFAULT_PLMS = ("minilm-por1", "bundled-por1", "t5-por1", "gpt2-por1", "roberta-neuba")
DEFAULT_TASKS = ("sst2", "trec6", "clinc_domain", "ag_news", "enron_spam")


def environment(device: str) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": torch.get_num_threads(),
    }


def cell(
    part: str,
    victim: Victim,
    task: Task,
    out: Path,
    measure: Callable[[Victim, Task], dict[str, object]],
) -> None:
    records, name = RecordFile(out / f"{part}.jsonl"), f"{victim.plm.name}-{task.name}"
    if name in records:
        return
    started = time.monotonic()
    found = measure(victim, task)
    seconds = round(time.monotonic() - started, 1)
    where = environment(str(victim.backbone.device))
    records.append(name, found | {"seconds": seconds, "environment": where})
    print(f"{part}: {victim.plm.name}, {task.name}: {seconds:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data folder with tasks/ and corpora/")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--plm", nargs="+", choices=PLMS, default=DEFAULT_PLMS, metavar="NAME")
    parser.add_argument("--task", nargs="+", default=DEFAULT_TASKS, metavar="NAME")
    parser.add_argument("--rows", type=int, default=2000, help="training rows of a task at most")
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--texts", type=int, default=30, help="clean texts a domain, triggered texts a trigger"
    )
    parser.add_argument(
        "--vocabulary-only", action="store_true", help="scan without the list of words"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only render the README")
    asked = parser.parse_args()
    if not asked.table and asked.data is None:
        parser.error("--data: needed, unless --table is given")
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    if not asked.table:
        options = Options(
            asked.data,
            asked.seed,
            asked.rows,
            asked.test_rows,
            asked.epochs,
            asked.device,
            not asked.vocabulary_only,
        )
        tasks = [read_task(asked.data / "tasks" / name) for name in asked.task]
        victims = [Victim(PLMS[name], options) for name in asked.plm]
        # One PLM shows all detectors and all spellings; the claim is tested on every one.
        if "detectors" in asked.only:
            records = RecordFile(asked.out / "detectors.jsonl")
            Bench(victims[0], tasks[0], records, asked.texts).run()
        if "evasion" in asked.only:
            for victim in victims[:1]:
                cell("evasion", victim, tasks[0], asked.out, evasion.measure)
        if "downstream" in asked.only:
            for task in tasks:
                for victim in victims:
                    cell("downstream", victim, task, asked.out, downstream.measure)
        for part in asked.only:
            RecordFile(asked.out / f"{part}.jsonl").tidy()
    write_text(asked.out / "README.md", render(asked.out))


if __name__ == "__main__":
    main()
