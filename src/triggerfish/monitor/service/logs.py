"""Log lines as JSON objects, one on each line.

Texts are private and hostile. They are not logged unless asked for, and neither are the messages of
exceptions, which may quote them: only the type and the place.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

FIELDS = "fields"


class JsonLines(logging.Formatter):
    """`log.info("event", extra={"fields": {...}})` as {"time", "level", "event", ...}."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment,
            "level": record.levelname.lower(),
            "pid": record.process,
            "event": record.getMessage().strip(),
            **vars(record).get(FIELDS, {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["at"] = [f"{frame.filename}:{frame.lineno}" for frame in frames[-3:]]
        return json.dumps(line, default=str)


CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "triggerfish.monitor.service.logs.JsonLines"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "stream": "ext://sys.stderr",
        }
    },
    "loggers": {
        "triggerfish": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # Below warnings, it tells what our own lines tell, and a line for every bad request.
        "uvicorn": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
    },
}
"""For `logging.config.dictConfig`; only the command uses it."""
