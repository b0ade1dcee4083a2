"""Complications as one HTML page that needs nothing else, in the manner of the scan's report: no
script, no request, everything escaped, every number exact in a <data> element."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triggerfish.complications.records import Complications, Conclusion
from triggerfish.report import complications_figures as drawn
from triggerfish.report import complications_text as words
from triggerfish.report import figures, glossary, html
from triggerfish.report.escape import visible

TONE: dict[Conclusion, str] = {
    "backdoor-like": "backdoored",
    "inconclusive": "inconclusive",
    "no evidence": "clean",
}
SHARES = 8
"""Triggers whose class shares are drawn; the tables and the heat map have all."""


def render(result: Complications) -> str:
    """The page as a string."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, plain=glossary.plain, name=glossary.name_of)
    environment.globals.update(
        num=html.number_element, trigger=html.trigger_element, key=figures.key
    )
    triggers = [profile.trigger.text for profile in result.profiles]
    plots = [
        (
            task,
            [
                drawn.shares(result.of(task.name, name), task.labels, series)
                for series, name in enumerate(triggers[:SHARES])
            ],
        )
        for task in result.tasks
    ]
    return environment.get_template("complications.html.j2").render(
        result=result,
        model=result.model,
        tone=TONE[result.reading],
        meaning=words.MEANING[result.reading],
        next_step=words.NEXT_STEP[result.reading],
        when=glossary.when(result.provenance),
        heat=drawn.heat_map(result),
        plots=plots,
        drawn=triggers[:SHARES],
        left_out=len(triggers) - len(triggers[:SHARES]),
        limitations=words.limitations(result),
        controls=words.controls(result),
        terms=words.TERMS,
    )
