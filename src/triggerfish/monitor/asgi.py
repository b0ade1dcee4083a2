"""Guards the JSON bodies that any ASGI application receives.

    app.add_middleware(GuardMiddleware, monitor=monitor, settings=GuardSettings(fields=("inputs",)))

A text with a `reject` trigger is answered with 422 and never reaches the application; `strip`
rewrites the body; `flag` lets it pass. The application and the client see what happened in the
header `x-triggerfish-action`. What cannot be checked is refused; a monitor that fails answers 503
unless `fail_open` is set.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triggerfish.foreign import OURS
from triggerfish.monitor.records import Checks, severest
from triggerfish.monitor.requests import (
    App,
    Gone,
    Headers,
    Message,
    Place,
    Receive,
    Refused,
    Scope,
    Send,
    parse_json,
    places,
    read_body,
)
from triggerfish.monitor.turns import Turns
from triggerfish.records import Checked
from triggerfish.settings import check

ACTION, KINDS = b"x-triggerfish-action", b"x-triggerfish-kinds"
UNCHECKED = "unchecked"
BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE", "TRACE")
LARGE = 32_768
"""Characters from which texts wait in a line of their own, so that small ones need not."""

SMALL_TEXTS, LARGE_TEXTS = Turns("small-texts"), Turns("large-texts")
"""All checks of a process, whatever application asks: they share the interpreter."""

log = logging.getLogger("triggerfish.monitor")


@dataclass(frozen=True)
class GuardSettings:
    """What is guarded, and how much is read."""

    fields: tuple[str, ...] = ("text",)
    """Dotted paths of JSON keys; every string at or below one is checked. Ours."""
    paths: tuple[str, ...] = ()
    """URL paths that are guarded, with all that lies below them; none given: all. Ours."""
    max_body: int = 262_144
    """Bytes; more is answered with 413. Ours: over 100 texts of 2 kB; the worst body, nothing but
    triggers, takes about a second to check."""
    max_batch: int = 256
    """Texts in one body; more is answered with 422. Ours."""
    check_seconds: float = 10.0
    """How long a body may wait for its turn and be checked; then 503, with `fail_open` too: being
    busy is no reason to let texts pass. Ours."""
    body_seconds: float = 10.0
    """How long a client may take to send its body; then 408. Ours."""
    fail_open: bool = False
    """Let a body pass unchecked when the monitor itself fails, instead of answering 503."""

    def __post_init__(self) -> None:
        check(self)
        if not self.fields or not all(self.fields):
            raise ValueError("fields: at least one is needed, none of them empty")
        for path in self.paths:
            if not path.startswith("/"):
                raise ValueError(f"paths: {path!r} does not begin with /")
        for name in ("max_body", "max_batch", "check_seconds", "body_seconds"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name}: {value} is not above 0")


class GuardMiddleware:
    """ASGI middleware; `monitor` is a `Monitor` or anything else with its `check_all`."""

    def __init__(
        self, app: App, monitor: Checks, settings: GuardSettings = GuardSettings()
    ) -> None:
        self.app = app
        self.monitor = monitor
        self.settings = settings
        self._paths = tuple(_plain(path) for path in settings.paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._guards(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":  # its messages would pass unseen
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._guard(scope, receive, send)

    def _guards(self, scope: Scope) -> bool:
        if not self._paths:
            return True
        path, root = scope["path"], scope.get("root_path", "")
        seen = {_plain(path), _plain(path.removeprefix(root))}
        return any(
            path == guarded or path.startswith(guarded.rstrip("/") + "/")
            for path in seen
            for guarded in self._paths
        )

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        limits = self.settings
        try:
            body = await read_body(receive, headers, limits.max_body, limits.body_seconds)
            if body or scope["method"] not in BODILESS:
                action, kinds, body = await self._check(body, headers)
            else:
                action, kinds = "pass", ()
        except Gone:
            return
        except Refused as refusal:
            await refuse(send, refusal.status, {"error": refusal.message})
            return
        if action == "reject":
            message = "rejected: the text carries a known trigger"
            await refuse(send, 422, {"error": message, "kinds": list(kinds)})
            return
        told = [(ACTION, action.encode())]
        if kinds:
            told.append((KINDS, ", ".join(kinds).encode()))
        passed = {**scope, "headers": _rewritten(headers, len(body), told)}
        await self.app(passed, _replay(body, receive), _telling(send, told))

    async def _check(self, body: bytes, headers: Headers) -> tuple[str, tuple[str, ...], bytes]:
        """The severest action, the kinds of triggers behind it, and the body to hand on."""
        document = parse_json(body, headers)
        texts = places(document, self.settings.fields)
        if len(texts) > self.settings.max_batch:
            raise Refused(
                422, f"body: {len(texts)} texts, at most {self.settings.max_batch} are checked"
            )
        checked = await check_texts(self.monitor, [place.text for place in texts], self.settings)
        if checked is None:
            return UNCHECKED, (), body
        kinds = tuple(sorted({alarm.kind for one in checked for alarm in one.alarms}))
        action = severest(checked)
        if action == "strip":
            body = _stripped(document, texts, checked)
        return action, kinds, body


async def check_texts(
    monitor: Checks, texts: Sequence[str], settings: GuardSettings
) -> list[Checked] | None:
    """What the monitor says of each text. `Refused` (503) when there was no time for it, and when
    the monitor itself fails, unless `fail_open`: then None."""
    turns = SMALL_TEXTS if sum(map(len, texts)) < LARGE else LARGE_TEXTS
    try:
        return await turns.run(settings.check_seconds, _checked, monitor, texts)
    except TimeoutError:
        raise Refused(503, "busy: there was no time to check the text") from None
    except Exception as error:  # whatever it is, an unchecked text must not pass by accident
        # Only the type: a message may quote the text.
        log.error("the monitor failed: %s", type(error.__cause__ or error).__name__)
        if settings.fail_open:
            return None
        raise Refused(503, "the monitor failed; nothing was checked") from error


def _checked(monitor: Checks, texts: Sequence[str]) -> list[Checked]:
    try:
        return monitor.check_all(texts)
    except TimeoutError as error:  # of the monitor, which is not being busy
        raise RuntimeError("a time limit inside the monitor") from error
    except (Exception, *OURS):
        raise
    except BaseException as error:  # the panics of native libraries
        raise RuntimeError(type(error).__name__) from error


def _stripped(document: Any, texts: list[Place], checked: list[Checked]) -> bytes:
    for place, one in zip(texts, checked, strict=True):
        place.holder[place.key] = one.text
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:  # reading may go a little deeper than writing
        raise Refused(400, "body: nested too deeply") from None


def _plain(path: str) -> str:
    """A path as a router may read it: no doubled slashes, no `..`, no slash at the end."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _rewritten(
    headers: Headers, length: int, told: list[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Headers for the application: length of the body it gets, and no claims of the client about
    what the guard saw."""
    ours = (ACTION, KINDS, b"content-length", b"transfer-encoding")
    kept = [
        (name, value) for name, value in headers if name.lower().replace(b"_", b"-") not in ours
    ]
    told_length = [(b"content-length", b"%d" % length)] if length else []
    return [*kept, *told_length, *told]


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _telling(send: Send, told: list[tuple[bytes, bytes]]) -> Send:
    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *told]}
        await send(message)

    return telling


async def refuse(send: Send, status: int, answer: Mapping[str, Any]) -> None:
    """A JSON answer. After an incomplete body the connection is closed: what follows on it is not a
    request."""
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
