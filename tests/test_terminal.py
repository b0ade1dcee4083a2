"""What commands say while they work: never that all is done, and something now and then."""

from __future__ import annotations

import io
import re
import time
from functools import partial

import pytest
from rich.console import Console

from report_samples import backdoored
from triggerfish import terminal
from triggerfish.records import ScanResult
from triggerfish.scanner import Progress
from triggerfish.terminal import Meter, follow


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A console that is no terminal and records what is printed on it."""
    console = Console(record=True, width=200, file=io.StringIO())
    monkeypatch.setattr(terminal, "chatter", console)
    return console


def test_without_a_terminal_each_stage_has_a_line_and_long_ones_more(
    said: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "EVERY", 0.05)
    with Meter() as meter:
        meter.steps("planting", 1, 4)
        time.sleep(0.2)
        meter.steps("planting", 2, 4)
        meter.show("trying", None)
    lines = said.export_text().splitlines()
    assert lines[0] == "planting"
    assert any(re.fullmatch(r"planting: \d+ s, 25% done", line) for line in lines)
    assert lines.count("planting") == lines.count("trying") == 1


def test_no_bar_is_full_before_the_result(said: Console) -> None:
    with Meter() as meter:
        for show in (
            partial(meter.show, "scan", 1.0),
            partial(meter.steps, "training", 300, 300),
            partial(meter.compared, "control", 99, 99),
        ):
            show()
            assert meter.bar.tasks[0].percentage <= 99


def test_a_scan_names_its_stages_and_says_once_that_it_resumed(said: Console) -> None:
    steps = [
        Progress("trying words", 0.2, 10, 1.0, 3, 11, resumed=True),
        Progress("trying words", 0.4, 20, 1.0, 3, 11, resumed=True),
        Progress("measuring on held-out texts", 0.6, 30, 2.0, 6, 11),
    ]
    with Meter() as meter:
        result = follow(iter([*steps, backdoored()]), meter, more=1)
    assert isinstance(result, ScanResult)
    assert meter.share == pytest.approx(0.3)  # the profile is still to come
    assert said.export_text().splitlines() == [
        "resumed: what an interrupted scan had done is not done again",
        "3 of 12: trying words",
        "6 of 12: measuring on held-out texts",
    ]
