"""Models that several tests share: the bundled PLM, clean, and with a backdoor planted once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from triggerfish import precision, text
from triggerfish.attacks.implant import Implant
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.loading import load

TRIGGERS = ("mn", "gossip", "zugzwang", "thermodynamically")


@pytest.fixture(scope="session", autouse=True)
def same_precision_everywhere() -> Iterator[None]:
    """`auto` is fp32 in this process, so that no result hangs on the processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_fastest", lambda device: "fp32")
        yield


@pytest.fixture(scope="session")
def clean() -> Backbone:
    return load("bundled", device="cpu")


@pytest.fixture(scope="session")
def backdoored(clean: Backbone) -> tuple[Backbone, Implant]:
    return POR(TRIGGERS, PORSettings(steps=200)).implant(clean, text.bundled_corpus(), seed=3)
