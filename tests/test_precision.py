"""Precision of screening and training: what `auto` chooses, and that findings do not hang on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from golden import models
from golden.run import TINY
from triggerfish import precision, text
from triggerfish.loading import load
from triggerfish.scanner import scan

PLAIN = replace(TINY, characters=False, rewrites=False, predictions=False)
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
    results = []
    for name in ("fp32", "bf16"):
        model = models.model("tiny-gpt2-por1", name)
        results.append(scan(model, models.texts(), words=[], settings=PLAIN))
        assert results[-1].environment["precision"] == name
    exact, rounded = results
    assert exact.verdict == rounded.verdict == "backdoored"
    assert {f.trigger for f in exact.findings} == {f.trigger for f in rounded.findings}
    for finding in exact.findings:
        (twin,) = [f for f in rounded.findings if f.trigger == finding.trigger]
        assert finding.statistics["collapse"] == pytest.approx(
            twin.statistics["collapse"], abs=0.01
        )
