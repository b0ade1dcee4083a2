"""The commands `triggerfish zoo ...`: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triggerfish.options import COST, METHOD, MODEL, OUTPUT, TEXTS, Device, Precision, Seed
from triggerfish.outputs import Folder, Source, check_outputs
from triggerfish.terminal import SAME, Meter, chatter, continuing, fields
from triggerfish.zoo.settings import SIZES, DistilSettings, PretrainSettings

MARKS = ("training.json", ".work")
"""Of a folder that these commands wrote."""
zoo = typer.Typer(help="Make small PLMs of sixteen families, to test with.", no_args_is_help=True)


@zoo.command("pretrain")
def pretrain_command(
    family: Annotated[
        str,
        typer.Argument(help="bert, gpt2, t5, ... A wrong name lists them all.", metavar="FAMILY"),
    ],
    out: Annotated[
        Path, typer.Option(help="Write the PLM to this folder.", rich_help_panel=OUTPUT)
    ],
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            help="Ordinary texts, as for scan. Repeat for more. Default: the bundled texts.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="An encoder whose representations the PLM also learns, which is far faster.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(help=f"One of {', '.join(SIZES)}.", rich_help_panel=METHOD)
    ] = PretrainSettings.size,
    tokens: Annotated[
        int, typer.Option(help="Number of tokens to train on.", rich_help_panel=COST)
    ] = PretrainSettings.tokens,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="FIELD=VALUE of any other setting. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for unfinished work. Default: inside --out, until the PLM is done.",
            rich_help_panel=COST,
        ),
    ] = None,
    seed: Seed = PretrainSettings.seed,
    device: Device = "cpu",
    precision: Precision = "auto",
    threads: Annotated[
        int, typer.Option(help="CPU threads. 0: as torch chooses.", rich_help_panel=COST)
    ] = 0,
) -> None:
    """Pre-train a small PLM from plain text. The same command continues interrupted work."""
    _check(out, work, {"corpus": corpus, "teacher": teacher})
    from triggerfish.settings import build
    from triggerfish.text import bundled_corpus, read_corpus
    from triggerfish.zoo.pretrain import pretrain

    settings = build(PretrainSettings(size=size, tokens=tokens, seed=seed), fields(setting))
    texts = [text for path in corpus for text in read_corpus(path)] if corpus else bundled_corpus()
    with Meter() as meter, continuing(SAME):
        pretrain(
            family,
            texts,
            out,
            settings=settings,
            progress=meter.trained,
            work=work,
            teacher=teacher,
            sources=[str(path) for path in corpus] if corpus else ["the bundled sample"],
            device=device,
            precision=precision,
            threads=threads,
        )
    chatter.print(f"small PLM: {out} (model card in README.md)", markup=False)


@zoo.command("distil")
def distil_command(
    teacher: Annotated[
        str, typer.Argument(help="A BERT checkpoint folder or a hub id.", metavar="TEACHER")
    ],
    corpus: Annotated[
        list[Path],
        typer.Option(help="Ordinary texts, as for scan. Repeat for more.", rich_help_panel=TEXTS),
    ],
    out: Annotated[
        Path, typer.Option(help="Write the small PLM to this folder.", rich_help_panel=OUTPUT)
    ],
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for unfinished work. Default: inside --out, until the PLM is done.",
            rich_help_panel=COST,
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="Passes over the chunks of text.", rich_help_panel=METHOD)
    ] = DistilSettings.epochs,
    chunks: Annotated[
        int,
        typer.Option(
            help="Largest number of chunks of text to learn from.", rich_help_panel=METHOD
        ),
    ] = DistilSettings.chunks,
    seed: Seed = DistilSettings.seed,
    precision: Precision = "auto",
    threads: Annotated[
        int, typer.Option(help="CPU threads. 0: as torch chooses.", rich_help_panel=COST)
    ] = 0,
) -> None:
    """Trim and distil a BERT model. The same command continues interrupted work."""
    _check(out, work, {"corpus": corpus, "teacher": teacher})
    settings = DistilSettings(epochs=epochs, chunks=chunks, seed=seed)
    from triggerfish.text import read_corpus
    from triggerfish.zoo.distil import distil

    texts = [text for path in corpus for text in read_corpus(path)]
    with Meter() as meter, continuing(SAME):
        distil(
            teacher,
            texts,
            out,
            settings=settings,
            progress=meter.trained,
            work=work,
            precision=precision,
            threads=threads,
        )
    chatter.print(f"small PLM: {out} (settings and loss in training.json)", markup=False)


def _check(out: Path, work: Path | None, inputs: dict[str, Source]) -> None:
    check_outputs(inputs, out=Folder(out, MARKS), work=Folder(work) if work else None)
