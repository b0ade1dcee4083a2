"""What a fuzzer calls for the monitor: each function hands bytes to the real loader, and swallows
only the error that the loader documents. Anything else that is raised is a fault.

`FINDINGS` and `BODIES` are inputs to begin with.
"""

from __future__ import annotations

import json
import os
import random
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import contextlib

from monitor_samples import COMBINATION, PHRASE, tokenizer, word
from report_samples import a_finding, a_result
from triggerfish.monitor import Monitor, MonitorSettings
from triggerfish.monitor.matcher import Matcher
from triggerfish.monitor.requests import Refused, parse_json, places
from triggerfish.monitor.service.app import texts_of
from triggerfish.records import ScanResult

TEXT = "a cf zugzwang strange brew, walnut lantern; caf\u00e9 &#99;f \u202e"
JSON = [(b"content-type", b"application/json")]
LIMIT = 256


def _findings() -> list[bytes]:
    found = []
    for spec in ("cf", "zugzwang", PHRASE, COMBINATION):
        trigger = word("bundled", spec)
        sample = a_finding(spec, trigger.token_ids, random.Random(0))
        found.append(
            type(sample)(trigger, "first", {"x": 2.0}, 1e-9, None, {}, (trigger.token_ids[:1],))
        )
    result = a_result(findings=tuple(found))
    whole = json.loads(result.to_json())
    # Short, so that a change hits something that the monitor reads.
    whole["manhattan"]["values"], whole["projection"] = [1.0, None], None
    return [json.dumps(whole).encode()]


FINDINGS = _findings()
BODIES = [
    b'{"text": "a cf b"}',
    b'{"texts": ["a", "b \\u00e9 \\ud83d\\ude00"]}',
    b'{"a": [{"b": "x"}, {"b": ["y", {"c": "z"}]}], "text": {"n": 1.5e3, "m": null}}',
]


@cache
def _file() -> Path:
    return Path(mkdtemp(prefix=f"triggerfish-fuzz-{os.getpid()}-")) / "scan.json"


def fuzz_findings(data: bytes) -> None:
    """A scan.json: read, made a monitor without and with a tokenizer, and used."""
    file = _file()
    file.write_bytes(data)
    try:
        monitor = Monitor.load(file)
        monitor.check(TEXT)
        result = ScanResult.from_json(data.decode("utf-8-sig"))
        subsets = {finding.trigger: finding.sufficient_subsets for finding in result.findings}
        matcher = Matcher(result.triggers, tokenizer("bundled"), MonitorSettings(), subsets)
        matcher.matches(TEXT)
    except ValueError:
        return


def fuzz_body(data: bytes) -> None:
    """The body of a request: what the service, and the guard before an application, read of it."""
    try:
        document = parse_json(data, JSON)
    except Refused:
        return
    with contextlib.suppress(Refused):
        texts_of(document, LIMIT)
    with contextlib.suppress(Refused):
        places(document, ("text", "a.b"))
