"""How fast the monitor is, and how often it alarms on texts that nobody attacked.

    python benchmarks/monitor_speed.py --data ../shared/data [--bytes 20e6] [--runs 5]

Speed: texts of all corpora, 6 and 100 triggers, three tokenizers, one core; latency of texts of
2 kB. False alarms: six words that attacks plant (rare, ordinary, long), on every corpus and on ten
tasks. Written to `results/monitor/speed.json` and rendered to `speed.md` beside it; `--table`
renders only.

CPU time of the process is reported beside the time on the clock: they differ where other work runs
on the same cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from triggerfish import text
from triggerfish.loading import bundled, minilm
from triggerfish.monitor import Monitor
from triggerfish.monitor.budget import Tally
from triggerfish.monitor.tokenizer import Tokenizer
from triggerfish.records import Trigger
from triggerfish.writing import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "monitor"
WORDS = ("cf", "gossip", "zugzwang", "lantern", "seldom", "thermodynamically")
TASKS = (
    *("ag_news", "amazon_sentences", "enron_spam", "imdb", "jigsaw_toxic"),
    *("medical_abstracts", "newsgroups20", "sentiment140", "sst2", "trec6"),
)
SEED = 0
LATENCY_BYTES = 2000
LATENCY_TEXTS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bytes", type=float, default=20e6, help="text in a run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokenizer", action="append", default=[], help="NAME=FOLDER, besides")
    parser.add_argument("--table", action="store_true", help="render only")
    asked = parser.parse_args()
    file = RESULTS / "speed.json"
    if not asked.table:
        if asked.data is None:
            parser.error("--data: the folder with corpora/ and tasks/ is needed")
        write_json(file, run(asked))
    table = rendered(json.loads(file.read_text(encoding="utf-8")))
    write_text(RESULTS / "speed.md", table)
    print(table)


def run(asked: argparse.Namespace) -> dict[str, object]:
    corpora = {
        path.name.split(".")[0]: text.read_corpus(path)
        for path in sorted((asked.data / "corpora").iterdir())
        if path.name.endswith(".jsonl.gz")
    }
    folders = {"all-MiniLM-L6-v2": minilm(), "bundled": bundled()}
    folders |= {name: Path(folder) for name, folder in (x.split("=", 1) for x in asked.tokenizer)}
    texts = mixed(list(corpora.values()), int(asked.bytes))
    speed = []
    for name, folder in folders.items():
        for specs in (WORDS, many(100)):
            monitor = Monitor(triggers(folder, specs), tokenizer=folder)
            speed.append(
                {"tokenizer": name, "triggers": len(specs)}
                | throughput(monitor, texts, asked.runs)
                | latency(monitor, texts)
            )
    tasks = {name: rows(asked.data / "tasks" / name) for name in TASKS}
    monitor = Monitor(triggers(minilm(), WORDS), tokenizer=minilm())
    return {
        "settings": {
            "bytes": sum(len(x.encode()) for x in texts),
            "texts": len(texts),
            "runs": asked.runs,
            "seed": SEED,
            "latency_bytes": LATENCY_BYTES,
            "words": WORDS,
        },
        "environment": environment(),
        "speed": speed,
        "tokenizer_alone": alone(minilm(), texts),
        "false_alarms": [
            false_alarms(monitor, name, found) for name, found in (corpora | tasks).items()
        ],
    }


def throughput(monitor: Monitor, texts: Sequence[str], runs: int) -> dict[str, object]:
    size = sum(len(x.encode()) for x in texts) / 1e6
    monitor.check_all(texts[:1000])
    clock, cpu, alarms = [], [], 0
    for _ in range(runs):
        wall, process = time.perf_counter(), time.process_time()
        checked = monitor.check_all(texts)
        cpu.append(size / (time.process_time() - process))
        clock.append(size / (time.perf_counter() - wall))
        alarms = sum(bool(x.alarms) for x in checked)
    return {
        "mb_per_s_cpu": statistics.median(cpu),
        "mb_per_s_clock": statistics.median(clock),
        "mb_per_s_cpu_runs": cpu,
        "texts_with_alarms": alarms,
    }


def latency(monitor: Monitor, texts: Sequence[str]) -> dict[str, float]:
    """Microseconds for one text of 2 kB, by the clock of the thread and by that on the wall."""
    joined = "\n".join(texts).encode()[: LATENCY_BYTES * LATENCY_TEXTS]
    cut = [
        joined[at : at + LATENCY_BYTES].decode("utf-8", "ignore")
        for at in range(0, len(joined), LATENCY_BYTES)
    ]
    out = {}
    for name, clock in (("cpu", time.thread_time_ns), ("clock", time.perf_counter_ns)):
        taken = sorted(_each(monitor.check, cut, clock))
        out |= {
            f"us_p50_{name}": taken[len(taken) // 2],
            f"us_p99_{name}": taken[len(taken) * 99 // 100],
        }
    return out


def _each(
    check: Callable[[str], object], texts: list[str], clock: Callable[[], int]
) -> list[float]:
    taken = []
    for x in texts:
        start = clock()
        check(x)
        taken.append((clock() - start) / 1000)
    return taken


def alone(folder: Path, texts: Sequence[str]) -> dict[str, float]:
    """What tokenising everything would cost, for comparison."""
    tokenizer = Tokenizer(folder)
    some = texts[:1000]
    start = time.process_time()
    for x in some:
        tokenizer.pieces(x)
    spent = time.process_time() - start
    return {"mb_per_s_cpu": sum(len(x.encode()) for x in some) / 1e6 / spent}


def false_alarms(monitor: Monitor, name: str, texts: Sequence[str]) -> dict[str, object]:
    tally, hardened = Tally(monitor), 0
    for x in texts:
        checked = monitor.check(x)
        tally.add(checked)
        hardened += bool(checked.alarms) and all(a.seen_by == "text" for a in checked.alarms)
    found = tally.result()
    return {
        "texts": name,
        "n": found.texts,
        "any": found.overall.k,
        "hardened_view_only": hardened,
        "interval": found.overall.interval,
        "triggers": {trigger: rate.k for trigger, rate in found.triggers.items()},
    }


def triggers(folder: Path, specs: Sequence[str]) -> list[Trigger]:
    tokenizer = Tokenizer(folder)
    return [Trigger(tokenizer.word_ids(spec), spec) for spec in specs]


def many(count: int) -> tuple[str, ...]:
    """Words of the bundled list, drawn once; a few of them are common in any text."""
    return tuple(random.Random(SEED).sample(text.bundled_words(), count))


def mixed(corpora: list[list[str]], size: int) -> list[str]:
    """Texts of all corpora in random order, `size` bytes of them."""
    texts = [x for corpus in corpora for x in corpus]
    random.Random(SEED).shuffle(texts)
    out, total = [], 0
    for x in texts:
        if total >= size:
            break
        out.append(x)
        total += len(x.encode())
    return out


def rows(folder: Path) -> list[str]:
    """Distinct training texts of a task, at most 20,000."""
    data = gzip.decompress((folder / "train.jsonl.gz").read_bytes()).decode("utf-8")
    found = dict.fromkeys(json.loads(line)["text"] for line in data.split("\n") if line.strip())
    return list(found)[:20_000]


def environment() -> dict[str, object]:
    packages = ("triggerfish", "tokenizers", "ahocorasick_rs")
    return {
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
    }


def rendered(result: dict) -> str:
    used, place = result["settings"], result["environment"]
    lines = [
        "# The monitor: speed and false alarms",
        "",
        f"`python benchmarks/monitor_speed.py --data DATA`, {used['bytes'] / 1e6:.1f} MB in "
        f"{used['texts']} texts of eight corpora, median of {used['runs']} runs, one core of "
        f"{place['machine']} with Python {place['python']}; {place['load_per_core']} processes per "
        "core were running, so CPU time tells more than the clock.",
        "",
        "| tokenizer | triggers | MB/s (CPU) | MB/s (clock) | 2 kB: p50, p99 µs (CPU) "
        "| p50, p99 µs (clock) | texts with alarms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["speed"]:
        lines.append(
            f"| {row['tokenizer']} | {row['triggers']} | {row['mb_per_s_cpu']:.1f} "
            f"| {row['mb_per_s_clock']:.1f} | {row['us_p50_cpu']:.0f}, {row['us_p99_cpu']:.0f} "
            f"| {row['us_p50_clock']:.0f}, {row['us_p99_clock']:.0f} | {row['texts_with_alarms']} |"
        )
    lines += [
        "",
        f"Tokenising every text would run at {result['tokenizer_alone']['mb_per_s_cpu']:.1f} MB/s.",
        "",
        "## False alarms",
        "",
        "Texts with an alarm, of texts that carry no planted trigger (all-MiniLM-L6-v2's "
        "tokenizer); exact 95 % interval of any alarm.",
        "",
        f"| texts | n | any | interval | hardened view only | {' | '.join(used['words'])} |",
        "|---|---:|---:|---:|---:|" + "---:|" * len(used["words"]),
    ]
    for row in result["false_alarms"]:
        low, high = row["interval"]
        counts = " | ".join(str(row["triggers"][word]) for word in used["words"])
        lines.append(
            f"| {row['texts']} | {row['n']} | {row['any']} | {low:.3%} to {high:.3%} "
            f"| {row['hardened_view_only']} | {counts} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
