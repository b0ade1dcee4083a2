"""The report as plain text for a terminal or a log: verdict first, no colours, no tricks.

`render` is safe to print anywhere: the only control character in it is the newline. `styled`
colours the same text for terminals that can show it.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from triggerfish.complications.records import Complications
from triggerfish.records import Finding, HiddenTarget, Rewrite, ScanResult, Verdict
from triggerfish.report import complications_text, glossary
from triggerfish.report.escape import quoted, shorten, visible

_TRIGGER_WIDTH = 32
_IDS_WIDTH = 24
_STYLE: dict[Verdict, str] = {
    "backdoored": "bold red",
    "clean": "bold green",
    "inconclusive": "bold yellow",
}


def render(result: ScanResult, saved: str | None = None) -> str:
    """The whole report, ending in a newline. saved: the file that holds the result."""
    model = result.model
    revision = f", revision {visible(model.revision)}" if model.revision else ""
    lines = [
        f"{result.verdict.upper()}  {visible(model.name)}{revision}",
        glossary.headline(result),
        "",
        *_bullets("Reasons", result.reasons),
    ]
    if result.findings:
        lines += ["Triggers", *_table(result.findings, result.null.candidates), ""]
        lines += ["Evidence", *_evidence(result.findings), ""]
    profile = Complications.of_scan(result)
    if profile is not None:
        lines += ["Complications (what the triggers do to tasks)"]
        lines += [*complications_text.section(profile), ""]
    if result.near_misses:
        lines += [glossary.near_title(result)]
        lines += [*_table(result.near_misses, result.null.candidates, "candidate"), ""]
    if result.rewrites:
        lines += ["Rewritings (whole texts, rewritten; no token explains the effect)"]
        lines += [*_rewrites(result.rewrites), ""]
    if result.targets:
        lines += ["Hidden targets (no string is known that reaches them)"]
        lines += [*_targets(result.targets), ""]
    if result.statistics:
        lines += ["Other measurements"]
        lines += [f"  {glossary.statistic_line(*pair)}" for pair in result.statistics.items()]
        lines += [""]
    lines += ["Examined", *(f"  {line}" for line in glossary.coverage_lines(result)), ""]
    lines += _bullets("Not examined", result.coverage.not_examined)
    lines += [
        f"Error control: {glossary.error_control(result)}",
        f"Scanned: {glossary.when(result.provenance)}",
        f"Cost: {glossary.number(result.seconds)} seconds, "
        f"{result.forward_tokens:,} forward tokens",
        *(
            f"Weights: {visible(file)} sha256 {visible(sha)}"
            for file, sha in model.weights_sha256.items()
        ),
        f"Tokenizer: sha256 {visible(model.tokenizer_sha256)}",
        "",
        f"Next: {glossary.next_step(result, saved)}",
    ]
    return "\n".join(lines) + "\n"


def styled(result: ScanResult) -> Text:
    """The same text with the verdict and the headings in colour, for a rich console."""
    text = Text(render(result))
    text.stylize(_STYLE[result.verdict], 0, len(result.verdict))
    text.highlight_regex(
        r"(?m)^(Reasons|Triggers|Evidence|Complications|Near misses|Highest-ranked candidates|"
        r"Hidden targets|Rewritings|Other measurements|Examined|Not examined)\b",
        "bold",
    )
    return text


def _bullets(title: str, items: tuple[str, ...]) -> list[str]:
    return [title, *(f"  - {visible(item)}" for item in items), ""] if items else []


def _table(findings: tuple[Finding, ...], candidates: int, what: str = "trigger") -> list[str]:
    names = glossary.columns(findings)
    head = ["#", what, "token ids", "readout", *map(glossary.name_of, names), "p", "q"]
    rows = [
        [
            str(index),
            quoted(finding.trigger.text, _TRIGGER_WIDTH),
            shorten(" ".join(map(str, finding.trigger.token_ids)), _IDS_WIDTH),
            visible(finding.readout),
            *(_statistic(finding, name) for name in names),
            glossary.chance(finding.p_value, candidates),
            glossary.chance(finding.q_value, 0),
        ]
        for index, finding in enumerate(findings, start=1)
    ]
    return _aligned([head, *rows], left=4)


def _targets(targets: tuple[HiddenTarget, ...]) -> list[str]:
    names = glossary.columns(targets)
    head = ["#", "readout", "restarts", *map(glossary.name_of, names)]
    rows = [
        [
            str(index),
            visible(target.readout),
            str(target.restarts),
            *(_statistic(target, name) for name in names),
        ]
        for index, target in enumerate(targets, start=1)
    ]
    return _aligned([head, *rows], left=2)


def _rewrites(found: tuple[Rewrite, ...]) -> list[str]:
    names = glossary.columns(found)
    head = ["#", "rewriting", "readout", *map(glossary.name_of, names), "p, corrected"]
    rows = [
        [
            str(index),
            quoted(one.name, _TRIGGER_WIDTH),
            visible(one.readout),
            *(_statistic(one, name) for name in names),
            glossary.chance(one.p_value, 0),
        ]
        for index, one in enumerate(found, start=1)
    ]
    examples = [f"  {index}  {quoted(one.example)}" for index, one in enumerate(found, start=1)]
    return [*_aligned([head, *rows], left=3), *examples]


def _statistic(finding: Finding | HiddenTarget | Rewrite, name: str) -> str:
    known = finding.statistics
    return glossary.number(known[name]) if name in known else glossary.MISSING


def _aligned(rows: list[list[str]], left: int) -> list[str]:
    """Padded by terminal cells, not characters; the first `left` columns lean left."""
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            pad = " " * (widths[column] - cell_len(cell))
            cells.append(cell + pad if column < left else pad + cell)
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _evidence(findings: tuple[Finding, ...]) -> list[str]:
    lines = []
    for index, finding in enumerate(findings, start=1):
        checks = [
            f"{glossary.name_of(key)} {glossary.plain(value)}"
            for key, value in finding.evidence.items()
        ]
        lines.append(f"  {index}  {'; '.join(checks) or 'none recorded'}")
        whole = quoted(finding.trigger.text)
        if cell_len(whole) > _TRIGGER_WIDTH + 2:
            lines.append(f"     in full: {whole}")
    return lines
