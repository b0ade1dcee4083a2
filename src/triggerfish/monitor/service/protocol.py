"""HTTP connections that lose patience.

uvicorn waits without end for the headers of a request, however many they are, and for an answer to
be read; a few hundred clients that never finish would fill every connection. Here both have a time
limit, and headers a size limit. (Bodies have theirs where they are read.)
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 65_536
"""Of one request: what common servers take at most."""


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, in seconds, on receiving headers and on an unread answer."""

    def __init__(self, *, header_seconds: float, stalled_seconds: float, **given: Any) -> None:
        super().__init__(**given)
        self._header_seconds = header_seconds
        self._stalled_seconds = stalled_seconds
        self._headers_due: asyncio.TimerHandle | None = None
        self._reading_due: asyncio.TimerHandle | None = None
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_done()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._headers_due is not None and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self.send_400_response("Headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._headers_due is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        self._headers_done()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reading_due is None:
            self._reading_due = self.loop.call_later(self._stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading_due is not None:
            self._reading_due.cancel()
            self._reading_due = None

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._headers_due = self.loop.call_later(self._header_seconds, self._headers_late)

    def _headers_done(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _headers_late(self) -> None:
        self._headers_due = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_headers()  # the answer to the request before goes first
        elif not self.transport.is_closing():
            self.transport.close()
