"""The application: POST /check, GET /healthz, GET /metrics, and the guarded way to the model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from triggerfish.foreign import said
from triggerfish.monitor import Monitor
from triggerfish.monitor.asgi import (
    LARGE_TEXTS,
    SMALL_TEXTS,
    UNCHECKED,
    GuardMiddleware,
    check_texts,
)
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
from triggerfish.monitor.turns import Turns
from triggerfish.records import Alarm, Checked
from triggerfish.report.escape import visible

log = logging.getLogger("triggerfish.service")

STUCK = 2.0
"""Times its limit that a check may take before its process is replaced. Ours."""
SUPERVISED = 0.5
"""Seconds between two looks at the parent and at the checks. Ours."""
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
        self._reading = Turns("findings")
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
        except (
            BaseException
        ):  # counted whatever it is, then raised: the guard decides what to answer
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
        texts = texts_of(document, guard.max_batch)
        checked = await check_texts(self, texts, guard)
        if checked is None:
            answers = [_unchecked(text) for text in texts]
        else:
            answers = [_answer(one) for one in checked]
        return _Json(answers[0] if "text" in document else {"results": answers})

    async def health(self, request: Request) -> Response:
        now, problem = self.findings.now, self.findings.problem
        triggers = len(now.monitor.triggers)
        status = "stale findings" if problem else "ok" if triggers else "no triggers"
        return _Json(
            {
                "status": status,
                "triggers": triggers,
                "exact": now.monitor.exact,
                "findings": {
                    "file": visible(str(self.findings.path)),
                    "sha256": now.sha256,
                    "since": now.since,
                    "error": visible(problem.what) if problem else None,
                    "error_since": problem.since if problem else None,
                },
            }
        )

    async def show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        watching = [asyncio.create_task(task()) for task in (self._watch, self._supervise)]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            if self.upstream:
                await self.upstream.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.reload_seconds)
            seconds = self.settings.load_seconds
            try:
                news = await self._reading.run(seconds, self._poll)
            except TimeoutError:
                late = f"findings: reading {self.findings.path} takes more than {seconds:g} seconds"
                news = "broken" if self.findings.failed(late) else "same"
            if news == "changed":
                self._announce("findings reloaded")
            elif news == "broken" and (problem := self.findings.problem):
                self.metrics.failures.labels("reload").inc()
                fields = {"error": problem.what, "kept": self.findings.now.sha256}
                log.error("findings not reloaded", extra={"fields": fields})

    def _poll(self) -> Literal["same", "changed", "broken"]:
        try:
            return self.findings.poll()
        except TimeoutError as error:  # of a file system
            return "broken" if self.findings.failed(said(error)) else "same"

    async def _supervise(self) -> None:
        """End this process where its parent is gone, or where a check does not end although its
        time is long over: the parent starts another one."""
        parent, limit = os.getppid(), STUCK * self.settings.guard.check_seconds
        while True:
            await asyncio.sleep(SUPERVISED)
            if os.getppid() != parent:
                log.error("the parent process is gone: stopping")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            taken = max(SMALL_TEXTS.taken, LARGE_TEXTS.taken)
            if taken > limit:
                fields = {"seconds": round(taken, 1)}
                log.critical(
                    "a check does not end: this worker is replaced", extra={"fields": fields}
                )
                os._exit(1)

    def _announce(self, event: str) -> None:
        now = self.findings.now
        names = [trigger.text for trigger in now.monitor.triggers]
        self.metrics.know(names)
        fields = {"sha256": now.sha256, "triggers": len(names), "exact": now.monitor.exact}
        log.info(event, extra={"fields": fields})
        if not names:
            log.error("the findings name no trigger: every text passes", extra={"fields": fields})
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


class _Json(JSONResponse):
    """JSON in ASCII: a text or a trigger commands no terminal that shows an answer."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def texts_of(document: Any, limit: int) -> list[str]:
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
    return _Json({"error": error.message}, error.status, headers=closing)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _Json({"error": error.detail}, error.status_code, headers=error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it
