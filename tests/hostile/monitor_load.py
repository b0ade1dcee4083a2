"""Texts and findings that are made to hurt the monitor: CPU seconds by size.

    python tests/hostile/monitor_load.py [--characters 1000000] [--findings 100000]

Each text is checked at four sizes, each four times as large as the one before; each number of
findings is loaded from a scan.json, and texts are checked with them. What is linear grows by four
(or ten) from column to column.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from monitor_samples import tokenizer, tokenizer_file, word
from report_samples import a_finding, a_result
from triggerfish.monitor import Monitor
from triggerfish.records import ScanResult, Trigger

Subsets = dict[Trigger, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Case:
    """specs: triggers; subset: places of the tokens that are enough of each, or none; text: of so
    many characters."""

    specs: tuple[str, ...]
    text: Callable[[int], str]
    subset: tuple[int, ...] = ()
    tokenizer: str | None = "bundled"

    def monitor(self) -> Monitor:
        triggers = [word(self.tokenizer or "bundled", spec) for spec in self.specs]
        file = tokenizer_file(self.tokenizer) if self.tokenizer else None
        subsets: Subsets = {
            t: [tuple(t.token_ids[i] for i in self.subset if i < len(t.token_ids))]
            for t in triggers
            if self.subset
        }
        return Monitor(triggers, tokenizer=file, policy="strip", cores=subsets)


def again(part: str) -> Callable[[int], str]:
    return lambda size: (part * (size // len(part) + 1))[:size]


def prefixes(trigger: str, between: str) -> Callable[[int], str]:
    return again(between.join(trigger[:end] for end in range(1, len(trigger) + 1)) + between)


ONE_LETTER = "a" * 20 + "b"
PREFIXES = tuple("a" * length for length in range(1, 21))
CASES: dict[str, Case] = {
    "one letter, its run a trigger": Case((ONE_LETTER,), again("a")),
    "one letter, its pieces a subset": Case(("aaaaab",), again("a"), (1, 2, 3, 4, -1)),
    "one letter, all its prefixes triggers": Case(PREFIXES, again("a")),
    "the same without a tokenizer": Case(PREFIXES, again("a"), tokenizer=None),
    "the same as byte-level BPE": Case(PREFIXES, again("a"), (0, 1), "bytes"),
    "every prefix of a trigger": Case(
        ("thermodynamically",), prefixes("thermodynamically", " "), (0, 2)
    ),
    "every prefix, joined": Case(("thermodynamically",), prefixes("thermodynamically", "")),
    "a phrase of one word, never ended": Case((" ".join([*"a" * 20, "b"]),), again("a ")),
    "the same, ended": Case((" ".join([*"a" * 20, "b"]),), again("a a a a a a b ")),
    "the same without a tokenizer, joined": Case(
        (" ".join([*"a" * 20, "b"]),), again("a" * 19 + "b"), tokenizer=None
    ),
    "nothing but triggers": Case(("cf", "zugzwang"), again("cf zugzwang ")),
    "no space, hits everywhere": Case(("cf",), again("cf.")),
    "no space, a subset everywhere": Case(("zugzwang",), again("wang."), (-1,)),
    "one word, a subset everywhere": Case(("zugzwang",), again("wang"), (-1,), "bytes"),
    "phrase subsets everywhere": Case(("zugzwang lantern",), again("wang lantern "), (-2, -1)),
    "open phrases that stripping joins": Case(("strange brew",), again("strange strange ")),
    "punctuation": Case(("-- cf",), again("-")),
    "spaces": Case(("cf",), again("cf" + " " * 997)),
    "invisible characters": Case(("cf",), again("c\u200b\u0301f")),
    "ampersands": Case(("cf",), again("&#99;&")),
    "unlike the view": Case(("cf",), again("\ua7ce\ua7d2 cf ")),
}


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def growth(case: Case, sizes: Sequence[int]) -> list[float]:
    """CPU seconds of one check at each size."""
    monitor = case.monitor()
    monitor.check(case.text(1000))
    texts = [case.text(size) for size in sizes]
    return [seconds(lambda text=text: monitor.check(text)) for text in texts]  # type: ignore[misc]


def many_findings(count: int, path: Path) -> Path:
    """A scan.json with words, phrases with a word in common, and subsets."""
    rng = random.Random(0)
    core = tokenizer("bundled")
    names: dict[str, None] = {}
    while len(names) < count:
        made = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9)))
        names[f"trigger {made}" if len(names) % 4 == 0 else made] = None
    found = []
    sample = a_finding("cf", core.word_ids("cf"), rng)
    for name in names:
        trigger = word("bundled", name)
        subset = tuple(trigger.token_ids[-2:]) if len(found) % 2 else ()
        subsets = (subset,) if subset else ()
        found.append(type(sample)(trigger, "first", {"collapse": 2.0}, 1e-9, 1e-6, {}, subsets))
    result: ScanResult = a_result(findings=tuple(found), verdict="backdoored")
    result.save(path)
    return path


def loads(counts: Sequence[int]) -> list[tuple[int, float, float, float]]:
    """(findings, seconds to load, seconds for 1,000 short texts, seconds for one of 100 kB that is
    made of triggers)."""
    rows = []
    with TemporaryDirectory() as folder:
        for count in counts:
            file = many_findings(count, Path(folder) / "scan.json")
            made: list[Monitor] = []
            load = seconds(
                lambda: made.append(Monitor.load(file, tokenizer=tokenizer_file("bundled")))  # noqa: B023
            )
            (monitor,) = made
            text = " ".join(t.text for t in monitor.triggers[:20_000])[:100_000]
            short = ["A trigger in the river that nobody had seen since the spring."] * 1000
            checked = seconds(lambda: monitor.check_all(short))  # noqa: B023
            rows.append((count, load, checked, seconds(lambda: monitor.check(text))))  # noqa: B023
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--characters", type=int, default=1_000_000)
    parser.add_argument("--findings", type=int, default=100_000)
    asked = parser.parse_args()
    sizes = [asked.characters // 64, asked.characters // 16, asked.characters // 4]
    sizes.append(asked.characters)
    print("| text | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("|---|" + "---:|" * len(sizes))
    for name, case in CASES.items():
        cells = " | ".join(f"{taken:.3f}" for taken in growth(case, sizes))
        print(f"| {name} | {cells} |", flush=True)
    print("\n| findings | load | 1,000 short texts | 100 kB of triggers |")
    print("|---:|---:|---:|---:|")
    for row in loads([asked.findings // 100, asked.findings // 10, asked.findings]):
        print("| {:,} | {:.2f} | {:.2f} | {:.2f} |".format(*row), flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nCPU seconds; {memory:,.0f} MiB of memory at most.")


if __name__ == "__main__":
    main()
