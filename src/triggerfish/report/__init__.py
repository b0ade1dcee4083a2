"""How a scan is shown: plain text, scan.json, SARIF 2.1.0, and one self-contained HTML page.

Every format is a pure function from `ScanResult` to `str`. All input is hostile (a checkpoint
chooses its own name and its own tokens): text goes through `escape.visible` in every format, and
the HTML page through autoescaping as well.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triggerfish.records import ScanResult

FORMATS: dict[str, str] = {"text": "text", "json": "scanjson", "sarif": "sarif", "html": "html"}


def render(result: ScanResult, format: str = "text", saved: str | None = None) -> str:
    """The result in one of `FORMATS`; ValueError names the nearest format for an unknown one.
    saved: the file that holds the result, for the commands that a reader is told."""
    if format not in FORMATS:
        near = get_close_matches(format, FORMATS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"format: {format!r} is not one of {', '.join(FORMATS)}{hint}")
    module = import_module(f"{__name__}.{FORMATS[format]}")
    told = {"saved": saved} if format in ("text", "html") else {}
    text: str = module.render(result, **told)
    return text
