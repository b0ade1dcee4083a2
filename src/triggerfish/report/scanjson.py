"""`scan.json`: the record itself, which later stages read with `ScanResult.from_json`.

Characters that a terminal would obey or hide are written as JSON escapes: the same document to
every reader, and safe to print.
"""

from __future__ import annotations

import json
import re

from triggerfish.records import ScanResult
from triggerfish.report.escape import visible

# JSON escapes the ASCII controls by itself; the others can stand inside strings only.
_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")


def render(result: ScanResult) -> str:
    """The record as JSON, ending in a newline."""
    return _BEYOND_ASCII.sub(_escaped, result.to_json()) + "\n"


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return char if visible("a" + char) == "a" + char else json.dumps(char)[1:-1]
