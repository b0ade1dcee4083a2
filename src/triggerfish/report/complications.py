"""How a measurement of complications is shown: plain text, JSON, or one HTML page."""

from __future__ import annotations

from triggerfish.complications.records import Complications
from triggerfish.report import complications_html, complications_text

FORMATS = ("text", "json", "html")


def render(result: Complications, format: str = "text") -> str:
    """The result in one of `FORMATS`; ValueError for another one."""
    if format not in FORMATS:
        raise ValueError(f"format: {format!r} is not one of {', '.join(FORMATS)}")
    if format == "json":
        return result.to_json() + "\n"
    if format == "html":
        return complications_html.render(result)
    return complications_text.render(result)
