"""The middleware in front of an application that tells what it got: everything that is hostile is
refused before it, in one line that quotes nothing."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_samples import JSON, triggers
from triggerfish import Monitor
from triggerfish.loading import bundled
from triggerfish.monitor.asgi import GuardMiddleware, GuardSettings
from triggerfish.monitor.requests import Refused, parse_json, places
from triggerfish.records import Checked

REJECTED = "a zugzwang in the endgame"
STRIPPED = "a fine cf film"
FLAGGED = "the gossip of the town"
SECRET = "the body says swordfish"


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor(
        triggers("cf", "gossip", "zugzwang"),
        tokenizer=bundled(),
        policies={"cf": "strip", "gossip": "flag"},
    )


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the headers and the body that it got."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    answer = json.dumps({"headers": headers, "body": body.decode()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})


def ask(
    monitor: Any,
    content: Any,
    *,
    method: str = "POST",
    path: str = "/predict",
    headers: Mapping[str, str] = JSON,
    settings: GuardSettings = GuardSettings(),
) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(GuardMiddleware(echo, monitor, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(asked())


def test_clean_bodies_arrive_byte_for_byte(monitor: Monitor) -> None:
    body = '{"text" : "plain caf\\u00e9",\n "n": 1.10, "deep": [{"x": null}]}'
    response = ask(monitor, body)
    assert response.json()["body"] == body
    assert response.json()["headers"]["content-length"] == str(len(body))
    assert response.headers["x-triggerfish-action"] == "pass"


def test_reject(monitor: Monitor) -> None:
    response = ask(monitor, json.dumps({"text": REJECTED}))
    assert response.status_code == 422
    assert response.json() == {
        "error": "rejected: the text carries a known trigger",
        "kinds": ["word"],
    }


def test_strip(monitor: Monitor) -> None:
    body = {"id": 7, "text": [STRIPPED, "plain", FLAGGED], "größe": "XL"}
    response = ask(monitor, json.dumps(body, ensure_ascii=False).encode())
    got = response.json()
    assert json.loads(got["body"]) == {**body, "text": ["a fine film", "plain", FLAGGED]}
    assert got["headers"]["content-length"] == str(len(got["body"].encode()))
    assert got["headers"]["x-triggerfish-action"] == "strip"
    assert response.headers["x-triggerfish-kinds"] == "word"


def test_flag_and_claims_of_the_client(monitor: Monitor) -> None:
    body = json.dumps({"text": FLAGGED})
    claims = {"X-Triggerfish-Action": "pass", "x_triggerfish_kinds": "none"}
    got = ask(monitor, body, headers={**JSON, **claims}).json()
    assert got["body"] == body
    assert got["headers"]["x-triggerfish-action"] == "flag"
    assert got["headers"]["x-triggerfish-kinds"] == "word"
    assert "x_triggerfish_kinds" not in got["headers"]


HOSTILE = {
    "not JSON": (b'{"text": "' + SECRET.encode(), 400, "body: not JSON at character"),
    "two documents": (b'{"text": "a"} {"text": "b"}', 400, "body: not JSON"),
    "not UTF-8": (b'{"text": "\xff"}', 400, "body: not UTF-8 at byte 10"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), 400, "body: not UTF-8"),
    "byte order mark": (b'\xef\xbb\xbf{"text": "a"}', 400, "body: not JSON"),
    "key twice": (b'{"text": "a", "text": "zugzwang"}', 400, "body: .* same key twice"),
    "key twice, escaped": (b'{"text": "a", "\\u0074ext": "b"}', 400, "body: .* same key twice"),
    "deep": (b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "body: nested too deeply"),
    "deep objects": (b'{"a":' * 50_000, 400, "body: nested too deeply"),
    "huge integer": (b'{"text": "a", "n": ' + b"9" * 10_000 + b"}", 400, "body: .* digits"),
    "huge float": (b'{"text": "a", "n": 1e999}', 400, "body: .* too large"),
    "NaN": (b'{"text": "a", "n": NaN}', 400, "body: NaN"),
    "no field": (b'{"inputs": "a"}', 422, "text: missing"),
    "no object": (b'"a"', 422, "text: missing"),
    "number": (b'{"text": 3}', 422, "text: expected a string"),
    "null": (b'{"text": null}', 422, "text: expected a string"),
    "half a pair": (b'{"text": "a \\ud800 b"}', 422, "text: not Unicode at character 2"),
    "empty": (b"", 400, "body: not JSON"),
    "too many": (json.dumps({"text": ["a"] * 300}).encode(), 422, "body: 300 texts, at most 256"),
    "too large": (b'{"text": "' + b"a" * 500_000 + b'"}', 413, "body: more than 262144 bytes"),
    "far too large": (b"a" * 5_000_000, 413, "body: more than 262144 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bodies(case: str, monitor: Monitor) -> None:
    body, status, message = HOSTILE[case]
    response = ask(monitor, body)
    assert response.status_code == status
    (told,) = response.json().values()
    assert re.match(message, told), told
    assert "\n" not in told
    assert "swordfish" not in response.text


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_read_and_written_or_refused(opening: str, closing: str, monitor: Monitor) -> None:
    statuses = set()
    for depth in range(900, 1010):
        deep = opening * depth + "1" + closing * depth
        body = f'{{"text": "{STRIPPED}", "deep": {deep}}}'
        statuses.add(ask(monitor, body).status_code)
    assert statuses == {200, 400}


def test_bodies_of_unknown_length_are_limited(monitor: Monitor) -> None:
    async def chunks() -> Any:
        for _ in range(1_000):
            yield b"a" * 10_000

    assert ask(monitor, chunks()).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/jsonp"},
        {**JSON, "content-encoding": "gzip"},
    ],
)
def test_other_types(headers: dict[str, str], monitor: Monitor) -> None:
    response = ask(monitor, b'{"text": "a"}', headers=headers)
    assert response.status_code == 415
    assert response.json()["error"].startswith("content-")


@pytest.mark.parametrize("kind", ["application/json", 'Application/JSON; charset="UTF-8"'])
def test_types_that_are_json(kind: str, monitor: Monitor) -> None:
    assert ask(monitor, b'{"text": "a"}', headers={"content-type": kind}).status_code == 200


def test_problem_json_is_json(monitor: Monitor) -> None:
    kind = {"content-type": "application/vnd.api+json"}
    assert ask(monitor, b'{"text": "a"}', headers=kind).status_code == 200


@pytest.mark.parametrize(
    ("path", "guarded"),
    [
        ("/predict", True),
        ("/predict/", True),
        ("//predict", True),
        ("/x/../predict", True),
        ("/predict/batch", True),
        ("/predictions", False),
        ("/", False),
    ],
)
def test_paths(path: str, guarded: bool, monitor: Monitor) -> None:
    """As uvicorn gives them: decoded, and otherwise as they came."""
    middleware = GuardMiddleware(echo, monitor, GuardSettings(paths=("/predict",)))
    assert middleware._guards({"path": path}) == guarded


def test_mounted(monitor: Monitor) -> None:
    middleware = GuardMiddleware(echo, monitor, GuardSettings(paths=("/predict",)))
    assert middleware._guards({"path": "/v1/predict", "root_path": "/v1"})


def test_get_without_body_passes_and_with_body_does_not(monitor: Monitor) -> None:
    assert ask(monitor, b"", method="GET").status_code == 200
    body = json.dumps({"text": REJECTED}).encode()
    assert ask(monitor, body, method="GET").status_code == 422
    assert ask(monitor, body, method="DELETE").status_code == 422


def test_websockets_are_refused(monitor: Monitor) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/predict", "headers": []}
    asyncio.run(GuardMiddleware(echo, monitor)(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


class Broken:
    """A monitor that fails, with the text in its message, as careless code does."""

    def check(self, text: str) -> Checked:
        raise RuntimeError(text)

    def check_all(self, texts: Sequence[str]) -> list[Checked]:
        raise RuntimeError(str(texts))


@pytest.mark.parametrize("size", [1, 20_000])
def test_a_failing_monitor_lets_nothing_pass(size: int, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({"text": "swordfish " * size})
    response = ask(Broken(), body)
    assert response.status_code == 503
    assert response.json() == {"error": "the monitor failed; nothing was checked"}
    assert "RuntimeError" in caplog.text
    assert "swordfish" not in caplog.text


def test_fail_open(caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({"text": SECRET})
    response = ask(Broken(), body, settings=GuardSettings(fail_open=True))
    assert response.json()["body"] == body
    assert response.json()["headers"]["x-triggerfish-action"] == "unchecked"
    assert "RuntimeError" in caplog.text
    # Only a failure of the monitor opens; what cannot be read is still refused.
    assert ask(Broken(), b"{", settings=GuardSettings(fail_open=True)).status_code == 400


class Slow:
    """A monitor without a hurry."""

    def check(self, text: str) -> Checked:
        time.sleep(0.5)
        return Checked(text)

    def check_all(self, texts: Sequence[str]) -> list[Checked]:
        return [self.check(text) for text in texts]


def test_busy() -> None:
    """There is no way around the check by keeping it busy."""
    settings = GuardSettings(check_seconds=0.1, fail_open=True)
    response = ask(Slow(), json.dumps({"text": "plain " * 20_000}), settings=settings)
    assert response.status_code == 503
    assert response.json() == {"error": "busy: there was no time to check the text"}


def test_slow_body(monitor: Monitor) -> None:
    async def slow() -> Any:
        yield b'{"text": '
        await asyncio.sleep(5)
        yield b'"a"}'

    response = ask(monitor, slow(), settings=GuardSettings(body_seconds=0.1))
    assert response.status_code == 408
    assert response.json() == {"error": "body: not complete after 0.1 seconds"}


def test_client_that_leaves(monitor: Monitor) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(GuardMiddleware(echo, monitor)(scope, receive, send))
    assert sent == []


def test_fields() -> None:
    def texts(document: Any, *fields: str) -> list[str]:
        return [place.text for place in places(document, fields)]

    chat = {"messages": [{"content": "a", "role": "user"}, {"content": ["b", {"text": "c"}]}]}
    assert texts(chat, "messages.content") == ["a", "b", "c"]
    assert texts(chat, "messages") == ["a", "user", "b", "c"]
    assert texts(chat, "messages", "messages.content") == ["a", "user", "b", "c"]
    assert texts([{"q": "a"}, {"q": "b"}], "q") == ["a", "b"]
    assert texts({"q": "a", "c": "b"}, "q", "c", "no") == ["a", "b"]
    assert texts({"q": []}, "q") == []
    with pytest.raises(Refused, match=r"q\.r: missing"):
        texts({"q": "a"}, "q.r")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": ()}, "fields: at least one"),
        ({"fields": ("",)}, "fields: at least one"),
        ({"paths": ("predict",)}, "paths: 'predict' does not begin with /"),
        ({"max_body": 0}, "max_body: 0 is not above 0"),
        ({"max_batch": -1}, "max_batch: -1"),
        ({"body_seconds": 0}, "body_seconds: 0"),
        ({"check_seconds": 0}, "check_seconds: 0"),
    ],
)
def test_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuardSettings(**change)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    """And what is read is what any parser reads."""
    try:
        document = parse_json(body, [(b"content-type", b"application/json")])
        found = places(document, ("text",))
    except Refused:
        return
    assert json.dumps(document) == json.dumps(json.loads(body.decode("utf-8")))
    assert all(isinstance(place.text, str) for place in found)
