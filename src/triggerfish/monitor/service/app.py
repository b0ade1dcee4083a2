"""The application: POST /check, GET /healthz, GET /metrics, and the guarded way to the model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from triggerfish.monitor import Monitor
from triggerfish.monitor.asgi import UNCHECKED, GuardMiddleware, check_texts
from triggerfish.monitor.records import record
from triggerfish.monitor.requests import (
    App,
    Gone,
    Message,
    Receive,
    Refused,
    Scope,
    Send,
    check_unicode,
    parse_json,
    read_body,
)
from triggerfish.monitor.service import ServeSettings
from triggerfish.monitor.service.findings import Findings
from triggerfish.monitor.service.metrics import CONTENT_TYPE, Metrics
from triggerfish.monitor.service.upstream import Upstream
from triggerfish.records import Alarm, Checked

log = logging.getLogger("triggerfish.service")

EXPECTED = 'body: expected {"text": "..."} or {"texts": ["...", ...]}'


def make_app(settings: ServeSettings) -> Starlette:
    """The service; ValueError for findings that cannot be used."""
    service = _Service(settings)
    routes: list[BaseRoute] = [
        Route("/check", service.check, methods=["POST"]),
        Route("/healthz", service.health, methods=["GET"]),
        Route("/metrics", service.show_metrics, methods=["GET"]),
    ]
    if service.upstream:
        routes.append(Mount("", GuardMiddleware(service.upstream, service, settings.guard)))
    app = Starlette(
        routes=routes,
        lifespan=service.lifespan,
        exception_handlers={Refused: _refused, HTTPException: _failed, Gone: _gone},
    )
    app.router.redirect_slashes = False
    app.add_middleware(_Counted, metrics=service.metrics)
    return app


def load_monitor(settings: ServeSettings, path: Path) -> Monitor:
    """The monitor that the settings ask for, with findings from `path`."""
    return Monitor.load(
        path,
        tokenizer=settings.tokenizer,
        policy=settings.policy,
        policies=settings.policies,
    )


class _Service:
    """Endpoints, and a monitor that counts and logs what it sees."""

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self.metrics = Metrics()
        self.findings = Findings(settings.findings, partial(load_monitor, settings))
        self.upstream = settings.upstream and Upstream(
            settings.upstream,
            seconds=settings.upstream_seconds,
            max_body=settings.guard.max_body,
            connections=settings.connections,
        )
        self._announce("findings in force")

    def check_all(self, texts: Sequence[str]) -> list[Checked]:
        """As of a `Monitor`."""
        started = time.perf_counter()
        try:
            checked = self.findings.now.monitor.check_all(texts)
        except Exception:  # counted whatever it is, then raised: the guard decides what to answer
            self.metrics.failures.labels("monitor").inc()
            raise
        self.metrics.count(checked, time.perf_counter() - started)
        for text, one in zip(texts, checked, strict=True):
            if one.alarms:
                self._log_alarms(text, one)
        return checked

    def _log_alarms(self, text: str, checked: Checked) -> None:
        fields: dict[str, Any] = {
            "action": checked.action,
            "characters": len(text),
            "alarms": [_without_spans(alarm) for alarm in checked.alarms],
        }
        if self.settings.log_texts:
            fields["text"] = text
        log.warning("alarm", extra={"fields": fields})

    async def check(self, request: Request) -> Response:
        guard, headers = self.settings.guard, request.scope["headers"]
        body = await read_body(request.receive, headers, guard.max_body, guard.body_seconds)
        document = parse_json(body, headers)
        texts = _texts(document, guard.max_batch)
        checked = await check_texts(self, texts, guard)
        if checked is None:
            answers = [_unchecked(text) for text in texts]
        else:
            answers = [_answer(one) for one in checked]
        return JSONResponse(answers[0] if "text" in document else {"results": answers})

    async def health(self, request: Request) -> Response:
        now = self.findings.now
        return JSONResponse(
            {
                "status": "stale findings" if self.findings.error else "ok",
                "triggers": len(now.monitor.triggers),
                "exact": now.monitor.exact,
                "findings": {
                    "sha256": now.sha256,
                    "since": now.since,
                    "error": self.findings.error,
                },
            }
        )

    async def show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            if self.upstream:
                await self.upstream.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.reload_seconds)
            news = await asyncio.to_thread(self.findings.poll)
            if news == "changed":
                self._announce("findings reloaded")
            elif news == "broken":
                self.metrics.failures.labels("reload").inc()
                fields = {"error": self.findings.error, "kept": self.findings.now.sha256}
                log.error("findings not reloaded", extra={"fields": fields})

    def _announce(self, event: str) -> None:
        now = self.findings.now
        names = [trigger.text for trigger in now.monitor.triggers]
        self.metrics.know(names)
        fields = {"sha256": now.sha256, "triggers": len(names), "exact": now.monitor.exact}
        log.info(event, extra={"fields": fields})
        if not names:
            log.warning("the findings name no trigger: every text passes")
        for note in now.monitor.notes:
            log.warning(note)


class _Counted:
    """Counts answers by status."""

    def __init__(self, app: App, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting)


def _texts(document: Any, limit: int) -> list[str]:
    if not isinstance(document, dict) or set(document) not in ({"text"}, {"texts"}):
        raise Refused(422, EXPECTED)
    texts = [document["text"]] if "text" in document else document["texts"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(422, EXPECTED)
    if len(texts) > limit:
        raise Refused(422, f"texts: {len(texts)} given, at most {limit} are checked at once")
    for text in texts:
        check_unicode(text)
    return texts


def _answer(checked: Checked) -> dict[str, Any]:
    return {
        "ok": checked.ok,
        "action": checked.action,
        "risk": checked.risk,
        # A caller that hands on whatever stands here hands on no rejected text.
        "text": checked.text if checked.ok else None,
        "alarms": [record(alarm) for alarm in checked.alarms],
    }


def _without_spans(alarm: Alarm) -> dict[str, Any]:
    """For the log, which does not hold what they point into."""
    return {key: value for key, value in record(alarm).items() if key != "spans"}


def _unchecked(text: str) -> dict[str, Any]:
    return {"ok": True, "action": UNCHECKED, "risk": None, "text": text, "alarms": []}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    closing = {"connection": "close"} if error.status in (408, 413) else None
    return JSONResponse({"error": error.message}, error.status, headers=closing)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it
