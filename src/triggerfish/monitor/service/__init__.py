"""The monitor as a service of its own: `triggerfish serve` (extra `serve`).

POST /check answers for one text or a batch, GET /healthz and GET /metrics tell how it fares, and
everything else is passed, guarded, to a model behind it where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from triggerfish.monitor.asgi import GuardSettings
from triggerfish.records import Policy
from triggerfish.settings import check


@dataclass(frozen=True)
class ServeSettings:
    """Everything that `triggerfish serve` can be told."""

    findings: Path
    """The scan.json to guard with."""
    tokenizer: Path | None = None
    """Folder or tokenizer.json; None: the model's own, where scan.json names a folder."""
    policy: Policy = "reject"
    """For every trigger that `policies` does not name. Ours: fail closed."""
    policies: Mapping[str, Policy] = field(default_factory=dict)
    """Policy by trigger text."""
    host: str = "127.0.0.1"
    """Address to listen on. Ours: the service has no authentication, so only this machine."""
    port: int = 8080
    """TCP port; 0: any free one, which the log names. Ours."""
    workers: int = 1
    """Processes. Ours: one does several thousand requests per second."""
    guard: GuardSettings = GuardSettings()
    """Limits; for requests that are passed on, also where the texts stand in their bodies."""
    upstream: str | None = None
    """http(s)://HOST[:PORT][/PATH] of a model; None: nothing is passed on."""
    upstream_seconds: float = 30.0
    """How long the model may be silent; then 504. Ours."""
    header_seconds: float = 10.0
    """How long a client may take for the headers of a request. Ours."""
    stalled_seconds: float = 30.0
    """How long a client may leave an answer unread; then the connection is dropped. Ours."""
    connections: int = 1024
    """Open connections of a worker; more are answered with 503. Ours: below common limits on open
    files."""
    reload_seconds: float = 2.0
    """How often the findings are looked at for changes. Ours."""
    load_seconds: float = 120.0
    """How long reading changed findings may take before `/healthz` calls it an error. Ours:
    100,000 findings take a tenth of it."""
    stop_seconds: int = 10
    """How long requests may take to finish after SIGTERM. Ours: orchestrators kill after 30."""
    log_texts: bool = False
    """Whether log lines of alarms hold the whole text. Ours: inputs are private."""

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port: {self.port} is not between 0 and 65535")
        if not 1 <= self.workers <= 256:
            raise ValueError(f"workers: {self.workers} is not between 1 and 256")
        seconds = ("upstream", "header", "stalled", "reload", "load")
        for name in (f"{what}_seconds" for what in seconds):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name}: {value} is not above 0")
        if self.upstream is not None:
            parts = urlsplit(self.upstream)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise ValueError(f"upstream: {self.upstream!r} is not http(s)://HOST[:PORT][/PATH]")
