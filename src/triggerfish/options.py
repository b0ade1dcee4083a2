"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

# Groups of options in --help.
MODEL = "Model"
TEXTS = "Texts and tasks"
METHOD = "Method"
OUTPUT = "Output"
COST = "Time and memory"
SERVICE = "Service"
UPSTREAM = "Model behind the service"

POLICIES = ("reject", "strip", "flag")
"""As in `records.Policy`."""

Model = Annotated[
    str,
    typer.Argument(help='A checkpoint folder, a hub id, or "bundled".', metavar="MODEL"),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit, if MODEL is a hub id.", rich_help_panel=MODEL),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=COST)]
Precision = Annotated[
    str,
    typer.Option(
        help="fp32, bf16, or auto: whichever this machine computes faster.", rich_help_panel=COST
    ),
]
Pickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Also read pickled weights. They can run code when they are read.",
        rich_help_panel=MODEL,
    ),
]
Corpus = Annotated[
    Path | None,
    typer.Option(
        help="Ordinary texts: a .txt, .jsonl or .csv file (also .gz), or a folder of them. "
        "Default: the bundled texts.",
        rich_help_panel=TEXTS,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Write the result to this file instead of stdout.", rich_help_panel=OUTPUT),
]
Seed = Annotated[
    int,
    typer.Option(
        help="The same seed gives the same result.",
        rich_help_panel=METHOD,
        min=0,
        max=2**32 - 1,
    ),
]


def parse_policies(given: Sequence[str] | None) -> dict[str, str]:
    """What each trigger's TRIGGER=POLICY says; ValueError for anything else. Which triggers and
    policies there are is checked by the monitor."""
    pairs = [(text, *text.rpartition("=")) for text in given or ()]
    for text, trigger, equals, _ in pairs:
        if not trigger or not equals:
            raise ValueError(f"set-policy: {text!r} is not TRIGGER=POLICY")
    return {trigger: policy for _, trigger, _, policy in pairs}
