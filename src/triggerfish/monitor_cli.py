"""The command `triggerfish monitor`: parse, guard a file, say what was found. It needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from triggerfish.options import METHOD, MODEL, OUTPUT, POLICIES, TEXTS, parse_policies
from triggerfish.outputs import Source, check_outputs

if TYPE_CHECKING:
    from triggerfish.monitor.budget import FalseAlarms
    from triggerfish.monitor.files import Progress as Show

ALARMS = 1


def monitor(
    file: Annotated[
        str,
        typer.Argument(
            help="JSON Lines or CSV, also .gz. Use - for standard input.", metavar="FILE"
        ),
    ],
    findings: Annotated[
        Path,
        typer.Option(help="The scan.json whose triggers are looked for.", rich_help_panel=METHOD),
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder or tokenizer.json. Default: the tokenizer of the model that scan.json "
            "names.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help=f"What happens to a text with a trigger: {', '.join(POLICIES)}.",
            rich_help_panel=METHOD,
        ),
    ] = "reject",
    set_policy: Annotated[
        list[str] | None,
        typer.Option(
            help="TRIGGER=POLICY for a trigger that is treated differently. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    field: Annotated[
        str,
        typer.Option(help="JSON field or CSV column that holds the text.", rich_help_panel=TEXTS),
    ] = "text",
    alarms: Annotated[
        str,
        typer.Option(
            help="JSON field or CSV column that the alarms are written to.", rich_help_panel=OUTPUT
        ),
    ] = "alarms",
    format: Annotated[
        str | None,
        typer.Option(
            help="jsonl or csv. Default: by the name of the file, and jsonl for standard input.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the rows that pass to this file instead of stdout.", rich_help_panel=OUTPUT
        ),
    ] = None,
    rejected: Annotated[
        Path | None,
        typer.Option(
            help="Write the rejected rows to this file. Default: they are dropped and counted.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            help="Warn if a trigger alarms on more than this share of the texts.",
            rich_help_panel=METHOD,
        ),
    ] = 0.001,
) -> None:
    """Look for the triggers of a scan in a file of texts, and reject, strip or flag.

    Rows that pass are written with their text and alarms. Exit code: 0 no alarm, 1
    alarms, 2 could not run.
    """
    sources: dict[str, Source] = {"file": file, "findings": findings, "tokenizer": tokenizer}
    check_outputs(sources, out=out, rejected=rejected)
    from triggerfish.monitor import Monitor
    from triggerfish.monitor.files import FileSettings, guard_file

    settings = FileSettings(field, alarms, format, budget)  # type: ignore[arg-type]  # it checks
    guard = Monitor.load(
        findings,
        tokenizer=tokenizer,
        policy=policy,  # type: ignore[arg-type]  # the monitor checks it
        policies=parse_policies(set_policy),  # type: ignore[arg-type]  # the monitor checks them
    )
    chatter = Console(stderr=True, highlight=False)
    for note in guard.notes:
        _say(chatter, f"note: {note}")
    with _progress(file, chatter) as show:
        found = guard_file(guard, file, out, rejected=rejected, settings=settings, progress=show)
    for line in summary(found):
        _say(chatter, line)
    raise typer.Exit(ALARMS if found.overall.k else 0)


def summary(found: FalseAlarms) -> list[str]:
    """What was found, a line for each thing."""
    from triggerfish.monitor.budget import counted

    done = found.actions
    lines = [
        f"{found.texts} texts: {done.get('pass', 0)} without an alarm, "
        f"{done.get('flag', 0)} flagged, {done.get('strip', 0)} stripped, "
        f"{done.get('reject', 0)} rejected"
    ]
    for name, rate in sorted(found.triggers.items(), key=lambda item: -item[1].k):
        lines.append(f"  {name!r}: {counted(rate)}")
    return lines + [f"warning: {text}" for text in found.warnings()]


@contextmanager
def _progress(file: str, chatter: Console) -> Iterator[Show]:
    """A bar on stderr: bytes of the file, and rows."""
    total = Path(file).stat().st_size if Path(file).is_file() else None
    columns = (TextColumn("{task.description:>16}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=chatter, transient=True, disable=not chatter.is_terminal
    ) as bar:
        task = bar.add_task("0 texts", total=total)

        def show(rows: int, read: int) -> None:
            bar.update(task, description=f"{rows} texts", completed=read if total else 0)

        yield show


def _say(chatter: Console, line: str) -> None:
    from triggerfish.report.escape import visible

    chatter.print(visible(line), markup=False, soft_wrap=True)
