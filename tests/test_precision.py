"""Precision of screening and training: what `auto` chooses, and that findings do not hang on it."""

from __future__ import annotations

import pytest
import torch

from planted import SMALL, planted
from triggerfish import precision, text
from triggerfish.loading import load
from triggerfish.scanner import scan

CPU = torch.device("cpu")
FASTEST = precision._fastest
"""What conftest.py replaces for all other tests."""


@pytest.fixture
def fresh_choice(monkeypatch):
    """The real choice, which is made once per process: forgotten before and after."""
    monkeypatch.setattr(precision, "_fastest", FASTEST)
    FASTEST.cache_clear()
    yield
    FASTEST.cache_clear()


class Clock:
    """Time passes only inside `linear`: a given number of seconds for each precision."""

    def __init__(self, monkeypatch, fp32: float, bf16: float):
        self.now = 0.0

        def linear(left, right):
            self.now += bf16 if torch.is_autocast_enabled("cpu") else fp32

        monkeypatch.setattr(torch.nn.functional, "linear", linear)
        monkeypatch.setattr(precision.time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(1.0, 0.3, "bf16"), (1.0, 4.0, "fp32")])
def test_auto_takes_the_faster_one(monkeypatch, fresh_choice, fp32, bf16, chosen):
    Clock(monkeypatch, fp32, bf16)
    assert precision.choose("auto", CPU) == chosen


def test_auto_is_decided_once_per_process(monkeypatch, fresh_choice):
    Clock(monkeypatch, 1.0, 0.3)
    assert precision.choose("auto", CPU) == "bf16"
    Clock(monkeypatch, 1.0, 4.0)
    assert precision.choose("auto", CPU) == "bf16"


def test_what_is_asked_for_is_taken(monkeypatch, fresh_choice):
    Clock(monkeypatch, 1.0, 0.3)
    assert precision.choose("fp32", CPU) == "fp32"
    with pytest.raises(ValueError, match="precision: 'fp16' is not one of auto, fp32, bf16"):
        load("bundled", precision="fp16")


def test_only_what_may_be_rounded_is_rounded():
    rounded, exact = (load("bundled", precision=name) for name in ("bf16", "fp32"))
    texts = text.bundled_corpus()[:8]
    assert torch.equal(rounded.encode(texts), exact.encode(texts))
    assert torch.equal(exact.encode(texts, fast=True), exact.encode(texts))
    fast = rounded.encode(texts, fast=True)
    assert not torch.equal(fast, exact.encode(texts))
    assert torch.allclose(fast, exact.encode(texts), atol=0.2)


def test_what_is_found_is_the_same_and_the_record_says_how():
    model = planted()[0]
    names, depths = [], []
    for name in ("fp32", "bf16"):
        twin = model.clone()
        twin.precision = name
        result = scan(twin, text.bundled_corpus()[:400], settings=SMALL, words=[])
        assert result.environment["precision"] == name
        names.append([finding.trigger.text for finding in result.near_misses])
        depths.append([finding.statistics["collapse"] for finding in result.near_misses])
    assert names[0] == names[1]
    assert len(names[0]) >= 2
    assert depths[0] == pytest.approx(depths[1], abs=0.01)
