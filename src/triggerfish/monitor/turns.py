"""Work off the event loop, under a time limit.

Python cannot stop a thread, and native code need not return. A piece of work that takes too long is
given up by who waits for it; whoever comes while it still runs is refused at once, so nothing piles
up. The thread is a daemon: it does not keep the process from ending. Who can replace the process
looks at `taken` (service/server.py does).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Piece = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Turns:
    """One thread, one piece of work after another."""

    def __init__(self, name: str):
        self._name = name
        self._waiting: SimpleQueue[Piece] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._began: float | None = None

    @property
    def taken(self) -> float:
        """Seconds that the piece now at work has taken; 0 where there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    async def run(self, seconds: float, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns or raises. TimeoutError where it had no turn, or was not done, after
        so many seconds."""
        if self.taken > seconds:
            raise TimeoutError
        future: Future[T] = Future()
        self._start()
        self._waiting.put((future, work, arguments))
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(future)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            future, work, arguments = self._waiting.get()
            if not future.set_running_or_notify_cancel():
                continue
            self._began = time.monotonic()
            try:
                result = work(*arguments)
            except BaseException as error:  # also the panics of native libraries
                self._began = None
                future.set_exception(error)
            else:
                self._began = None
                future.set_result(result)
