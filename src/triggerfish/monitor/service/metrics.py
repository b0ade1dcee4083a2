"""What the service counts, in Prometheus' text format.

With several workers, every process writes its counts to files in `PROMETHEUS_MULTIPROC_DIR` and any
of them adds up all: the numbers are the service's, whichever worker answers. Counts of a worker
that died are kept. Triggers are shown as a report shows them: a terminal obeys nothing in a label.

Source: documentation of prometheus_client, "Multiprocess Mode".
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from triggerfish.records import Checked
from triggerfish.report.escape import visible

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)


class Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.texts = Counter(
            "triggerfish_texts", "Texts that were checked.", ["action"], registry=self.registry
        )
        self.alarms = Counter("triggerfish_alarms", "Alarms.", ["trigger"], registry=self.registry)
        self.seconds = Histogram(
            "triggerfish_check_seconds",
            "Time to check the texts of one request.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.requests = Counter(
            "triggerfish_requests", "Answers by status.", ["status"], registry=self.registry
        )
        self.failures = Counter(
            "triggerfish_failures",
            "Failures: of the monitor, or of a reload of the findings.",
            ["what"],
            registry=self.registry,
        )
        for what in ("monitor", "reload"):
            self.failures.labels(what).inc(0)
        for action in ("pass", "flag", "strip", "reject"):
            self.texts.labels(action).inc(0)

    def know(self, triggers: Iterable[str]) -> None:
        """Show triggers that have not been seen yet, at 0."""
        for trigger in triggers:
            self.alarms.labels(visible(trigger)).inc(0)

    def count(self, checked: Iterable[Checked], seconds: float) -> None:
        """Count the texts of one request, which took so long to check."""
        self.seconds.observe(seconds)
        for one in checked:
            self.texts.labels(one.action).inc()
            for alarm in one.alarms:
                self.alarms.labels(visible(alarm.trigger)).inc()

    def render(self) -> bytes:
        """The text format."""
        registry = self.registry
        if os.environ.get(DIRECTORY):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
