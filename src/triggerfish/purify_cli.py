"""The command `triggerfish purify`: parse, run the loop, write the checkpoint, say what became of
it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triggerfish.options import (
    COST,
    METHOD,
    MODEL,
    OUTPUT,
    TEXTS,
    Device,
    Model,
    Pickle,
    Precision,
    Revision,
    Seed,
)
from triggerfish.outputs import Folder, check_outputs
from triggerfish.purify import METHODS
from triggerfish.terminal import Meter, chatter, continuing, deliver, fields

if TYPE_CHECKING:
    from triggerfish.purify.loop import Purified
    from triggerfish.purify.tasks import OnTask


def purify(
    model: Model,
    findings: Annotated[Path, typer.Option(help="The scan.json of MODEL.", rich_help_panel=METHOD)],
    out: Annotated[
        Path,
        typer.Option(help="Write the purified checkpoint to this folder.", rich_help_panel=OUTPUT),
    ],
    method: Annotated[
        str, typer.Option(help=f"{', '.join(METHODS)}.", rich_help_panel=METHOD)
    ] = "align",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="FIELD=VALUE of a setting of the method. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="Which weights are trained: full (all), lora, or lower (the lower layers).",
            rich_help_panel=METHOD,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Largest number of rounds. A round purifies and scans again.",
            rich_help_panel=METHOD,
        ),
    ] = 3,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The clean original of MODEL, if there is one. It shows how clean texts "
            "should be represented, and some methods need it.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Ordinary texts, as for scan. Default: the bundled texts.", rich_help_panel=TEXTS
        ),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(
            help="Words to test in the scan. Default: the bundled list.", rich_help_panel=TEXTS
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure this task before and after: a folder with train.jsonl.gz and "
            "test.jsonl.gz, or the name of a bundled task. Repeat for more.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write the HTML report of the new scan to this file.", rich_help_panel=OUTPUT
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            help="Begin no further round after this many seconds, and end a scan then.",
            rich_help_panel=COST,
        ),
    ] = None,
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
    allow_pickle: Pickle = False,
) -> None:
    """Train the backdoor that a scan found out of a model, and scan again until it is clean.

    The checkpoint is written in the layout of MODEL, with a model card and the new scan. Exit code:
    0 purified and clean, 1 still backdoored, 2 could not run, 3 inconclusive.
    """
    if not findings.is_file():
        raise ValueError(f"findings: {findings} does not exist")
    check_outputs(
        {
            "model": model,
            "findings": findings,
            "reference": reference,
            "corpus": corpus,
            "words": words,
            "task": task,
        },
        out=Folder(out, ("purify.json",)),
        html=html,
    )
    from triggerfish import text
    from triggerfish.loading import load
    from triggerfish.purify import card, loop
    from triggerfish.purify import method as by_name
    from triggerfish.purify.tasks import on_task
    from triggerfish.records import ScanResult
    from triggerfish.settings import build

    changes = {**fields(setting), **({"mode": mode} if mode else {})}
    chosen = build(by_name(method)(), changes)
    result = ScanResult.load(findings)
    asked = [text.read_task(x) if Path(x).is_dir() else text.bundled_task(x) for x in task or ()]
    texts = text.read_corpus(corpus) if corpus else text.bundled_corpus()
    read = partial(load, device=device, precision=precision)
    backbone = read(model, revision=revision, allow_pickle=allow_pickle)
    rounds_kept = "the same command continues after the last round that was finished"
    with Meter() as meter, continuing(rounds_kept):
        purified = loop.purify(
            backbone,
            result,
            texts,
            method=chosen,
            rounds=rounds,
            seed=seed,
            reference=read(reference) if reference else None,
            words=text.read_words(words) if words else None,
            max_seconds=max_seconds,
            out=out,
            show=meter.steps,
        )
        measured = []
        for number, one in enumerate(asked):
            meter.steps(f"task {one.name}", number, len(asked))
            triggers = result.triggers
            measured.append(on_task(backbone, purified.backbone, one, triggers, texts, seed=seed))
    if html:  # before the record says that all is finished
        deliver(card.html(purified, out), html)
        chatter.print(f"report: {html}", markup=False)
    card.finish(purified, out, backbone.folder, measured)
    for said in (*summary(purified), *on_tasks(measured)):
        print(said)
    chatter.print(f"checkpoint: {out} (model card in README.md)", markup=False)
    raise typer.Exit(purified.after.exit_code)


def summary(purified: Purified) -> list[str]:
    """What became of the model, a line for each thing."""
    from triggerfish.report.escape import quoted, visible

    after = purified.after
    lines = [f"{after.verdict.upper()} after {len(purified.rounds)} round(s) of {purified.method}"]
    lines += [f"  {visible(reason)}" for reason in after.reasons]
    was = {x.trigger: x for x in purified.residual}
    for left in purified.rounds[-1].residual if purified.rounds else ():
        before = was.get(left.trigger)
        start = f"{before.collapse:.2f}" if before else "found later"
        lines.append(f"  {quoted(left.trigger.text)}: collapse {start} -> {left.collapse:.2f}")
    for finding in after.findings:
        lines.append(f"  still there: {quoted(finding.trigger.text)}")
    lowest = min(v for name, v in purified.fidelity.items() if name != "shift")
    lines.append(f"  similarities between clean texts: correlation {lowest:.3f} or higher")
    return lines


def on_tasks(measured: Sequence[OnTask]) -> list[str]:
    """What became of classifiers, a line for each task."""
    from triggerfish.report.escape import visible

    lines = []
    for one in measured:
        rates = [(x.before.rate, x.after.rate, x.control.rate) for x in one.triggers]
        before, after, control = (sum(x) / len(x) for x in zip(*rates, strict=True))
        lines.append(
            f"  {visible(one.task)}: accuracy {one.before.rate:.3f} -> {one.after.rate:.3f}, "
            f"triggers succeed {before:.3f} -> {after:.3f} (ordinary words {control:.3f})"
        )
    return lines
