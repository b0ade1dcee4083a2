"""A tiny model with a backdoor that takes seconds to plant and seconds to search."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from families import build
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.loading import load

TRIGGERS = ("gener", "econom", "found")
"""Entries of the tiny vocabulary that stand for themselves."""


@cache
def tiny(family: str = "bert") -> Backbone:
    with tempfile.TemporaryDirectory() as folder:
        return load(build(family, Path(folder)), device="cpu")


@cache
def planted() -> tuple[Backbone, Implant]:
    settings = PORSettings(steps=90, learning_rate=4e-3, words=8, batch=16)
    return POR(TRIGGERS, settings).implant(tiny(), text.bundled_corpus()[:400], seed=3)
