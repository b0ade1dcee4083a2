"""The report as one self-contained HTML page, without scripts or requests.

Autoescaping is on everywhere, and hostile characters are made visible before it. A
Content-Security-Policy forbids loading and running anything, even if both should fail. Every number
of a finding is a <data> element whose value is the number of the record with all its digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from triggerfish.complications.records import Complications
from triggerfish.records import Finding, ScanResult
from triggerfish.report import complications_figures as drawn
from triggerfish.report import figures, glossary, manhattan
from triggerfish.report.escape import shorten, visible

_TRIGGER_WIDTH = 40
_IDS = 4
_PIECES = 12
_TOOLTIP = 600
# Only the first findings get cards; the table lists all of them.
_CARDS = 60


def render(result: ScanResult, saved: str | None = None) -> str:
    """The page as a string. saved: name of the file that contains the result."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, plain=glossary.plain, name=glossary.name_of)
    environment.globals.update(
        num=number_element, trigger=trigger_element, count=glossary.count, key=figures.key
    )
    return environment.get_template("page.html.j2").render(**_context(result, saved))


def _context(result: ScanResult, saved: str | None) -> dict[str, Any]:
    candidates = result.null.candidates
    tails = result.null.tails.values()
    outside = manhattan.outside(result.manhattan, result.findings)
    return {
        "result": result,
        "model": result.model,
        "headline": glossary.headline(result),
        "next_step": glossary.next_step(result, saved),
        "when": glossary.when(result.provenance),
        "near_title": glossary.near_title(result),
        "calibration": glossary.calibration(result),
        "error_control": glossary.error_control(result),
        "calibrated": result.null.calibration is not None,
        "triggers": _table("finding", result.findings, candidates),
        "near": _table("near-miss", result.near_misses, candidates),
        "target_columns": glossary.columns(result.targets),
        "rewrite_columns": glossary.columns(result.rewrites),
        "cards": [_card(index, finding) for index, finding in enumerate(result.findings[:_CARDS])],
        "meanings": _meanings(result),
        "checks": _checks(result),
        "manhattan": manhattan.figure(result.manhattan, result.findings, result.near_misses),
        "tried": sum(value is not None for value in result.manhattan.values),
        "outside": [(index, result.findings[index]) for index in outside],
        **_projection(result),
        **_complications(result),
        "tail_columns": list(dict.fromkeys(key for tail in tails for key in tail)),
        "coverage": glossary.coverage_lines(result),
    }


def number_element(value: float, shown: str | None = None) -> Markup:
    """A number in readable form, with the exact value of the record for programs and tests."""
    return Markup('<data value="{}">{}</data>').format(
        repr(value), glossary.number(value) if shown is None else shown
    )


def _chance(value: float | None, candidates: int) -> Markup:
    return (
        Markup("&ndash;")
        if value is None
        else number_element(value, glossary.chance(value, candidates))
    )


def trigger_element(text: str, width: int = _TRIGGER_WIDTH) -> Markup:
    """A trigger in a box that shows its spaces. A shortened one also has a tooltip and its
    length."""
    short, whole = shorten(text, width), visible(text)
    if short == whole:
        return Markup('<code class="trigger"><bdi>{}</bdi></code>').format(whole or "(empty)")
    return Markup(
        '<code class="trigger" title="{}"><bdi>{}</bdi></code> <small>{} characters</small>'
    ).format(shorten(text, _TOOLTIP), short, f"{len(text):,}")


def _table(
    kind: str, findings: tuple[Finding, ...], candidates: int
) -> tuple[str, list[str], list[dict[str, Any]]]:
    """Arguments of the table macro: the kind of its rows, the names of its statistics, its rows."""
    columns = glossary.columns(findings)
    rows = [_row(index, finding, columns, candidates) for index, finding in enumerate(findings)]
    return kind, columns, rows


def _row(index: int, finding: Finding, columns: list[str], candidates: int) -> dict[str, Any]:
    ids = finding.trigger.token_ids
    return {
        "index": index,
        "text": finding.trigger.text,
        "ids": " ".join(map(str, ids[:_IDS]))
        + (f" … {len(ids)} in all" if len(ids) > _IDS else ""),
        "readout": visible(finding.readout),
        "statistics": [finding.statistics.get(name) for name in columns],
        "p": _chance(finding.p_value, candidates),
        "q": _chance(finding.q_value, 0),
    }


def _card(index: int, finding: Finding) -> dict[str, Any]:
    return {
        "index": index,
        "text": finding.trigger.text,
        "evidence": [_check(key, value) for key, value in finding.evidence.items()],
    }


def _check(key: str, value: Any) -> dict[str, Any]:
    """One check of a card: numbers become a small chart, strings become boxes, all else a line of
    text."""
    values = glossary.numbers(value)
    check: dict[str, Any] = {
        "name": glossary.name_of(key),
        "chart": None,
        "steps": [],
        "pieces": [],
        "text": "",
    }
    if values is not None:
        steps = glossary.STEPS.get(key, ())
        if len(steps) != len(values):
            steps = tuple(str(position) for position in range(1, len(values) + 1))
        shown = list(zip(steps, value, strict=True))
        check["chart"] = figures.sparkline(values, check["name"], bars=key == "position")
        check["steps"] = shown if len(shown) <= 6 else [shown[0], shown[-1]]
    elif isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        check["pieces"] = [shorten(item, _TRIGGER_WIDTH) for item in value[:_PIECES]]
        check["text"] = f"… {len(value)} in all" if len(value) > _PIECES else ""
    elif isinstance(value, str):
        check["pieces"] = [shorten(value, _TRIGGER_WIDTH)]
    else:
        check["text"] = glossary.plain(value)
    return check


def _projection(result: ScanResult) -> dict[str, Any]:
    # A trigger has the same number as in the table. A scan without triggers projects its best near
    # misses, which are not drawn, because they are no triggers.
    series = {
        finding.trigger.text: index for index, finding in reversed(list(enumerate(result.findings)))
    }
    projected = result.projection.triggered if result.projection else {}
    shown = {name: points for name, points in projected.items() if name in series}
    if result.projection is None or not shown:
        return {"projection": None, "groups": []}
    groups = [(series[name], name, len(points)) for name, points in shown.items()]
    drawn = replace(result.projection, triggered=shown)
    return {"projection": figures.projection(drawn, series), "groups": sorted(groups)}


def _complications(result: ScanResult) -> dict[str, Any]:
    profile = Complications.of_scan(result)
    return {
        "complications": profile,
        "heat": drawn.heat_map(profile) if profile else None,
        "unmeasured": [task.name for task in profile.tasks if task.refused] if profile else [],
    }


def _meanings(result: ScanResult) -> list[tuple[str, str]]:
    columns = glossary.columns(
        [*result.findings, *result.near_misses, *result.targets, *result.rewrites]
    )
    columns += ["restarts"] if result.targets else []
    columns += [name for name in result.statistics if name not in columns]
    known = [
        (glossary.name_of(name), glossary.STATISTICS[name])
        for name in columns
        if name in glossary.STATISTICS
    ]
    return [*known, ("p", glossary.P_VALUE), ("q", glossary.Q_VALUE)]


def _checks(result: ScanResult) -> list[tuple[str, str]]:
    met: Mapping[str, None] = dict.fromkeys(
        key for finding in result.findings for key in finding.evidence
    )
    return [(glossary.name_of(key), glossary.CHECKS[key]) for key in met if key in glossary.CHECKS]
