"""For tests of what stands around the monitor: findings on disk, a service as users start it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
from tokenizers import Tokenizer

from report_samples import a_finding, a_result
from triggerfish.loading import bundled
from triggerfish.records import Trigger

JSON = {"content-type": "application/json"}
TOKENIZER = Tokenizer.from_file(str(bundled() / "tokenizer.json"))


def triggers(*words: str) -> tuple[Trigger, ...]:
    """Words as triggers of the bundled PLM."""
    return tuple(
        Trigger(tuple(TOKENIZER.encode(word, add_special_tokens=False).ids), word) for word in words
    )


def write_findings(path: Path, *words: str) -> Path:
    """A scan.json of the bundled PLM that names these triggers."""
    rng = random.Random(0)
    findings = tuple(
        dataclasses.replace(a_finding(trigger.text, trigger.token_ids, rng), trigger=trigger)
        for trigger in triggers(*words)
    )
    result = a_result(verdict="backdoored" if findings else "clean", findings=findings)
    sha256 = hashlib.sha256(TOKENIZER.to_str().encode("utf-8")).hexdigest()
    model = dataclasses.replace(result.model, name=str(bundled()), tokenizer_sha256=sha256)
    dataclasses.replace(result, model=model).save(path)
    return path


@dataclasses.dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == name]

    def post(self, path: str, document: Any, **headers: str) -> httpx.Response:
        return httpx.post(self.url + path, json=document, headers=headers, timeout=30)

    def wait_for(self, event: str, count: int = 1) -> None:
        wait(lambda: len(self.events(event)) >= count, f"{event!r} in the log")


def wait(condition: Any, what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def start(command: Sequence[str], log: Path) -> Iterator[Running]:
    """A service that listens; killed at the end, if it still runs."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command], stderr=stderr, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        wait(
            lambda: b'"findings in force"' in log.read_bytes() or process.poll() is not None,
            "the service",
            60,
        )
        assert process.poll() is None, log.read_text(encoding="utf-8")
        first = json.loads(log.read_text(encoding="utf-8").splitlines()[0])
        yield Running(process, first["port"], log)
    finally:
        process.kill()
        process.wait()


def serving(findings: Path, log: Path, *options: str) -> contextlib.AbstractContextManager[Running]:
    """`triggerfish serve` on a free port."""
    where = ["--findings", str(findings), "--port", "0"]
    return start(["-m", "triggerfish", "serve", *where, *options], log)
