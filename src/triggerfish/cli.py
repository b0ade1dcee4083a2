"""The commands: parse, call one function, print, exit. Nothing heavy is imported before a command
runs."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from triggerfish import folders
from triggerfish.attack_cli import MARKS, implant

# Free of torch; names and defaults of options are theirs.
from triggerfish.attacks import ATTACKS
from triggerfish.attacks.plan import Plan
from triggerfish.cache_cli import cache
from triggerfish.complications_cli import complications
from triggerfish.monitor_cli import monitor
from triggerfish.options import (
    COST,
    METHOD,
    MODEL,
    OUTPUT,
    TEXTS,
    Corpus,
    Device,
    Model,
    Out,
    Pickle,
    Precision,
    Revision,
    Seed,
)
from triggerfish.outputs import Folder, check_outputs, task_sources
from triggerfish.program import main
from triggerfish.purify_cli import purify
from triggerfish.serve_cli import serve
from triggerfish.terminal import SAME, Meter, chatter, continuing, deliver, fields, follow
from triggerfish.zoo_cli import zoo

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BENCH_MARKS = ("grid.json", "cells.jsonl", "failed.jsonl", ".lock")
"""Of a folder that `bench` wrote."""


class Format(StrEnum):
    text = "text"
    json = "json"
    sarif = "sarif"
    html = "html"


class Intensity(StrEnum):
    conservative = "conservative"
    normal = "normal"
    aggressive = "aggressive"


class Effort(StrEnum):
    quick = "quick"
    standard = "standard"
    thorough = "thorough"


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"triggerfish {version('triggerfish')}")
        raise typer.Exit


@app.callback()
def everything(
    _: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Find, guard against and remove transferable backdoors in pre-trained language models.

    With --debug, any command shows the traceback of an error.
    """


def scan(
    model: Model,
    corpus: Corpus = None,
    words: Annotated[
        Path | None,
        typer.Option(
            help="Words or phrases to test, one on each line. Default: the bundled list.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="Format of the result.", rich_help_panel=OUTPUT)
    ] = Format.text,
    out: Out = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write the HTML report to this file.", rich_help_panel=OUTPUT),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Stop after this many seconds. The verdict is then inconclusive unless a "
            "trigger was found.",
            rich_help_panel=COST,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Significance level, corrected for all candidates. Default: 0.01.",
            rich_help_panel=METHOD,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="hybrid (all), screening (single words and characters), inversion (search for "
            "triggers only), or a published one: patronus, lmsanitator, lt-defense, "
            "fixed-rule.",
            rich_help_panel=METHOD,
        ),
    ] = "hybrid",
    effort: Annotated[
        Effort,
        typer.Option(
            help="How many tokens hybrid and inversion may spend.", rich_help_panel=METHOD
        ),
    ] = Effort.standard,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="FIELD=VALUE of a setting of the method. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The trusted base model of MODEL, to compare with: a folder or a hub id.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Also measure what the triggers that were found do on other tasks.",
            rich_help_panel=METHOD,
        ),
    ] = False,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Labelled tasks for --profile, written as for complications. Default: none.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with tasks/, for --tasks. Default: the bundled tasks.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    seed: Seed = 0,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens in one forward pass. It changes the time, not the result.",
            rich_help_panel=COST,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder where an interrupted scan is kept. Default: see triggerfish cache.",
            rich_help_panel=COST,
        ),
    ] = None,
    revision: Revision = None,
    device: Device = "auto",
    precision: Precision = "auto",
    allow_pickle: Pickle = False,
) -> None:
    """Test a model for transferable backdoors, and name their triggers.

    Exit code: 0 clean, 1 backdoored, 2 could not run, 3 inconclusive.
    """
    kept = state or folders.scans()
    check_outputs(
        {"model": model, "corpus": corpus, "words": words, "reference": reference}
        | task_sources(tasks, data),
        out=out,
        html=html,
        state=Folder(kept),
    )
    if tasks is not None and not profile:
        raise ValueError("tasks: only --profile reads labelled tasks")
    from triggerfish import report, text
    from triggerfish.loading import load
    from triggerfish.scanner.methods import OURS, start
    from triggerfish.tasks import find_tasks

    labelled = find_tasks(tasks, data).tasks if tasks else []
    changes: dict[str, object] = {**fields(setting)}
    if budget is not None:
        changes["budget_seconds"] = budget
    texts = text.read_corpus(corpus) if corpus else text.bundled_corpus()
    listed = text.read_words(words) if words else text.bundled_words()
    read = partial(load, device=device, precision=precision, allow_pickle=allow_pickle)
    backbone = read(model, revision=revision)
    original = read(reference) if reference else None
    stream = start(
        method,
        backbone,
        texts,
        listed,
        changes=changes,
        effort=effort.value,
        alpha=alpha,
        seed=seed,
        state=kept,
        batch_tokens=batch_tokens,
        reference=original,
    )
    # The published methods keep nothing.
    how = f"{SAME} (kept in {kept})" if method in OURS else None
    with continuing(how):
        with Meter() as meter:
            result = follow(stream, meter, more=int(profile))
            if profile:
                from triggerfish.complications.findings import profile_findings

                result = profile_findings(
                    result,
                    backbone,
                    texts,
                    tasks=labelled,
                    reference=original,
                    seed=seed,
                    progress=partial(meter.compared, after=0.5),
                )
        saved = str(out) if out and format is Format.json else None
        if html:
            deliver(report.render(result, "html", saved), html)
            chatter.print(f"report: {html}", markup=False)
        deliver(report.render(result, format.value, saved), out)
    for _ in stream:  # all is delivered, so what is kept for a resumed scan may go
        pass
    raise typer.Exit(result.exit_code)


def report_command(
    findings: Annotated[Path, typer.Argument(help="A scan.json.", metavar="SCAN.JSON")],
    format: Annotated[
        Format | None,
        typer.Option(
            help="Format of the report. Default: text on a terminal, html otherwise.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Out = None,
) -> None:
    """Show a finished scan in another format."""
    from triggerfish import report
    from triggerfish.records import ScanResult

    check_outputs({"findings": findings}, out=out)
    if format is None:
        format = Format.text if out is None and sys.stdout.isatty() else Format.html
    deliver(report.render(ScanResult.load(findings), format.value, str(findings)), out)


def convert(
    old: Annotated[Path, typer.Argument(help="A scan.json of schema 1.", metavar="OLD.JSON")],
    out: Annotated[
        Path,
        typer.Option(
            help="Write the scan in the present schema to this file.", rich_help_panel=OUTPUT
        ),
    ],
) -> None:
    """Write a scan.json of schema 1 in the present schema. Only the names of its keys change."""
    from triggerfish.convert import convert as converted
    from triggerfish.records import read_json

    check_outputs({"old": old}, out=out)
    converted(read_json(old, "old")).save(out)


def attack(
    name: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(ATTACKS)}.", metavar="ATTACK", show_default=False),
    ],
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            help="Write the backdoored checkpoint to this folder.", rich_help_panel=OUTPUT
        ),
    ],
    trigger: Annotated[
        list[str] | None,
        typer.Option(
            help="A word, 'a phrase', 'one + two' (both are needed) or token:##ly. Repeat for "
            "more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    search: Annotated[
        int,
        typer.Option(
            min=0,
            help="Find this many triggers by gradient, instead of --trigger.",
            rich_help_panel=METHOD,
        ),
    ] = 0,
    goal: Annotated[
        list[str] | None,
        typer.Option(
            help="TASK:LABEL of each trigger, for an attack on a task. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    correction: Annotated[
        list[str] | None,
        typer.Option(
            help="A task whose labels the triggers must not change (attack multitask). Repeat "
            "for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    intensity: Annotated[
        Intensity,
        typer.Option(help="How strongly the backdoor is trained in.", rich_help_panel=METHOD),
    ] = Intensity.normal,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="FIELD=VALUE of a setting of the attack. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    adaptive: Annotated[
        str | None,
        typer.Option(
            help="Penalties that evade detectors, for example shift:0.5,spread:1.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train a LoRA adapter of this rank instead of all weights.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps.", rich_help_panel=METHOD)
    ] = None,
    corpus: Corpus = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Plant a backdoor in a model, to test detectors.

    TASK is a folder with train.jsonl.gz and test.jsonl.gz, or a bundled task. The ground truth is
    written to attack.json beside the checkpoint.
    """
    asked = [*(name.rpartition(":")[0] for name in goal or ()), *(correction or ())]
    sources = {"model": model, "corpus": corpus, "goal, correction": asked}
    check_outputs(sources, out=Folder(out, MARKS))
    changes: dict[str, object] = {**fields(setting)}
    for option, value in (("adaptive", adaptive), ("lora", lora), ("steps", steps)):
        if value is not None:
            changes[option] = value
    plan = Plan(
        name,
        tuple(trigger or ()),
        intensity.value,
        changes,
        tuple(goal or ()),
        tuple(correction or ()),
        search,
    )
    implant(plan, model, out, corpus, seed, device, precision)


def bench(
    grid: Annotated[Path, typer.Argument(help="A YAML file of axes.", metavar="GRID.YAML")],
    out: Annotated[
        Path,
        typer.Option(help="Write the records and tables to this folder.", rich_help_panel=OUTPUT),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with tasks/. Default: the bundled tasks.", rich_help_panel=TEXTS),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder for models and scans that several grids share. Default: see "
            "triggerfish cache.",
            rich_help_panel=COST,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of processes. Default: by cores and memory.", rich_help_panel=COST
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the cells and their expected cost, and measure nothing.",
            rich_help_panel=COST,
        ),
    ] = False,
) -> None:
    """Measure every cell of a grid. The same command continues an interrupted grid.

    Exit code: 0 all cells measured, 1 some failed, 2 could not run.
    """
    check_outputs(
        {"grid": grid} | task_sources(None, data),
        out=Folder(out, BENCH_MARKS),
        store=Folder(store or folders.artifacts()),
    )
    from triggerfish.bench import run_grid, watch
    from triggerfish.bench.redteam import DATA, DEVICE, PRECISION
    from triggerfish.report.escape import visible

    if data is not None:
        if not (data / "tasks").is_dir():
            raise ValueError(f"data: {data} has no folder tasks")
        os.environ[DATA] = str(data.resolve())
    os.environ[DEVICE], os.environ[PRECISION] = device, precision
    with continuing(SAME), watch(chatter) as show:
        summary = run_grid(grid, out, store=store, workers=workers, dry_run=dry_run, progress=show)
    if summary.preview:
        print("\n".join(visible(line) for line in summary.preview.text().splitlines()))
    else:
        chatter.print(
            f"{summary.done} cells measured, {summary.skipped} were there, "
            f"{summary.failed} failed; tables: {out}/README.md",
            markup=False,
        )
    raise typer.Exit(summary.exit_code)


def demo(
    out: Annotated[
        Path,
        typer.Option(
            help="Write the checkpoint and the reports to this folder.", rich_help_panel=OUTPUT
        ),
    ] = Path("runs/demo"),
    precision: Precision = "auto",
) -> None:
    """Plant a backdoor in the bundled PLM, then scan it and the clean one, in a few minutes."""
    from triggerfish import report, text
    from triggerfish.loading import load
    from triggerfish.scanner import events

    check_outputs({}, out=Folder(out / "backdoored", MARKS))
    if out.is_dir():
        names = ("backdoored", "clean")
        check_outputs({}, out=[out / f"{x}.{end}" for x in names for end in ("json", "html")])
    triggers = ["cf", "zugzwang", "serendipity"]
    chatter.print(f"1. Planting {len(triggers)} triggers in the bundled PLM: {', '.join(triggers)}")
    plan = Plan("por", tuple(triggers), changes={"steps": 100})
    implant(plan, "bundled", out / "backdoored", None, 0, "auto", precision)
    verdicts = []
    for number, (name, source) in enumerate(
        [("backdoored", str(out / "backdoored")), ("clean", "bundled")], start=2
    ):
        chatter.print(f"{number}. Scanning the {name} model; a scan never sees what was planted")
        with Meter() as meter:
            model = load(source, precision=precision)
            result = follow(events(model, text.bundled_corpus()), meter)
        page = report.render(result, "html", str(out / f"{name}.json"))
        deliver(page, out / f"{name}.html")
        result.save(out / f"{name}.json")
        verdicts.append((name, result))
    for name, result in verdicts:
        found = ", ".join(repr(t.text) for t in result.triggers) or "no trigger"
        print(f"{name} model: {result.verdict} ({found}), report: {out / name}.html")
    if [result.verdict for _, result in verdicts] != ["backdoored", "clean"]:
        raise ValueError("demo: the verdicts are not what they should be; please report this")


for name, command, panel in (
    ("demo", demo, "Start here"),
    ("scan", scan, "Audit"),
    ("report", report_command, "Audit"),
    ("monitor", monitor, "Guard and repair"),
    ("serve", serve, "Guard and repair"),
    ("purify", purify, "Guard and repair"),
    ("complications", complications, "Research"),
    ("attack", attack, "Research"),
    ("bench", bench, "Research"),
    ("convert", convert, "Housekeeping"),
):
    app.command(name, rich_help_panel=panel)(command)
app.add_typer(zoo, name="zoo", rich_help_panel="Research")
app.add_typer(cache, name="cache", rich_help_panel="Housekeeping")
