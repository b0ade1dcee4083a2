"""Mutated files for every loader, and random results for every report.

    python tests/hostile/fuzz.py                           2,000 inputs for each of `TARGETS`
    python tests/hostile/fuzz.py findings --inputs 100000 --seed 1

A loader may take an input or raise a ValueError whose message begins with a field (a status below
500 in the service). Everything else is counted as uncaught and shown once, and so is an input that
takes longer than `SECONDS`. A report must be well formed and hold no control character and no
markup of its input. Whole checkpoints take a tenth of a second each, so 100,000 of them take hours.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import logging
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from planted import tiny
from report_samples import backdoored
from service_samples import write_findings
from test_complications_report import a_measurement
from triggerfish import report
from triggerfish.bench.grid import read_grid
from triggerfish.complications.records import Complications
from triggerfish.loading import bundled, load
from triggerfish.monitor.service import ServeSettings
from triggerfish.monitor.service.app import make_app
from triggerfish.monitor.tokenizer import Tokenizer
from triggerfish.records import ScanResult
from triggerfish.report.complications import FORMATS, render
from triggerfish.tasks import find_task
from triggerfish.text import read_corpus, read_words

SECONDS = 20.0
FIELD = re.compile(r"[\w .\[\]-]+: ")
MARK = "<x9 onload=1>\x1b[31m\u202e\x9b'\"&{{7}}[a](b)`"
"""What a report must show as text: markup, escapes of terminals and a mark of direction."""
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**63), 1e308, 0.5, float("nan")),
    *(
        float("inf"),
        "",
        "x",
        "0",
        "\0",
        "\ud800",
        MARK,
        "../../x",
        "a" * 5000,
        [],
        {},
        [[]],
        [None],
    ),
    *({"a": 1}, [1] * 1000, "\U0010ffff", "nan", "1e999"),
)
BYTES = (
    b"",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b'"',
    b"{",
    b"[",
    b",",
    b"9" * 5000,
    b"\xed\xa0\x80",
)

Target = Callable[[bytes], None]


class Late(BaseException):
    """An input took too long."""


@dataclass
class Tally:
    name: str
    taken: int = 0
    refused: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    uncaught: Counter[str] = field(default_factory=Counter)

    @property
    def inputs(self) -> int:
        return self.taken + self.refused + self.uncaught.total()


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """A seed with a few random changes: to a node of its JSON where it is JSON, or to its bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if rng.random() < 0.6:
            with contextlib.suppress(ValueError, RecursionError):
                seed = json.dumps(_node(json.loads(seed), rng)).encode()
                continue
        place = rng.randrange(len(seed) + 1)
        end = min(len(seed), place + rng.choice((0, 1, 1, 2, 8, 100, 10**6)))
        new = rng.choice(
            (*BYTES, seed[place:end] * 2, bytes([rng.randrange(256)]), rng.randbytes(4))
        )
        seed = seed[:place] + new + seed[end:]
    return seed


def _node(held: Any, rng: random.Random) -> Any:
    """The document with one node replaced, taken out, doubled or given another key."""
    if not isinstance(held, dict | list) or not held or rng.random() < 0.15:
        return rng.choice(ODD)
    keys = list(held) if isinstance(held, dict) else list(range(len(held)))
    key = rng.choice(keys)
    chance = rng.random()
    if chance < 0.1:
        del held[key]
    elif chance < 0.15 and isinstance(held, dict):
        held[rng.choice(("x", "", MARK, "__class__", "\ud800"))] = held.pop(key)
    elif chance < 0.2 and isinstance(held, list):
        held += held[:50]
    else:
        held[key] = _node(held[key], rng)
    return held


def run(name: str, target: Target, seeds: list[bytes], inputs: int, seed: int) -> Tally:
    """Feed mutated seeds to a target."""
    rng, tally = random.Random(f"{name} {seed}"), Tally(name)
    signal.signal(signal.SIGALRM, _late)
    began = time.monotonic()
    for _ in range(inputs):
        data = mutated(rng.choice(seeds), rng)
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            target(data)
            tally.taken += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, ValueError) and FIELD.match(str(error)):
                tally.refused += 1
            else:
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                tally.uncaught[f"{type(error).__name__} in {where}: {str(error)[:80]!a}"] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        tally.slowest = max(tally.slowest, time.monotonic() - started)
    tally.seconds = time.monotonic() - began
    return tally


def _late(*_: object) -> None:
    raise Late(f"more than {SECONDS:g} s")


# ---- targets: each takes a scratch folder and gives (what is fed, seeds)


def written(folder: Path, name: str, read: Callable[[Path], object]) -> Target:
    """Feeds a file of that name."""

    def target(data: bytes) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return target


def checkpoint(name: str) -> Callable[[Path], tuple[Target, list[bytes]]]:
    """One file of a tiny checkpoint, and the whole is loaded."""

    def made(folder: Path) -> tuple[Target, list[bytes]]:
        tiny().save(folder)
        if name == "model.safetensors.index.json":
            (folder / "model.safetensors").rename(folder / "a.safetensors")
            keys = [key for key, _ in tiny().model.named_parameters()]
            shards = {
                "metadata": {"total_size": 1},
                "weight_map": dict.fromkeys(keys, "a.safetensors"),
            }
            return written(folder, name, lambda _: load(folder, device="cpu")), [
                json.dumps(shards).encode()
            ]
        seed = (folder / name).read_bytes()
        return written(folder, name, lambda _: load(folder, device="cpu")), [seed]

    return made


def weights(folder: Path) -> tuple[Target, list[bytes]]:
    """The header of the weights; the data behind it stay."""
    tiny().save(folder)
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]

    def target(head: bytes) -> None:
        file.write_bytes(struct.pack("<Q", len(head)) + head + raw[8 + size :])
        load(folder, device="cpu")

    return target, [raw[8 : 8 + size]]


def monitor_tokenizer(folder: Path) -> tuple[Target, list[bytes]]:
    tiny().save(folder)
    seed = (folder / "tokenizer.json").read_bytes()
    return written(folder, "tokenizer.json", lambda file: Tokenizer(file)), [seed]


LINES = b"".join(b'{"text": "film %d", "label": %d}\n' % (n, n % 2) for n in range(30))
TABLE = b"text,label\r\n" + b"".join(b'"film, ""%d""",%d\r\n' % (n, n % 2) for n in range(30))


def corpus(ending: str, *seeds: bytes) -> Callable[[Path], tuple[Target, list[bytes]]]:
    return lambda folder: (written(folder, f"c{ending}", read_corpus), list(seeds))


def word_list(folder: Path) -> tuple[Target, list[bytes]]:
    return written(folder, "words.txt", read_words), [b"one\ntwo three\n\xc3\xa4\r\n"]


def task(ending: str, *seeds: bytes) -> Callable[[Path], tuple[Target, list[bytes]]]:
    return lambda folder: (written(folder, f"t{ending}", lambda f: find_task(str(f))), list(seeds))


def findings(folder: Path) -> tuple[Target, list[bytes]]:
    """What can be read must also be shown."""

    def read(file: Path) -> None:
        for shown in report.FORMATS:
            check_report(shown, report.render(ScanResult.load(file), shown))

    return written(folder, "scan.json", read), [_small(backdoored()).to_json().encode()]


def complications(folder: Path) -> tuple[Target, list[bytes]]:
    """What can be read must also be shown."""

    def read(file: Path) -> None:
        for shown in FORMATS:
            check_report(shown, render(Complications.load(file), shown))

    return written(folder, "c.json", read), [a_measurement().to_json().encode()]


def _small(result: ScanResult) -> ScanResult:
    """The same without the values of a whole vocabulary, so that changes hit the rest."""
    held = json.loads(result.to_json())
    held["manhattan"]["values"] = held["manhattan"]["values"][:5]
    return ScanResult.from_json(json.dumps(held))


def grid(folder: Path) -> tuple[Target, list[bytes]]:
    seeds = [file.read_bytes() for file in sorted(Path("benchmarks/grids").glob("*.yaml"))]
    return written(folder, "g.yaml", read_grid), seeds


def body(folder: Path) -> tuple[Target, list[bytes]]:
    """Requests to the service, without a socket; an answer of 500 or more is an error."""
    logged = write_findings(folder / "scan.json", "cf", "gossip")
    app = make_app(ServeSettings(findings=logged, tokenizer=bundled()))

    async def ask(data: bytes) -> int:
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        head = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/check", "headers": head}
        rest = {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
        await app(scope | rest, receive, send)
        return status

    def target(data: bytes) -> None:
        status = asyncio.run(ask(data))
        if status >= 400:
            raise (ValueError if status < 500 else RuntimeError)(f"status: {status}")

    return target, [b'{"text": "a cf b"}', b'{"texts": ["a", "gossip", "\\u00e4"]}']


def reports(folder: Path) -> tuple[Target, list[bytes]]:
    """Results of the right types with hostile values, in every format."""
    seed = json.loads(_small(backdoored()).to_json())

    def target(data: bytes) -> None:
        rng = random.Random(data)
        result = ScanResult.from_json(json.dumps(_hostile(seed, rng)))
        for shown in report.FORMATS:
            check_report(shown, report.render(result, shown))

    return target, [b"seed"]


FIXED = ("verdict", "kind", "schema", "started", "finished")


def _hostile(held: Any, rng: random.Random, key: str = "") -> Any:
    """The same document with strings and numbers of other values."""
    if isinstance(held, dict):
        return {k: _hostile(v, rng, k) for k, v in held.items()}
    if isinstance(held, list):
        return [_hostile(v, rng, key) for v in held]
    if key in FIXED or rng.random() < 0.7 or held is None or isinstance(held, bool):
        return held
    if isinstance(held, str):
        return rng.choice((MARK, "", held + MARK, "\n\r\t", "\u2028\ufeff\u200b", "a" * 3000))
    if isinstance(held, int):
        return rng.choice((0, 1, held, 2**31))
    return rng.choice((0.0, -1e29, 1e29, 1e-308, held, -held))


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr", "source"}


class _Page(HTMLParser):
    """Tags that are closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "x9" or any(name.startswith("on") for name, _ in attrs):
            raise AssertionError(f"markup of the input: {tag} {attrs}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            raise AssertionError(f"</{tag}> closes nothing")


def check_report(format: str, shown: str) -> None:
    """AssertionError for a report that is not well formed or lets its input through."""
    if format in ("json", "sarif"):
        json.loads(shown, parse_constant=_no_constant)
    if format == "html":
        page = _Page()
        page.feed(shown)
        page.close()
        assert not page.open, f"open tags {page.open}"
    found = CONTROL.search(shown.replace("\n", ""))
    # JSON escapes them, and its readers show what they like.
    assert not found or format == "json", f"{format} holds the control character {found!a}"
    shown.encode()


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


GZIPPED = gzip.compress(b"one two\nthree\n" * 50, mtime=0)
TARGETS: dict[str, Callable[[Path], tuple[Target, list[bytes]]]] = {
    "config": checkpoint("config.json"),
    "tokenizer": checkpoint("tokenizer.json"),
    "tokenizer config": checkpoint("tokenizer_config.json"),
    "index": checkpoint("model.safetensors.index.json"),
    "weights": weights,
    "tokenizer of the monitor": monitor_tokenizer,
    "corpus txt": corpus(".txt", b"one two\n\nthree\n", b"a\r\nb\r\n"),
    "corpus jsonl": corpus(".jsonl", LINES),
    "corpus csv": corpus(".csv", TABLE),
    "corpus gz": corpus(".txt.gz", GZIPPED),
    "words": word_list,
    "task jsonl": task(".jsonl", LINES),
    "task csv": task(".csv", TABLE),
    "findings": findings,
    "complications": complications,
    "grid": grid,
    "body": body,
    "report": reports,
}
CHECKPOINTS = ("config", "tokenizer", "tokenizer config", "index", "weights")


def fuzz(name: str, inputs: int, seed: int) -> Tally:
    """Run one of `TARGETS`."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        target, seeds = TARGETS[name](folder)
        return run(name, target, seeds, inputs, seed)
    finally:
        shutil.rmtree(folder)


def table(tallies: list[Tally]) -> Iterator[str]:
    yield "| input | inputs | taken | refused | uncaught | slowest s | seconds |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for t in tallies:
        yield (
            f"| {t.name} | {t.inputs} | {t.taken} | {t.refused} | {t.uncaught.total()} "
            f"| {t.slowest:.2f} | {t.seconds:.0f} |"
        )


def cli() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if strange := set(given.targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(sorted(strange))}; expected {', '.join(TARGETS)}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable()
    tallies = []
    for name in given.targets or TARGETS:
        tallies.append(fuzz(name, given.inputs, given.seed))
        for problem, count in tallies[-1].uncaught.most_common(20):
            print(f"{name}: {count} times {problem}", flush=True)
        print("\n".join(list(table(tallies[-1:]))[-1:]), flush=True)
    print("\n".join(table(tallies)))
    return int(any(tally.uncaught for tally in tallies))


if __name__ == "__main__":
    raise SystemExit(cli())
