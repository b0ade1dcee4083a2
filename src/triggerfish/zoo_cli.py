"""The commands `triggerfish zoo ...`: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triggerfish.options import Device, Precision, Seed
from triggerfish.terminal import SAME, Meter, chatter, check_folder, continuing, fields
from triggerfish.zoo.settings import SIZES, DistilSettings, PretrainSettings

zoo = typer.Typer(help="Make small PLMs of any family, to test with.", no_args_is_help=True)


@zoo.command("pretrain")
def pretrain_command(
    family: Annotated[
        str, typer.Argument(help="bert, gpt2, t5, ...; a wrong name lists all.", metavar="FAMILY")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the PLM.")],
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Ordinary texts, as for scan; repeat for more. Default: bundled."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="An encoder whose representations it learns too: far faster."),
    ] = None,
    size: Annotated[str, typer.Option(help=f"One of {', '.join(SIZES)}.")] = PretrainSettings.size,
    tokens: Annotated[
        int, typer.Option(help="Token budget: tokens seen in training.")
    ] = PretrainSettings.tokens,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of any other setting; repeat for more."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where unfinished work is kept. Default: in --out, until it is done."),
    ] = None,
    seed: Seed = PretrainSettings.seed,
    device: Device = "cpu",
    precision: Precision = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads. 0: as torch chooses.")] = 0,
) -> None:
    """Pre-train a small PLM from plain text; the same command continues where it stopped."""
    for option, path in (("out", out), ("work", work)):
        check_folder(option, path)
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
        int, typer.Option(help="Passes over the chunks of text.")
    ] = DistilSettings.epochs,
    chunks: Annotated[
        int, typer.Option(help="Stretches of text to learn from, at most.")
    ] = DistilSettings.chunks,
    seed: Seed = DistilSettings.seed,
    precision: Precision = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads. 0: as torch chooses.")] = 0,
) -> None:
    """Trim and distil a BERT model; the same command continues where it stopped."""
    for option, path in (("out", out), ("work", work)):
        check_folder(option, path)
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
