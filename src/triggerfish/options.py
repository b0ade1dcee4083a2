"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

POLICIES = ("reject", "strip", "flag")
"""As in `records.Policy`."""

Model = Annotated[
    str, typer.Argument(help='A checkpoint folder, a hub id, or "bundled".', metavar="MODEL")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    str,
    typer.Option(
        help="Of screening and training: fp32, bf16, or auto for the faster of the two here."
    ),
]
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
Seed = Annotated[int, typer.Option(help="The result is the same for the same seed.")]


def parse_policies(given: Sequence[str] | None) -> dict[str, str]:
    """What each trigger's TRIGGER=POLICY says; ValueError for anything else. Which triggers and
    policies there are is checked by the monitor."""
    pairs = [(text, *text.rpartition("=")) for text in given or ()]
    for text, trigger, equals, _ in pairs:
        if not trigger or not equals:
            raise ValueError(f"set-policy: {text!r} is not TRIGGER=POLICY")
    return {trigger: policy for _, trigger, _, policy in pairs}
