"""The tables of a grid as OUT/README.md and OUT/index.html, from the files in OUT alone.

Names and error lines are hostile: characters that a screen would obey or hide are made visible,
then what Markdown or HTML would read as markup is escaped. The page has no scripts and a
Content-Security-Policy that forbids loading anything.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from triggerfish.bench.cells import Results
from triggerfish.bench.entries import Filled, Found, Notes, fill
from triggerfish.bench.grid import Grid
from triggerfish.report.escape import visible
from triggerfish.writing import write_text

_LEGEND = (
    "Rates: percentage (successes/trials; exact 95 % Clopper-Pearson interval of the counts, "
    "pooled over the cells of an entry as independent trials). Other numbers: mean "
    "(minimum-maximum) over the cells of an entry. An empty entry is not in the grid."
)


@dataclass(frozen=True)
class _Page:
    title: str
    facts: list[str]
    tables: list[Filled]
    notes: list[str]


def render(out: str | Path) -> None:
    """Write OUT/README.md and OUT/index.html from the files of records there.

    ValueError where `out` holds no grid, or a file that is not what it should be.
    """
    out = Path(out)
    page = _read(out)
    write_text(out / "README.md", markdown(page))
    write_text(out / "index.html", html(page))


def _read(out: Path) -> _Page:
    grid, results = Grid.load(out), Results(out)
    records, failures = {}, {}
    for cell in grid.cells:
        if record := results.read(cell):
            records[cell.hash] = record
        elif failure := results.read_failure(cell):
            failures[cell.hash] = failure
    left = len(grid.cells) - len(records) - len(failures)
    facts = [
        f"{len(grid.cells)} cells: {len(records)} measured, {len(failures)} failed, {left} not run",
        f"measured by stage {grid.measure!r} of plan {grid.plan!r}",
    ]
    if others := results.others(grid.cells):
        facts.append(f"{others} more cells lie here that are not part of this grid")
    environments = Counter(
        ", ".join(f"{name} {value}" for name, value in record["environment"].items())
        for record in records.values()
    )
    facts += [f"{count} cells with {text}" for text, count in sorted(environments.items())]
    notes = Notes()
    found = Found(records, failures, notes)
    tables = [fill(table, grid.cells, found) for table in grid.tables]
    return _Page(grid.name, facts, tables, notes.texts)


def markdown(page: _Page) -> str:
    lines = [f"# {_md(page.title)}", "", "Rendered by `triggerfish bench` from the files here.", ""]
    lines += [f"- {_md(fact)}" for fact in page.facts]
    for table in page.tables:
        lines += ["", f"## {_md(table.title)}", ""]
        lines.append(_row(table.head))
        lines.append("|" + "---|" * len(table.head))
        lines += [_row(row) for row in table.rows]
        if table.pooled:
            lines += ["", f"Pooled over {_md(', '.join(table.pooled))}."]
    if page.tables:
        lines += ["", _LEGEND]
    if page.notes:
        lines.append("")
    lines += [f"{number}. {_md(note)}" for number, note in enumerate(page.notes, 1)]
    return "\n".join(lines) + "\n"


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(map(_md, texts))} |"


_MARKUP = re.compile(r"(?P<mark>[\\`*_{}\[\]~#])|[<>&@|]|:(?=//)|(?i:(?<=www)\.)")


def _md(text: str) -> str:
    """`text` as Markdown that shows it and nothing else: no markup, no links."""
    return _MARKUP.sub(_escaped, visible(text))


def _escaped(match: re.Match[str]) -> str:
    return "\\" + match[0] if match["mark"] else f"&#{ord(match[0])};"


def html(page: _Page) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    return environment.from_string(_HTML).render(page=page, legend=_LEGEND)


_HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ page.title|visible }}</title>
<style>
:root { color-scheme: light dark; }
body { max-width: 1120px; margin: 0 auto; padding: 24px; font: 15px/1.5 system-ui, sans-serif; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid #8886; text-align: left; }
thead th { border-bottom: 2px solid #888a; }
tbody th { font-weight: normal; overflow-wrap: anywhere; }
.small { font-size: 13px; opacity: .8; }
</style>
</head>
<body>
<h1>{{ page.title|visible }}</h1>
<ul class="small">
{% for fact in page.facts %}
<li>{{ fact|visible }}</li>
{% endfor %}
</ul>
{% for table in page.tables %}
<h2>{{ table.title|visible }}</h2>
<div class="wide"><table>
<thead><tr>
{% for name in table.head %}
<th scope="col">{{ name|visible }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for text in row %}
{% if loop.index <= table.keys %}
<th scope="row">{{ text|visible }}</th>
{% else %}
<td>{{ text|visible }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table></div>
{% if table.pooled %}
<p class="small">Pooled over {{ table.pooled|join(", ")|visible }}.</p>
{% endif %}
{% endfor %}
{% if page.tables %}
<p class="small">{{ legend }}</p>
{% endif %}
{% if page.notes %}
<ol class="small">
{% for note in page.notes %}
<li>{{ note|visible }}</li>
{% endfor %}
</ol>
{% endif %}
</body>
</html>
"""
