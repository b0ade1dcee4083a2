"""`triggerfish serve` as operators run it: a process, sockets, signals, files that change."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from service_samples import JSON, Running, serving, start, wait, write_findings
from triggerfish.cli import main

SECRET = "swordfish"
POLICIES = ["--set-policy", "cf=strip", "--set-policy", "gossip=flag"]
QUICK = """
import sys
from pathlib import Path
from triggerfish.monitor.asgi import GuardSettings
from triggerfish.monitor.service import ServeSettings
from triggerfish.monitor.service.server import serve
guard = GuardSettings(body_seconds=0.4, max_body=20_000_000, max_batch=100_000)
serve(ServeSettings(Path(sys.argv[1]), port=0, guard=guard, header_seconds=0.4,
      stalled_seconds=0.4, connections=20, reload_seconds=0.1, stop_seconds=2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    findings = write_findings(folder / "scan.json", "cf", "gossip", "zugzwang")
    with serving(findings, folder / "log", *POLICIES, "--max-batch", "8") as running:
        yield running


@pytest.fixture(scope="module")
def impatient(folder: Path) -> Iterator[Running]:
    """With limits that a test can wait for."""
    findings = write_findings(folder / "reloaded.json", "cf", "gossip", "zugzwang")
    with start(["-c", QUICK, str(findings)], folder / "quick.log") as running:
        yield running


def talk(port: int, sent: bytes) -> bytes:
    """What a raw connection answers until it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(sent)
        return read_to_the_end(line)


def head(length: int) -> bytes:
    """Of a request to /check."""
    lines = ["POST /check HTTP/1.1", "content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def read_to_the_end(line: socket.socket) -> bytes:
    answer = b""
    while chunk := line.recv(65_536):
        answer += chunk
    return answer


# ---- /check


def test_one_text(service: Running) -> None:
    assert service.post("/check", {"text": "plain"}).json() == {
        **{"ok": True, "action": "pass", "risk": 0.0, "text": "plain", "alarms": []}
    }
    rejected = service.post("/check", {"text": "a zugzwang"}).json()
    alarm = {"trigger": "zugzwang", "kind": "word", "spans": [[2, 10]], "places": 1}
    assert rejected == {
        **{"ok": False, "action": "reject", "risk": 1.0, "text": None},
        "alarms": [{**alarm, "policy": "reject", "seen_by": "tokens"}],
    }


def test_batch(service: Running) -> None:
    texts = ["plain", "a fine cf film", "the gossip", "café", ""]
    results = service.post("/check", {"texts": texts}).json()["results"]
    assert [result["action"] for result in results] == ["pass", "strip", "flag", "pass", "pass"]
    assert [result["text"] for result in results] == [
        *("plain", "a fine film", "the gossip", "café", "")
    ]
    assert service.post("/check", {"texts": []}).json() == {"results": []}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "body: not JSON"),
        (b'{"text": "\xff\xfe"}', 400, "body: not UTF-8"),
        (b'{"text": "' + b"a" * 262_144 + b'"}', 413, "body: more than 262144 bytes"),
        (b"[" * 100_000, 400, "body: nested too deeply"),
        (b'{"texts": [' + b"9" * 9_000 + b"]}", 400, "body: a number has too many digits"),
        (b'{"text": 3}', 422, "body: expected"),
        (b'{"texts": ["a", null]}', 422, "body: expected"),
        (b'{"texts": "a"}', 422, "body: expected"),
        (b'{"text": "a", "texts": []}', 422, "body: expected"),
        (b'"swordfish"', 422, "body: expected"),
        (b"null", 422, "body: expected"),
        (b'{"texts": ["swordfish \\udfff"]}', 422, "text: not Unicode"),
        (json.dumps({"texts": ["a"] * 9}).encode(), 422, "texts: 9 given, at most 8"),
    ],
)
def test_bad_bodies(body: bytes, status: int, message: str, service: Running) -> None:
    response = httpx.post(service.url + "/check", content=body, headers=JSON)
    assert response.status_code == status
    told = response.json()["error"]
    assert told.startswith(message)
    assert "\n" not in told
    assert SECRET not in response.text


def test_very_many_places(service: Running) -> None:
    (alarm,) = service.post("/check", {"text": "zugzwang " * 2_000}).json()["alarms"]
    assert alarm["places"] == 2_000
    assert alarm["spans"] == [[9 * n, 9 * n + 8] for n in range(100)]


def test_wrong_type_path_and_method(service: Running) -> None:
    assert httpx.post(service.url + "/check", data={"text": "a"}).status_code == 415
    assert httpx.get(service.url + "/check").status_code == 405
    unknown = httpx.get(service.url + "/nothing")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Not Found"})


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /check HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /check HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /check HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"a" * 10_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000,
    ],
)
def test_broken_http(sent: bytes, service: Running) -> None:
    """Answered with 400 or closed; the service goes on."""
    try:
        answer = talk(service.port, sent)
    except (ConnectionResetError, BrokenPipeError):
        answer = b""
    assert answer[:12] in (b"HTTP/1.1 400", b"")
    assert service.post("/check", {"text": "plain"}).status_code == 200


def test_private_and_structured_log(service: Running, folder: Path) -> None:
    before = len(service.events("alarm"))
    service.post("/check", {"text": f"the {SECRET} zugzwang"})
    service.wait_for("alarm", before + 1)
    alarm = service.events("alarm")[-1]
    assert alarm["alarms"][0]["trigger"] == "zugzwang"
    assert alarm["characters"] == len(f"the {SECRET} zugzwang")
    assert SECRET not in service.log.read_text(encoding="utf-8")
    assert {"time", "level", "pid"} <= set(alarm)


def test_health_and_metrics(service: Running) -> None:
    health = httpx.get(service.url + "/healthz").json()
    assert (health["status"], health["triggers"], health["exact"]) == ("ok", 3, True)
    before = metrics(service)
    service.post("/check", {"texts": ["a cf", "a cf", "plain", "zugzwang"]})
    after = metrics(service)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['triggerfish_texts_total{action="strip"}'] == 2
    assert grown['triggerfish_texts_total{action="pass"}'] == 1
    assert grown['triggerfish_texts_total{action="reject"}'] == 1
    assert grown['triggerfish_alarms_total{trigger="cf"}'] == 2
    assert grown['triggerfish_alarms_total{trigger="gossip"}'] == 0
    assert grown["triggerfish_check_seconds_count"] == 1
    assert grown['triggerfish_requests_total{status="200"}'] >= 1


def metrics(running: Running) -> dict[str, float]:
    text = httpx.get(running.url + "/metrics").text
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines())
        if not name.startswith("#")
    }


# ---- reload, slow clients, overload


def test_reload(impatient: Running, folder: Path) -> None:
    file = folder / "reloaded.json"

    def action(text: str) -> str:
        found: str = impatient.post("/check", {"text": text}).json()["action"]
        return found

    assert action("the lantern") == "pass"
    whole = write_findings(folder / "next.json", "lantern").read_text(encoding="utf-8")
    half = folder / "half.json"
    half.write_text(whole[: len(whole) // 2], encoding="utf-8")
    half.rename(file)
    impatient.wait_for("findings not reloaded")
    health = httpx.get(impatient.url + "/healthz").json()
    assert health["status"] == "stale findings"
    assert "not a scan.json" in health["findings"]["error"]
    assert action("zugzwang") == "reject"

    file.unlink()
    impatient.wait_for("findings not reloaded", 2)
    assert action("zugzwang") == "reject"

    (folder / "next.json").rename(file)
    impatient.wait_for("findings reloaded")
    assert (action("the lantern"), action("zugzwang")) == ("reject", "pass")
    health = httpx.get(impatient.url + "/healthz").json()
    assert (health["status"], health["triggers"]) == ("ok", 1)
    assert metrics(impatient)['triggerfish_failures_total{what="reload"}'] == 2


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"POST /check HTTP/1.1\r\nhost", b""),
        (b"POST /check HTTP/1.1\r\ncontent-length: 9\r\n\r\n{", b"HTTP/1.1 408"),
        (b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\nx", b"HTTP/1.1 200"),
    ],
)
def test_slow_senders_are_dropped(sent: bytes, answer: bytes, impatient: Running) -> None:
    began = time.monotonic()
    assert talk(impatient.port, sent)[:12] == answer
    assert 0.3 < time.monotonic() - began < 9


def test_trickled_headers_are_dropped(impatient: Running) -> None:
    def trickle(line: socket.socket) -> None:
        line.sendall(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(160):
            line.sendall(b"x: y\r\n")
            time.sleep(0.05)

    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as line:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            trickle(line)
        assert time.monotonic() - began < 7


def test_answers_that_nobody_reads_are_dropped(impatient: Running) -> None:
    body = json.dumps({"text": "plain " * 2_000_000}).encode()
    before = metrics(impatient)['triggerfish_texts_total{action="pass"}']
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", impatient.port))
        line.settimeout(20)
        line.sendall(head(len(body)) + body)
        wait(
            lambda: metrics(impatient)['triggerfish_texts_total{action="pass"}'] > before,
            "the check",
        )
        time.sleep(1)
        answer = read_to_the_end(line)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(answer) < len(body)


def test_overload_is_answered_with_503(impatient: Running) -> None:
    """And serving goes on when the crowd has been dropped."""

    def status(crowd: int) -> int:
        address = ("127.0.0.1", impatient.port)
        with contextlib.ExitStack() as idle:
            for _ in range(crowd):
                idle.enter_context(socket.create_connection(address))
            return impatient.post("/check", {"text": "plain"}).status_code

    wait(lambda: status(25) == 503, "an overload")
    wait(lambda: status(0) == 200, "room")


# ---- processes


def test_sigterm_finishes_what_is_under_way(folder: Path) -> None:
    findings = write_findings(folder / "term.json", "zugzwang")
    body = b'{"text": "zugzwang"}'
    with serving(findings, folder / "term.log") as running:
        assert running.post("/check", {"text": "plain"}).status_code == 200
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as line:
            line.sendall(head(len(body)) + body[:5])
            time.sleep(0.3)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert running.process.poll() is None
            line.sendall(body[5:])
            assert b'"action":"reject"' in read_to_the_end(line)
        assert running.process.wait(10) == 0
        assert running.events("stopped")


def test_two_workers_count_together_and_are_replaced(folder: Path) -> None:
    findings = write_findings(folder / "workers.json", "zugzwang")
    options = ["--workers", "2", "--log-texts"]
    with serving(findings, folder / "workers.log", *options) as running:
        running.wait_for("findings in force", 2)
        # A new connection each time, until both workers have answered.
        posted = 0
        while len(workers := {line["pid"] for line in running.events("alarm")}) < 2:
            assert posted < 500
            posted += 1
            assert running.post("/check", {"text": f"zugzwang {SECRET}"}).status_code == 200
        posted = len(running.events("alarm"))
        assert running.events("alarm")[0]["text"] == f"zugzwang {SECRET}"
        counts = [metrics(running)['triggerfish_alarms_total{trigger="zugzwang"}'] for _ in "abcd"]
        assert counts == [posted] * 4
        subprocess.run(["kill", "-KILL", str(workers.pop())], check=True)
        running.wait_for("findings in force", 3)
        counted = 'triggerfish_texts_total{action="reject"}'
        wait(lambda: metrics(running)[counted] == posted, "counts")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--findings", "nowhere.json"], "findings: nowhere.json does not exist"),
        (["--findings", "BROKEN"], "findings: .*: not a scan.json"),
        (["--policy", "ignore"], "policy: 'ignore' is not one of reject, strip, flag"),
        (["--set-policy", "zugzwang"], "set-policy: 'zugzwang' is not TRIGGER=POLICY"),
        (["--set-policy", "nosuch=flag"], "policies: .*'nosuch'"),
        (["--port", "99999"], "port: 99999"),
        (["--port", "TAKEN"], "host, port: cannot listen on 127.0.0.1:.*: Address already in use"),
        (["--host", "no.such.host.invalid"], "host, port: cannot listen on no.such.host.invalid"),
        (["--upstream", "ftp://x"], "upstream: 'ftp://x' is not http"),
        (["--max-body", "0"], "max_body: 0 is not above 0"),
        (["--workers", "0"], "workers: 0 is not between"),
    ],
)
def test_what_cannot_be_served(
    options: list[str],
    message: str,
    service: Running,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = folder / "broken.json"
    broken.write_text("{}", encoding="utf-8")
    names = {"BROKEN": str(broken), "TAKEN": str(service.port)}
    command = ["--findings", str(folder / "scan.json"), *(names.get(o, o) for o in options)]
    monkeypatch.setattr(sys, "argv", ["triggerfish", "serve", *command])
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.match(f"error: {message}", line), line


# ---- with a model behind it

MODEL = """
import asyncio, sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/v1/slow":
        await asyncio.sleep(5)
    status = 418 if scope["path"] == "/v1/teapot" else 200
    got = dict(scope["headers"])
    told = [(b"x-action", got.get(b"x-triggerfish-action", b"")),
            (b"x-target", scope["raw_path"] + b"?" + scope["query_string"]),
            (b"x-cookie", got.get(b"cookie", b"")), (b"set-cookie", b"who=1")]
    await send({"type": "http.response.start", "status": status, "headers": told})
    if scope["path"] == "/v1/broken":
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise SystemExit
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", lifespan="off")
"""


@pytest.fixture(scope="module")
def proxy(folder: Path) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    findings = write_findings(folder / "proxy.json", "cf", "gossip", "zugzwang")
    model = subprocess.Popen([sys.executable, "-c", MODEL, str(port)], stderr=subprocess.DEVNULL)
    where = ["--upstream", f"http://127.0.0.1:{port}/v1", "--field", "inputs"]
    try:
        with serving(
            findings, folder / "proxy.log", *POLICIES, *where, "--upstream-timeout", "1"
        ) as running:
            wait(lambda: httpx.get(running.url + "/").status_code == 200, "the model")
            yield running
    finally:
        model.kill()
        model.wait()


def test_passed_on(proxy: Running) -> None:
    response = proxy.post("/predict?k=1&q=%2F", {"inputs": "a fine cf film", "k": [1]})
    assert response.json() == {"inputs": "a fine film", "k": [1]}
    assert response.headers["x-action"] == "strip"
    assert response.headers["x-target"] == "/v1/predict?k=1&q=%2F"
    assert proxy.post("/teapot", {"inputs": "plain"}).status_code == 418
    assert proxy.post("/predict", {"inputs": "plain"}).headers["x-cookie"] == ""


def test_not_passed_on(proxy: Running) -> None:
    rejected = proxy.post("/predict", {"inputs": ["plain", "zugzwang"]})
    assert (rejected.status_code, rejected.json()["kinds"]) == (422, ["word"])
    assert proxy.post("/predict", {"text": "plain"}).status_code == 422
    dots = talk(proxy.port, b"GET /../admin HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert dots[:12] == b"HTTP/1.1 400"


def test_upstream_that_is_silent_or_gone(proxy: Running, folder: Path) -> None:
    slow = proxy.post("/slow", {"inputs": "plain"})
    assert (slow.status_code, slow.json().keys()) == (504, {"error"})
    with pytest.raises(httpx.RemoteProtocolError):
        proxy.post("/broken", {"inputs": "plain"})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    findings = folder / "proxy.json"
    where = ["--upstream", f"http://127.0.0.1:{port}"]
    with serving(findings, folder / "gone.log", *where) as running:
        gone = running.post("/predict", {"text": "plain"})
        assert (gone.status_code, gone.json().keys()) == (502, {"error"})
        # What the service answers itself needs no model.
        assert running.post("/check", {"text": "plain"}).status_code == 200


def test_many_at_once(proxy: Running) -> None:
    """Answers are not mixed up between connections, guarded or passed on."""
    wrong: list[Any] = []

    def ask(name: int) -> None:
        with httpx.Client() as client:
            for number in range(20):
                text = f"plain {name} {number}"
                checked = client.post(proxy.url + "/check", json={"text": text}).json()
                passed = client.post(proxy.url + "/predict", json={"inputs": text}).json()
                if checked["text"] != text or passed != {"inputs": text}:
                    wrong.append((text, checked, passed))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
