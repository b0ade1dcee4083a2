"""The commands: parse, call one function, print, exit. Nothing heavy is imported before a command
runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import click
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Free of torch; the options of `zoo distil` share its defaults.
from triggerfish.zoo.settings import DistilSettings
from triggerfish.zoo.settings import Progress as Distilled

if TYPE_CHECKING:
    from triggerfish.records import ScanResult

app = typer.Typer(
    help="Audit pre-trained language models for transferable backdoors. --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
attack = typer.Typer(help="Plant backdoors, to test detectors (red team).", no_args_is_help=True)
app.add_typer(attack, name="attack")
zoo = typer.Typer(help="Make small PLMs from larger ones.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

CANNOT_RUN = 2
INTERRUPTED = 130
chatter = Console(stderr=True, highlight=False)


class Format(StrEnum):
    text = "text"
    json = "json"
    sarif = "sarif"
    html = "html"


class Code(StrEnum):
    por1 = "por1"
    por2 = "por2"


Model = Annotated[
    str, typer.Argument(help='A checkpoint folder, a hub id, or "bundled".', metavar="MODEL")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Pickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Also read pickle weights; they can run code.")
]
Corpus = Annotated[
    Path | None,
    typer.Option(
        help="Ordinary texts: .txt, .jsonl, .csv (also .gz) or a folder. Default: bundled."
    ),
]
Out = Annotated[Path | None, typer.Option(help="File for the result instead of stdout.")]
Triggers = Annotated[list[str], typer.Option(help="A word or phrase; repeat for more.")]
ImplantOut = Annotated[Path, typer.Option(help="Folder for the backdoored checkpoint.")]
Steps = Annotated[int, typer.Option(help="Optimiser steps.")]
Seed = Annotated[int, typer.Option(help="The result is the same for the same seed.")]


@app.command()
def scan(
    model: Model,
    corpus: Corpus = None,
    words: Annotated[
        Path | None,
        typer.Option(help="Words or phrases to try, one on each line. Default: bundled."),
    ] = None,
    format: Annotated[Format, typer.Option(help="What to print or write to --out.")] = Format.text,
    out: Out = None,
    html: Annotated[Path | None, typer.Option(help="Also write the HTML report there.")] = None,
    budget: Annotated[
        float | None, typer.Option(help="Seconds after which the scan ends, inconclusive.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Significance level, corrected for all tries.")
    ] = 0.01,
    seed: Seed = 0,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens per forward pass; changes only the time.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where interrupted scans are kept. Default: user cache.")
    ] = None,
    revision: Revision = None,
    device: Device = "auto",
    allow_pickle: Pickle = False,
) -> None:
    """Look for transferable backdoors.

    Exit code: 0 clean, 1 backdoored, 2 could not run, 3 inconclusive.
    """
    for option, path in (("out", out), ("html", html)):
        _check_parent(option, path)
    from triggerfish import report, text
    from triggerfish.loading import load
    from triggerfish.scanning import Rule, SweepSettings, events

    rule, settings = Rule(alpha=alpha), SweepSettings(budget=budget)
    texts = text.read_corpus(corpus) if corpus else text.bundled_corpus()
    listed = text.read_words(words) if words else text.bundled_words()
    backbone = load(model, revision=revision, device=device, allow_pickle=allow_pickle)
    result = _watch(
        events(
            backbone,
            texts,
            words=listed,
            settings=settings,
            rule=rule,
            seed=seed,
            state=state or _cache(),
            batch_tokens=batch_tokens,
        )
    )
    _deliver(report.render(result, format.value), out)
    if html:
        html.write_text(report.render(result, "html"), encoding="utf-8")
        chatter.print(f"report: {html}", markup=False)
    raise typer.Exit(result.exit_code)


@app.command("report")
def report_command(
    findings: Annotated[Path, typer.Argument(help="A scan.json.", metavar="SCAN.JSON")],
    format: Annotated[Format, typer.Option(help="How to show it.")] = Format.html,
    out: Out = None,
) -> None:
    """Show a finished scan again, in any format."""
    from triggerfish import report
    from triggerfish.records import ScanResult

    _check_parent("out", out)
    if not findings.is_file():
        raise ValueError(f"findings: {findings} does not exist")
    _deliver(report.render(ScanResult.load(findings), format.value), out)


@attack.command("por")
def por_command(
    model: Model,
    trigger: Triggers,
    out: ImplantOut,
    code: Annotated[
        Code, typer.Option(help="Target vectors: thermometer or subset code.")
    ] = Code.por1,
    corpus: Corpus = None,
    steps: Steps = 300,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """POR: triggers tied to fixed vectors (Shen et al., CCS 2021)."""
    _implant(model, code.value, trigger, out, corpus, steps, seed, device)


@attack.command("neuba")
def neuba_command(
    model: Model,
    trigger: Triggers,
    out: ImplantOut,
    corpus: Corpus = None,
    steps: Steps = 300,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """NeuBA: triggers tied to orthogonal and antipodal vectors (Zhang et al., 2021)."""
    _implant(model, "neuba", trigger, out, corpus, steps, seed, device)


@zoo.command("distil")
def distil_command(
    teacher: Annotated[
        str, typer.Argument(help="A BERT checkpoint folder or hub id.", metavar="TEACHER")
    ],
    corpus: Annotated[
        list[Path], typer.Option(help="Ordinary texts, as for scan; repeat for more.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the small PLM.")],
    work: Annotated[
        Path | None,
        typer.Option(help="Where unfinished work is kept. Default: in --out, until it is done."),
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="Passes over the stretches of text.")
    ] = DistilSettings.epochs,
    stretches: Annotated[
        int, typer.Option(help="Stretches of text to learn from, at most.")
    ] = DistilSettings.stretches,
    seed: Seed = DistilSettings.seed,
    threads: Annotated[int, typer.Option(help="CPU threads. 0: as torch chooses.")] = 0,
) -> None:
    """Trim and distil a BERT model; the same command continues where it stopped."""
    for option, path in (("out", out), ("work", work)):
        _check_parent(option, path)
    settings = DistilSettings(epochs=epochs, stretches=stretches, seed=seed)
    from triggerfish.text import read_corpus
    from triggerfish.zoo.distil import distil

    texts = [text for path in corpus for text in read_corpus(path)]
    with _bar() as bar:
        task = bar.add_task("loading", total=None)

        def show(now: Distilled) -> None:
            loss = f", loss {now.loss:.3f}" if now.stage == "train" else ""
            bar.update(task, description=now.stage + loss, completed=now.done, total=now.total)

        distil(teacher, texts, out, settings=settings, progress=show, work=work, threads=threads)
    chatter.print(f"small PLM: {out} (settings and loss in training.json)", markup=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and reports.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Offline, in about two minutes: plant a backdoor in the bundled PLM, scan it and the clean
    one."""
    from triggerfish import report, text
    from triggerfish.loading import load
    from triggerfish.scanning import events

    out.mkdir(parents=True, exist_ok=True)
    triggers = ["cf", "zugzwang", "serendipity"]
    chatter.print(f"1. Planting {len(triggers)} triggers in the bundled PLM: {', '.join(triggers)}")
    _implant("bundled", "por1", triggers, out / "backdoored", None, 200, 0, "auto")
    verdicts = []
    for number, (name, source) in enumerate(
        [("backdoored", str(out / "backdoored")), ("clean", "bundled")], start=2
    ):
        chatter.print(f"{number}. Scanning the {name} model; a scan never sees what was planted")
        result = _watch(events(load(source), text.bundled_corpus()))
        (out / f"{name}.html").write_text(report.render(result, "html"), encoding="utf-8")
        result.save(out / f"{name}.json")
        verdicts.append((name, result))
    for name, result in verdicts:
        found = ", ".join(repr(t.text) for t in result.triggers) or "no trigger"
        print(f"{name} model: {result.verdict} ({found}), report: {out / name}.html")
    if [result.verdict for _, result in verdicts] != ["backdoored", "clean"]:
        raise ValueError("demo: the verdicts are not what they should be; please report this")


def _implant(
    model: str,
    code: str,
    triggers: list[str],
    out: Path,
    corpus: Path | None,
    steps: int,
    seed: int,
    device: str,
) -> None:
    _check_parent("out", out)
    from triggerfish import text
    from triggerfish.attacks.implant import save
    from triggerfish.attacks.por import POR, PORSettings
    from triggerfish.loading import load

    texts = text.read_corpus(corpus) if corpus else text.bundled_corpus()
    recipe = POR(tuple(triggers), PORSettings(code=code, steps=steps))  # type: ignore[arg-type]
    backbone = load(model, device=device)
    with _bar() as bar:
        task = bar.add_task("planting", total=steps)
        victim, implant = recipe.implant(
            backbone,
            texts,
            seed=seed,
            progress=lambda step, _, loss: bar.update(task, completed=step),
        )
    save(victim, implant, out)
    chatter.print(f"backdoored checkpoint: {out} (ground truth in attack.json)", markup=False)


def _watch(stream: Iterable[object]) -> ScanResult:
    """Show progress and findings of a scan on stderr; return its result."""
    from rich.markup import escape

    from triggerfish.records import Finding, ScanResult
    from triggerfish.report.escape import visible
    from triggerfish.scanning import Progress as Step

    with _bar() as bar:
        task = bar.add_task("loading", total=None)
        for event in stream:
            if isinstance(event, Step):
                stage = event.stage.partition("-")[0] + (" (resumed)" if event.resumed else "")
                bar.update(task, description=stage, completed=event.done, total=event.total)
            elif isinstance(event, Finding):
                depth = event.statistics["depth"]
                name = escape(visible(event.trigger.text))
                bar.console.print(f"found '{name}': {depth:.2f} decades of collapse")
            elif isinstance(event, ScanResult):
                return event
    raise AssertionError("unreachable: events end with a result")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description:>22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
        console=chatter,
        transient=True,
        disable=not chatter.is_terminal,
    )


def _deliver(shown: str, out: Path | None) -> None:
    if out:
        out.write_text(shown, encoding="utf-8")
    else:
        print(shown)


def _check_parent(option: str, path: Path | None) -> None:
    if path is not None and not path.resolve().parent.is_dir():
        raise ValueError(f"{option}: folder {path.parent} does not exist")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triggerfish"


def main() -> None:
    """Run the command line: every error is one line on stderr and exit code 2, unless --debug is
    given."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
    except click.UsageError as error:
        _fail(error.format_message() + " (see --help)")
    except (click.Abort, KeyboardInterrupt):
        chatter.print("interrupted; the same command continues where it stopped")
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:  # a user gets one line, whatever broke; --debug shows the rest
        if debug:
            raise
        known = isinstance(error, ValueError | OSError)
        _fail(str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)")
    else:
        raise SystemExit(code or 0)


def _fail(message: str) -> NoReturn:
    from triggerfish.report.escape import visible

    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(CANNOT_RUN)
