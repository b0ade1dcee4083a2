"""Numbers that are none, or out of range, are refused where settings are built, by their field."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from report_samples import a_result
from triggerfish.attacks.poisoning import DirtySettings
from triggerfish.bench.stages import Axis
from triggerfish.complications.settings import ComplicationSettings
from triggerfish.downstream.tuning import FineTuneSettings
from triggerfish.monitor.asgi import GuardSettings
from triggerfish.monitor.files import FileSettings
from triggerfish.monitor.settings import MonitorSettings
from triggerfish.purify.align import Align
from triggerfish.records import ScanResult
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.screening import ScreeningSettings
from triggerfish.scanner.search.phrases import PhraseSettings
from triggerfish.settings import build, check
from triggerfish.training import TrainSettings
from triggerfish.zoo.settings import PretrainSettings

NONSENSE = (math.nan, math.inf, -math.inf, 1e30, 10**400)
DIRECT = (
    ComplicationSettings(),
    DecisionRule(),
    FileSettings(),
    FineTuneSettings(),
    GuardSettings(),
    MonitorSettings(),
    PretrainSettings(),
    ScreeningSettings(),
    TrainSettings(steps=1),
)
BUILT = (*DIRECT, Align(), DirtySettings(), PhraseSettings())


def numbers(settings: Any) -> list[str]:
    found = dataclasses.asdict(settings)
    return [k for k, v in found.items() if isinstance(v, int | float) and type(v) is not bool]


@pytest.mark.parametrize("settings", BUILT, ids=lambda x: type(x).__name__)
def test_nonsense_in_any_field_names_it(settings: Any) -> None:
    check(settings)
    for name in numbers(settings):
        for value in NONSENSE:
            if isinstance(getattr(settings, name), int) and isinstance(value, float):
                value = int(1e30)
            with pytest.raises(ValueError, match=rf"^{name}\b"):
                build(settings, {name: value})
            if settings in DIRECT:
                with pytest.raises(ValueError, match=rf"^{name}\b"):
                    replace(settings, **{name: value})


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            ScreeningSettings(),
            {"budget_seconds": "nan"},
            "budget_seconds: nan",
        ),
        (TrainSettings(1), {"warmup": 1.5}, "warmup: 1.5 is outside 0.0 to 1.0"),
        (TrainSettings(1), {"betas": "[0.9, 2]"}, "betas: 2.* is outside 0.0 to 1.0"),
        (DirtySettings(), {"poison_rate": -0.1}, "poison_rate: -0.1 is outside"),
        (Align(), {"steps": "1e30"}, "steps: .*integer"),
        (Align(), {"steps": "-5"}, "steps: "),
    ],
)
def test_the_accepted_range_is_named(settings: Any, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(settings, changes)


@pytest.mark.parametrize("value", NONSENSE, ids=["nan", "inf", "-inf", "1e30", "10**400"])
def test_a_grid_takes_no_nonsense(value: float) -> None:
    for axis in (Axis((float,)), Axis((int, float)), Axis((dict,))):
        with pytest.raises(ValueError, match=r"^axes\.x: expected"):
            axis.resolve("axes.x", {"a": [value]} if dict in axis.kinds else value)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Axis((int,), least=0).resolve("axes.seed", -1)


def test_a_scan_that_is_written_can_be_read(tmp_path: Any) -> None:
    strange = {"nan": math.nan, "up": math.inf, "down": -math.inf}
    result = replace(a_result(), statistics=strange, settings={"x": math.nan})
    result.save(tmp_path / "scan.json")
    text = (tmp_path / "scan.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    read = ScanResult.load(tmp_path / "scan.json").statistics
    assert re.fullmatch("nan inf -inf", " ".join(map(str, read.values())))
