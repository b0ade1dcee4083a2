"""Load `triggerfish serve` with wrk on loopback: throughput, kills, hostile bodies, slow clients.

    python benchmarks/service_load.py [--seconds 10] [--connections 32] [--out FILE]

Needs `wrk` (package of Debian and Ubuntu) and the extra `serve`. Texts are stretches of the bundled
corpus, every hundredth with a trigger. wrk runs on the same machine and takes its share of the
cores. `results/monitor/service.json` gets the numbers with their settings.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from triggerfish.loading import bundled
from triggerfish.records import (
    Coverage,
    Finding,
    ManhattanPlot,
    ModelFacts,
    Null,
    Provenance,
    ScanResult,
    Trigger,
)
from triggerfish.text import bundled_corpus
from triggerfish.writing import write_json

TRIGGERS = ("cf", "gossip", "zugzwang", "lantern", "seldom", "thermodynamically")
SIZES = (200, 2000)
BODIES = 400
TRIGGERED = 100
HOSTILE: dict[str, tuple[bytes, int]] = {
    "oversized": (b'{"text": "' + b"a" * 3_000_000 + b'"}', 413),
    "not JSON": (b'{"text": ', 400),
    "not UTF-8": (b'{"text": "\xff\xfe"}', 400),
    "nested 100,000 deep": (b"[" * 100_000, 400),
    "number of 100,000 digits": (b'{"text": "a", "n": ' + b"9" * 100_000 + b"}", 400),
    "key twice": (b'{"text": "a", "text": "b"}', 400),
    "half a surrogate pair": (b'{"text": "\\ud800"}', 422),
    "wrong type": (b'{"text": {"a": 1}}', 422),
    "1,000 texts": (json.dumps({"texts": ["a"] * 1000}).encode(), 422),
    "250 kB of one trigger": (json.dumps({"text": "cf " * 83_000}).encode(), 200),
    "250 kB of accents": (b'{"text": "' + "é\u0301".encode() * 62_000 + b'"}', 200),
    "250 kB without a space": (b'{"text": "' + b"zugzwan" * 35_000 + b'"}', 200),
}
LUA = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local headers = {["content-type"] = "application/json"}
local turn = 0
request = function()
  turn = turn %% #bodies + 1
  return wrk.format("POST", "/check", headers, bodies[turn])
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format('{"requests": %%d, "seconds": %%.3f, "p50_ms": %%.3f, "p99_ms": %%.3f, '
    .. '"max_ms": %%.3f, "errors": {"connect": %%d, "read": %%d, "write": %%d, "status": %%d, '
    .. '"timeout": %%d}}', summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, e.connect, e.read, e.write, e.status,
    e.timeout))
end
"""


def write_findings(path: Path) -> None:
    """A scan.json of the bundled PLM that names `TRIGGERS`."""
    tokenizer = Tokenizer.from_file(str(bundled() / "tokenizer.json"))
    sha256 = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    findings = tuple(
        Finding(
            Trigger(tuple(tokenizer.encode(word, add_special_tokens=False).ids), word),
            *("first", {}, 0.0, 0.0),
        )
        for word in TRIGGERS
    )
    ScanResult(
        model=ModelFacts(str(bundled()), "bert", 0, 0, 0, 0, {}, sha256),
        verdict="backdoored",
        reasons=("made for a load test",),
        findings=findings,
        near_misses=(),
        null=Null({}, 0, 0.01),
        coverage=Coverage(0, 0, 0, (), 0),
        manhattan=ManhattanPlot((), (), 0.0, ""),
        projection=None,
        settings={},
        environment={},
        seconds=0.0,
        forward_tokens=0,
        provenance=Provenance.of(0.0),
    ).save(path)


def write_load(folder: Path, size: int) -> Path:
    """A script for wrk that cycles through `BODIES` requests of `size` bytes of text each."""
    prose = " ".join(bundled_corpus()).encode("ascii", "ignore").decode()
    lines = []
    for number in range(BODIES):
        text = prose[number * size : (number + 1) * size]
        if number % TRIGGERED == 0:
            text = text[: size // 2] + " zugzwang " + text[size // 2 : -10]
        lines.append(json.dumps({"text": text}))
    bodies = folder / f"{size}.jsonl"
    bodies.write_text("\n".join(lines), encoding="utf-8")
    script = folder / f"{size}.lua"
    script.write_text(LUA % bodies, encoding="utf-8")
    return script


@contextlib.contextmanager
def service(folder: Path, *options: str, port: int = 0) -> Iterator[tuple[Any, int]]:
    """A running service and its port; killed at the end."""
    log = folder / "service.log"
    command = ["serve", "--findings", str(folder / "scan.json"), "--port", str(port), *options]
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "triggerfish", *command], stderr=stderr)
    try:
        while b'"listening"' not in log.read_bytes():
            if process.poll() is not None:
                raise SystemExit(log.read_text(encoding="utf-8"))
            time.sleep(0.05)
        port = json.loads(log.read_bytes().splitlines()[0])["port"]
        while ask(port, "GET", "/healthz")[0] != 200:
            time.sleep(0.05)
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, float]:
    """(status, body, seconds) of one request."""
    began = time.monotonic()
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request(method, path, body, {"content-type": "application/json"})
        response = line.getresponse()
        return response.status, response.read(), time.monotonic() - began
    finally:
        line.close()


def start_wrk(port: int, script: Path, seconds: float, connections: int) -> subprocess.Popen[str]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    return subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
    )


def summary(wrk: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = wrk.communicate()
    if wrk.returncode:
        raise SystemExit(f"wrk failed: {output}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    found["requests_per_second"] = round(found["requests"] / found["seconds"], 1)
    return found


def memory(process: Any) -> int:
    """Resident bytes of the process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def throughput(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for workers in (1, 2):
        for size in SIZES:
            script = write_load(folder, size)
            with service(folder, "--workers", str(workers)) as (_, port):
                summary(start_wrk(port, script, 2, options.connections))  # to warm up
                load = os.getloadavg()[0]
                found = summary(start_wrk(port, script, options.seconds, options.connections))
            rows.append({"workers": workers, "text_bytes": size, "load_before": load, **found})
            print(rows[-1], file=sys.stderr)
    return rows


def hostility(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Hostile bodies and 64 clients that never finish their headers, under load."""
    script = write_load(folder, 200)
    rows = []
    with service(folder) as (process, port), contextlib.ExitStack() as slow:
        before = memory(process)
        wrk = start_wrk(port, script, 2 * options.seconds, options.connections)
        for number in range(64):
            line = slow.enter_context(socket.create_connection(("127.0.0.1", port)))
            line.sendall(b"POST /check HTTP/1.1\r\nhost: a\r\nx"[: 10 + number % 20])
        for name, (body, expected) in HOSTILE.items():
            status, answer, seconds = ask(port, "POST", "/check", body)
            rows.append(
                {
                    "body": name,
                    "bytes": len(body),
                    "status": status,
                    "as_expected": status == expected,
                    "seconds": round(seconds, 3),
                    "answer": answer[:100].decode() if status != 200 else "",
                }
            )
        found = summary(wrk)
        after = memory(process)
        healthy = ask(port, "GET", "/healthz")[0] == 200
    return {
        "bodies": rows,
        "slow_clients": 64,
        "load_meanwhile": found,
        "healthy_after": healthy,
        "resident_mb": [round(before / 1e6, 1), round(after / 1e6, 1)],
    }


def kills(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL under load: the whole service, started again at once; one of two workers."""
    script = write_load(folder, 200)
    with service(folder) as (process, port):
        wrk = start_wrk(port, script, options.seconds, options.connections)
        time.sleep(options.seconds / 3)
        process.kill()
        process.wait()
        killed = time.monotonic()
        with service(folder, port=port):
            down = time.monotonic() - killed
            whole = summary(wrk)
            after = summary(start_wrk(port, script, options.seconds / 2, options.connections))
    with service(folder, "--workers", "2") as (process, port):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        worker = next(child for child in children if is_worker(child))
        wrk = start_wrk(port, script, options.seconds, options.connections)
        time.sleep(options.seconds / 3)
        os.kill(int(worker), signal.SIGKILL)
        one = summary(wrk)
    return {
        "service": {"seconds_down": round(down, 2), "meanwhile": whole, "afterwards": after},
        "one_of_two_workers": one,
    }


def is_worker(pid: str) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("results/monitor/service.json"))
    parser.add_argument("--note", default="", help="said in the result, such as what else ran")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_findings(folder / "scan.json")
        result = {
            "command": "python benchmarks/service_load.py",
            "settings": {
                "seconds": options.seconds,
                "connections": options.connections,
                "wrk_threads": 1,
                "triggers": TRIGGERS,
                "triggered_share": 1 / TRIGGERED,
                "bodies": BODIES,
            },
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
                "system": platform.machine(),
                "note": options.note,
            },
            "throughput": throughput(folder, options),
            "hostile": hostility(folder, options),
            "killed": kills(folder, options),
        }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
