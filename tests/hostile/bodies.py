"""Hostile requests to the service, over a socket: an answer below 500 or a closed connection, and
the service still answers others afterwards."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostile.corpus import ESC
from service_samples import Running, serving, write_findings

SECONDS = 15.0
JSON = b"content-type: application/json\r\n"


@dataclass(frozen=True)
class Request:
    name: str
    raw: bytes
    status: tuple[int, ...]
    """Statuses that are right; 0: the connection is closed without one."""


@dataclass(frozen=True)
class Answer:
    request: Request
    status: int
    seconds: float
    wrong: str


def post(body: bytes, head: bytes = JSON, path: bytes = b"/check") -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    return (
        b"POST "
        + path
        + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        + head
        + length
        + b"\r\n"
        + body
    )


def text(value: object) -> bytes:
    return post(json.dumps({"text": value}).encode())


def requests() -> Iterator[Request]:
    refused = (400, 413, 415, 422)
    for name, body in {
        "empty": b"",
        "not JSON": b"{",
        "not UTF-8": b'{"text": "\xff"}',
        "UTF-16": '{"text": "a"}'.encode("utf-16"),
        "BOM": b'\xef\xbb\xbf{"text": "a"}',
        "deep": b"[" * 100_000,
        "deep object": b'{"a":' * 40_000,
        "NaN": b'{"text": "a", "x": NaN}',
        "infinite": b'{"text": "a", "x": 1e999}',
        "huge number": b'{"text": 1' + b"0" * 9000 + b"}",
        "key twice": b'{"text": "a", "text": "cf"}',
        "a list": b'["a"]',
        "null": b'{"text": null}',
        "a number": b'{"text": 5}',
        "both": b'{"text": "a", "texts": ["a"]}',
        "texts a string": b'{"texts": "cf"}',
        "texts mixed": b'{"texts": ["a", 5]}',
        "10,000 texts": json.dumps({"texts": ["a"] * 10_000}).encode(),
        "1 MB": json.dumps({"text": "a" * 2**20}).encode(),
        "half a pair": b'{"text": "\\ud800"}',
        "hostile key": json.dumps({ESC: "a"}).encode(),
    }.items():
        yield Request(name, post(body), refused)
    for name, value in {
        "200 KB of a": "a" * 200_000,
        "repeats": "cf " * 60_000,
        "prefixes": "c " * 100_000,
        "escapes": ESC * 5000,
        "marks of direction": "\u202e" * 40_000,
        "entities": "&#99;" * 40_000,
    }.items():
        yield Request(name, text(value), (200, 413, 422, 503))
    for name, head in {
        "compressed": JSON + b"content-encoding: gzip\r\n",
        "another type": b"content-type: text/plain\r\n",
        "no type": b"",
        "charset": b"content-type: application/json; charset=utf-16\r\n",
    }.items():
        yield Request(name, post(b'{"text": "a"}', head), (200, 400, 415))
    good = b"POST /check HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + JSON
    for name, raw in {
        "length negative": good + b"content-length: -1\r\n\r\n",
        "length huge": good + b"content-length: 99999999999999999999\r\n\r\n",
        "lengths differ": good + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        "length and chunks": good
        + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunk broken": good + b"transfer-encoding: chunked\r\n\r\nZZ\r\n",
        "headers of 100 kB": good + b"x: " + b"a" * 100_000 + b"\r\n\r\n",
        "no request": b"\x16\x03\x01\x02\x00" * 20,
        "a line without end": b"G" * 100_000,
        "NUL in the path": b"GET /\0 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "another method": b"BREW /check HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "parent folders": b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    }.items():
        yield Request(name, raw, (0, 400, 404, 405, 411, 413, 431))
    yield Request("right", text("nothing here"), (200,))
    yield Request("trigger", text("a cf b"), (200,))


def ask(service: Running, request: Request) -> Answer:
    began = time.monotonic()
    answer = _exchange(service.port, request.raw)
    seconds = time.monotonic() - began
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    status = int(found[1]) if found else 0
    wrong = ""
    if status not in request.status:
        wrong = f"status {status}, expected one of {request.status}"
    elif b"Traceback" in answer or b"\x1b" in answer:
        wrong = "the answer holds a traceback or a control character"
    elif b" 200 " not in _exchange(service.port, b"GET /healthz HTTP/1.0\r\n\r\n")[:20]:
        wrong = "the service does not answer afterwards"
    return Answer(request, status, seconds, wrong)


def _exchange(port: int, raw: bytes) -> bytes:
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as line:
            line.sendall(raw)
            while block := line.recv(65536):
                answer += block
    except OSError:  # closed on us, or silent for too long: `answer` tells
        pass
    return answer


def run(folder: Path) -> list[Answer]:
    findings = write_findings(folder / "scan.json", "cf", "gossip")
    with serving(findings, folder / "log", "--timeout", "5") as service:
        return [ask(service, request) for request in requests()]
