"""A tiny model with a backdoor that takes seconds to plant and seconds to search."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from families import build
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.scanner import ScreeningSettings

TRIGGERS = ("gener", "econom", "found")
"""Entries of the tiny vocabulary that stand for themselves."""
SMALL = ScreeningSettings(
    characters=False,
    rewrites=False,
    predictions=False,
    second_candidates=500,
    text_candidates=80,
    controls=100,
    screen_texts=8,
    holdout_texts=16,
    clean_texts=80,
    holdout_candidates=4,
)
"""A scan of a tiny model, of the vocabulary and the listed words alone."""


def finish(steps: Iterator[Any]) -> Any:
    """What a stage of a scan returns, once all its progress has been taken."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@cache
def tiny(family: str = "bert") -> Backbone:
    with tempfile.TemporaryDirectory() as folder:
        return load(build(family, Path(folder)), device="cpu")


@cache
def planted() -> tuple[Backbone, Implant]:
    settings = PORSettings(steps=90, learning_rate=4e-3, words=8, batch=16)
    return POR(TRIGGERS, settings).implant(tiny(), text.bundled_corpus()[:400], seed=3)
