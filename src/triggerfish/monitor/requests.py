"""Reads HTTP bodies strictly, and finds the texts in them.

What a guard checks must be what the application behind it reads. Two JSON parsers may disagree on
the same bytes: on a key that stands twice, on UTF-16, on a compressed body, on `NaN`. Everything
that they could disagree on is refused, with one line that never quotes the body.

Source: RFC 8259 (JSON), section 4 on keys that are not unique and section 8.1 on UTF-8.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

DRAINED = 4
"""A body that is too large is read to its end, so that its sender sees the answer, up to this many
times the limit."""

_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)


class Refused(Exception):
    """A request that is not served: an HTTP status and one line for whoever sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Gone(Exception):
    """The client went away before its body was complete."""


async def read_body(receive: Receive, headers: Headers, limit: int, seconds: float) -> bytes:
    """The whole body of a request. `Refused`: 413 above `limit` bytes, 408 when it is not there
    after `seconds`; `Gone` when the client left."""
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, _announced(headers), limit)
    except TimeoutError:
        raise Refused(408, f"body: not complete after {seconds:g} seconds") from None


def _announced(headers: Headers) -> int:
    lengths = [value for name, value in headers if name == b"content-length"]
    return int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else 0


async def _read(receive: Receive, announced: int, limit: int) -> bytes:
    too_large = Refused(413, f"body: more than {limit} bytes")
    if announced > DRAINED * limit:
        raise too_large
    size, chunks, more = 0, [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > DRAINED * limit:
            raise too_large
        if size <= limit:
            chunks.append(chunk)
        more = message.get("more_body", False)
    if size > limit:
        raise too_large
    return b"".join(chunks)


def parse_json(body: bytes, headers: Headers) -> Any:
    """The document in `body`. `Refused`: 415 for another content type or encoding, 400 for anything
    that is not one strict JSON document in UTF-8."""
    _check_type(headers)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"body: not UTF-8 at byte {error.start}") from None
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise Refused(400, f"body: not JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise Refused(400, "body: nested too deeply") from None
    except ValueError:  # Python refuses to convert integers of more than 4,300 digits
        raise Refused(400, "body: a number has too many digits") from None


def _check_type(headers: Headers) -> None:
    found = [value.decode("latin-1") for name, value in headers if name == b"content-type"]
    kind, _, parameters = (found[0] if len(found) == 1 else "").partition(";")
    charset = parameters.replace(" ", "").replace('"', "").lower()
    if not _JSON.fullmatch(kind.strip()) or charset not in ("", "charset=utf-8"):
        raise Refused(415, "content-type: expected application/json, in UTF-8")
    if any(
        value.strip().lower() not in (b"", b"identity")
        for name, value in headers
        if name == b"content-encoding"
    ):
        raise Refused(415, "content-encoding: expected none; compressed bodies are not read")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise Refused(400, "body: an object has the same key twice")
    return made


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise Refused(400, "body: a number is too large")
    return value


def _constant(_: str) -> NoReturn:
    raise Refused(400, "body: NaN and Infinity are not JSON")


@dataclass(frozen=True)
class Place:
    """Where a text stands in a document: `holder[key]`."""

    holder: Any
    key: Any

    @property
    def text(self) -> str:
        text: str = self.holder[self.key]
        return text


def places(document: Any, fields: Iterable[str]) -> list[Place]:
    """Every string at or below each of `fields`, in document order, each place once.

    A field is a dotted path of keys; lists on the way are walked through, so `messages.content` is
    the content of every message. `Refused` (422) where none of the fields is there, and where a
    field holds no string, list or object.
    """
    found: dict[tuple[int, Any], Place] = {}
    wanted = tuple(fields)
    for field in wanted:
        for place in _follow(document, field):
            for text in _strings(place, field):
                found[id(text.holder), text.key] = text
    if not found and not any(True for field in wanted for _ in _follow(document, field)):
        raise Refused(422, f"{' or '.join(wanted)}: missing; the guard has nothing to check")
    for place in found.values():
        check_unicode(place.text)
    return list(found.values())


def _follow(document: Any, field: str) -> Iterator[Place]:
    *path, last = field.split(".")
    level = [document]
    for key in path:
        level = [item[key] for item in _objects(level) if key in item]
    yield from (Place(item, last) for item in _objects(level) if last in item)


def _objects(level: list[Any]) -> Iterator[dict[str, Any]]:
    """The objects among `level` and in its lists."""
    waiting = level[::-1]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        elif isinstance(item, dict):
            yield item


def _strings(place: Place, field: str) -> Iterator[Place]:
    if not isinstance(place.holder[place.key], str | list | dict):
        raise Refused(422, f"{field}: expected a string, a list or an object")
    waiting = [place]
    while waiting:
        here = waiting.pop()
        value = here.holder[here.key]
        if isinstance(value, str):
            yield here
        elif isinstance(value, list):
            waiting.extend(Place(value, index) for index in reversed(range(len(value))))
        elif isinstance(value, dict):
            waiting.extend(Place(value, key) for key in reversed(value))


def check_unicode(text: str) -> None:
    """`Refused` (422) for half a surrogate pair, which JSON can write and UTF-8 cannot."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Refused(422, f"text: not Unicode at character {error.start}") from None
