"""Passes requests on to a model behind the service, and its answers back.

Nothing is kept between requests but open connections: no cookies, no redirects followed, no proxies
from the environment. An upstream that cannot be reached or breaks off is answered with 502, one
that is silent too long with 504.

Source: RFC 9110, section 7.6 (what an intermediary must not forward).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import httpx2 as httpx

from triggerfish.monitor.asgi import refuse
from triggerfish.monitor.requests import Gone, Headers, Receive, Refused, Scope, Send, read_body

HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te"),
        *(b"proxy-authorization", b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
OURS = frozenset((b"host", b"expect", b"content-length"))
IDLE_SECONDS = 2.0
"""Below what common servers keep idle connections, so that they are not closed under a request."""


class Upstream:
    """An ASGI application that is somewhere else."""

    def __init__(self, url: str, *, seconds: float, max_body: int, connections: int):
        self._url = httpx.URL(url)
        self._seconds = seconds
        self._max_body = max_body
        self._transport = httpx.AsyncHTTPTransport(
            trust_env=False,
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=IDLE_SECONDS,
            ),
        )

    async def close(self) -> None:
        await self._transport.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a scope of type {scope['type']} cannot be passed on")
        try:
            request = await self._request(scope, receive)
            response = await self._transport.handle_async_request(request)
        except Gone:
            return
        except Refused as refusal:
            await refuse(send, refusal.status, {"error": refusal.message})
        except httpx.TimeoutException:
            await refuse(send, 504, {"error": "the model behind this service did not answer"})
        except (httpx.TransportError, OSError):
            await refuse(send, 502, {"error": "the model behind this service is not reachable"})
        else:
            await _pass_back(response, send)

    async def _request(self, scope: Scope, receive: Receive) -> httpx.Request:
        if any(part in (".", "..") for part in scope["path"].split("/")):
            raise Refused(400, "path: . and .. are not passed on")
        headers = scope["headers"]
        body = await read_body(receive, headers, self._max_body, self._seconds)
        path = self._url.raw_path.rstrip(b"/") + scope["raw_path"]
        if scope["query_string"]:
            path += b"?" + scope["query_string"]
        try:
            url = self._url.copy_with(raw_path=path)
        except httpx.InvalidURL:
            raise Refused(400, "path: not a valid URL") from None
        seconds = self._seconds
        patience = {"connect": seconds, "read": seconds, "write": seconds, "pool": seconds}
        kept = list(_forwarded(headers, OURS))
        return httpx.Request(
            scope["method"],
            url,
            headers=kept,
            content=body if body else None,
            extensions={"timeout": patience},
        )


async def _pass_back(response: httpx.Response, send: Send) -> None:
    """Break off, so that the server closes the connection, where the upstream breaks off."""
    try:
        headers = list(_forwarded(response.headers.raw, frozenset()))
        start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
        await send(start)
        async for chunk in response.stream:  # type: ignore[union-attr]
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await response.aclose()


def _forwarded(headers: Headers, ours: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        part.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for part in value.split(b",")
    }
    dropped = HOP_BY_HOP | named | set(ours)
    return ((name, value) for name, value in pairs if name not in dropped)
