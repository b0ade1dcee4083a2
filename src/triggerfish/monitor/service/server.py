"""Runs the application under uvicorn: the socket, workers, signals."""

from __future__ import annotations

import contextlib
import logging
import logging.config
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import partial

from starlette.applications import Starlette
from uvicorn import Config
from uvicorn.supervisors import Multiprocess

from triggerfish.monitor.service import ServeSettings
from triggerfish.monitor.service.app import STUCK, load_monitor, make_app
from triggerfish.monitor.service.findings import ordinary
from triggerfish.monitor.service.logs import CONFIG
from triggerfish.monitor.service.metrics import DIRECTORY
from triggerfish.monitor.service.protocol import PatientProtocol

log = logging.getLogger("triggerfish.service")

IDLE_SECONDS = 5
BACKLOG = 2048
SILENT_SECONDS = 20.0
"""How long a worker may not answer its parent at least, as while it loads its libraries. Ours."""
KILL_SECONDS = 5.0
"""How much longer than `stop_seconds` a worker has to stop before it is killed. Ours."""


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; requests that are under way are finished. ValueError for
    findings that cannot be used and for an address that cannot be listened on."""
    ordinary(settings.findings)
    load_monitor(settings, settings.findings)  # one clear error, before a worker fails on it
    with _listening(settings) as listener, _shared_counts():
        logging.config.dictConfig(CONFIG)
        address = listener.getsockname()
        fields = {"host": address[0], "port": address[1], "workers": settings.workers}
        log.info("listening", extra={"fields": fields})
        _Workers(_config(settings), [listener], settings.stop_seconds + KILL_SECONDS).run()
        log.info("stopped")


class _Workers(Multiprocess):
    """The parent of the workers, even of a single one: it replaces one that died, or that does not
    answer because native code holds it, and kills one that does not stop in time."""

    def __init__(self, config: Config, sockets: list[socket.socket], seconds: float):
        super().__init__(config, sockets)
        self._seconds = seconds

    def join_all(self) -> None:
        end = time.monotonic() + self._seconds
        for worker in self.processes:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                log.error(
                    "a worker does not stop: killed", extra={"fields": {"worker": worker.pid}}
                )
                worker.process.kill()
                worker.process.join()


def _config(settings: ServeSettings) -> Config:
    return Config(
        partial(_application, settings),
        factory=True,
        http=partial(  # type: ignore[arg-type]
            PatientProtocol,
            header_seconds=settings.header_seconds,
            stalled_seconds=settings.stalled_seconds,
        ),
        loop="uvloop",
        ws="none",
        lifespan="on",
        workers=settings.workers,
        log_config=CONFIG,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=settings.stop_seconds,
        timeout_worker_healthcheck=math.ceil(
            max(SILENT_SECONDS, STUCK * settings.guard.check_seconds)
        ),
    )


def _application(settings: ServeSettings) -> Starlette:
    try:
        return make_app(settings)
    except (ValueError, OSError) as error:  # of a worker that replaces another
        fields = {"error": str(error)}
        log.error("a worker cannot start", extra={"fields": fields})
        raise SystemExit(1) from None


@contextlib.contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=BACKLOG
        )
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ValueError(
            f"host, port: cannot listen on {settings.host}:{settings.port}: {why}"
        ) from None
    listener.set_inheritable(True)
    with listener:
        yield listener


@contextlib.contextmanager
def _shared_counts() -> Iterator[None]:
    """A folder in which workers add up their counts."""
    with tempfile.TemporaryDirectory(prefix="triggerfish-") as folder:
        os.environ[DIRECTORY] = folder
        try:
            yield
        finally:
            del os.environ[DIRECTORY]
