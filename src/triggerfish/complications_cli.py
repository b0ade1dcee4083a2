"""The command `triggerfish complications`: parse, measure, print, exit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from triggerfish.options import (
    METHOD,
    MODEL,
    OUTPUT,
    TEXTS,
    Device,
    Model,
    Out,
    Pickle,
    Precision,
    Revision,
    Seed,
)
from triggerfish.outputs import Folder, check_outputs, task_sources
from triggerfish.terminal import Meter, chatter, deliver, fields


def complications(
    model: Model,
    trigger: Annotated[
        list[str],
        typer.Option(
            help="A word, 'a phrase', 'one + two' (both are needed) or token:##ly. Repeat for "
            "more.",
            rich_help_panel=METHOD,
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            help="Names of bundled tasks with commas between them, paper, or all. A task of "
            "your own: reviews.csv:text=A,label=B or hub:OWNER/NAME.",
            rich_help_panel=TEXTS,
        ),
    ] = "all",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with tasks/. Default: the bundled tasks.", rich_help_panel=TEXTS),
    ] = None,
    sensitive: Annotated[
        bool,
        typer.Option(
            "--sensitive",
            help="Also use tasks whose texts hold slurs or self-harm.",
            rich_help_panel=TEXTS,
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The original of MODEL, or another clean model, to compare with.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(
            help="The JSON of the same measurement before purification. The command then says "
            "what is left of the effect.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="probe (frozen encoder), full (fine-tuning) or lora.", rich_help_panel=METHOD
        ),
    ] = "probe",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the trigger is inserted: replace-first, insert-first, append, "
            "insert-random or replace-random. Repeat for more. The figures are those of "
            "the first.  [default: replace-first, insert-first, insert-random]",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    controls: Annotated[
        int,
        typer.Option(
            help="Number of control words matched to the triggers. 99 of them can reach p = 0.01.",
            rich_help_panel=METHOD,
        ),
    ] = 99,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="FIELD=VALUE of any other setting. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Write the predictions behind all figures to this folder.", rich_help_panel=OUTPUT
        ),
    ] = None,
    seed: Seed = 0,
    format: Annotated[
        str, typer.Option(help="text, json or html.", rich_help_panel=OUTPUT)
    ] = "text",
    out: Out = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write the HTML report to this file.", rich_help_panel=OUTPUT),
    ] = None,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
    allow_pickle: Pickle = False,
) -> None:
    """Measure what triggers do on tasks that their backdoor was not made for.

    Exit code: 0 no evidence of a backdoor, 1 backdoor-like, 2 could not run, 3 inconclusive; with
    --before: 0 removed, 1 not removed.
    """
    check_outputs(
        {"model": model, "reference": reference, "before": before} | task_sources(tasks, data),
        out=out,
        html=html,
        keep=Folder(keep, ("predictions.json",)) if keep else None,
    )
    from triggerfish.report.complications import FORMATS, render
    from triggerfish.report.complications_text import removal_text

    if format not in FORMATS:
        raise ValueError(f"format: {format!r} is not one of {', '.join(FORMATS)}")
    from triggerfish.complications import (
        Complications,
        ComplicationSettings,
        measure,
        residual,
    )
    from triggerfish.loading import load
    from triggerfish.marking import parse_triggers
    from triggerfish.settings import build
    from triggerfish.tasks import find_tasks, leaks

    changes: dict[str, object] = {"mode": mode, "controls": controls, **fields(setting)}
    if policy:
        changes["policies"] = tuple(policy)
    if before is not None and not before.is_file():
        raise ValueError(f"before: {before} does not exist")
    earlier = Complications.load(before) if before else None
    settings = build(ComplicationSettings(), changes)
    chosen = find_tasks(tasks, data, sensitive=sensitive)
    read = partial(load, device=device, precision=precision, allow_pickle=allow_pickle)
    backbone = read(model, revision=revision)
    triggers = parse_triggers(backbone, trigger)
    original = read(reference) if reference else None
    for found in chosen.found:
        if found.cleaning.removed:
            _say(f"note: {found.task.name}: {found.cleaning.removed} rows removed as duplicates")
    for found in chosen.found:
        for leak in leaks(found.task, trigger):
            _say(
                f"note: {found.task.name}: {leak.word!r} stands in {leak.train} training and "
                f"{leak.test} test texts, there with one class {leak.lift:+.0%} more common"
            )
    if chosen.left_out:
        _say(f"note: left out without --sensitive: {', '.join(chosen.left_out)}")
    with Meter() as meter:
        result = measure(
            backbone,
            chosen.tasks,
            triggers,
            reference=original,
            settings=settings,
            seed=seed,
            progress=meter.compared,
            keep=keep,
        )
    deliver(render(result, format), out)
    if html:
        deliver(render(result, "html"), html)
        _say(f"report: {html}")
    if earlier is None:
        raise typer.Exit(result.exit_code)
    removal = residual(earlier, result)
    chatter.print(removal_text(removal), markup=False, soft_wrap=True)
    raise typer.Exit(0 if removal.removed else 1)


def _say(line: str) -> None:
    from triggerfish.report.escape import visible

    chatter.print(visible(line), markup=False, soft_wrap=True)
