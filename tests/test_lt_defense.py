"""LT-Defense: the rate of head features, and that it decides nothing without clean models."""

from __future__ import annotations

import pytest
import torch

from planted import planted, tiny
from triggerfish import text
from triggerfish.records import ScanResult
from triggerfish.report import FORMATS, render
from triggerfish.scanner.detectors import lt_defense
from triggerfish.scanner.detectors.lt_defense import Calibration, LTDefenseSettings, head_rate

TEXTS = text.bundled_corpus()[:60]
SMALL = LTDefenseSettings(texts=50, max_tokens=24)


def finish(stream: object) -> ScanResult:
    *_, result = stream  # type: ignore[misc]
    assert isinstance(result, ScanResult)
    return result


def test_head_rate_counts_coordinates_that_agree() -> None:
    features = torch.tensor([[1.0, -1, 1, -1], [1, -1, 1, 1], [1, -1, 1, 1], [1, -1, -1, -1]])
    assert head_rate(features, 1.0) == 0.5
    assert head_rate(features, 0.75) == 0.75
    assert head_rate(-features, 0.75) == 0.75
    assert head_rate(3 * features, 0.51) == 0.75


def test_without_clean_models_there_is_no_verdict() -> None:
    result = finish(lt_defense.events(planted()[0], TEXTS, settings=SMALL))
    assert result.verdict == "inconclusive"
    assert result.reasons[0].startswith("no calibration")
    assert 0 <= result.statistics["head_rate"] <= 1
    assert result.null.calibration is None
    assert result.forward_tokens == 50 * 24


@pytest.mark.parametrize(("lower", "verdict"), [(-0.01, "backdoored"), (0.0, "clean")])
def test_the_highest_clean_rate_is_the_threshold(lower: float, verdict: str) -> None:
    made = lt_defense.calibrate([tiny()], TEXTS, name="tiny berts", settings=SMALL)
    rates = (made.rates[0] / 2, made.rates[0] + lower)
    calibration = Calibration("tiny berts", ("half", "tiny"), rates, SMALL)
    result = finish(lt_defense.events(tiny(), TEXTS, settings=SMALL, calibration=calibration))
    assert result.verdict == verdict
    assert result.null.calibration == "tiny berts"
    assert result.null.alpha == pytest.approx(1 / 3)
    assert result.statistics["clean_models"] == 2
    assert ScanResult.from_json(result.to_json()) == result
    assert all(render(result, name) for name in FORMATS)
    assert "calibrated on tiny berts" in render(result, "text")


@pytest.mark.parametrize("family", ["gpt2", "xlnet", "t5", "bart"])
def test_any_family(family: str) -> None:
    result = finish(lt_defense.events(tiny(family), TEXTS, settings=SMALL))
    assert result.coverage.readouts == (str(tiny(family).primary),)
    assert 0 <= result.statistics["head_rate"] <= 1


def test_mask_readout() -> None:
    settings = LTDefenseSettings(texts=50, max_tokens=24, readout="mask")
    assert finish(lt_defense.events(tiny(), TEXTS, settings=settings)).statistics


def test_too_few_texts() -> None:
    result = finish(lt_defense.events(tiny(), TEXTS[:10], settings=SMALL))
    assert result.verdict == "inconclusive"
    assert result.statistics == {}
    assert result.reasons == ("too few texts: 10, expected at least 50",)
    with pytest.raises(ValueError, match=r"references: .*too few texts: 10"):
        lt_defense.calibrate([tiny()], TEXTS[:10], name="x", settings=SMALL)


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match=r"agreement: 0\.4 is not above"):
        LTDefenseSettings(agreement=0.4)
    with pytest.raises(ValueError, match="rates: 0 for 0 models"):
        lt_defense.calibrate([], TEXTS, name="none", settings=SMALL)
    calibration = Calibration("x", ("a",), (0.5,), LTDefenseSettings())
    with pytest.raises(ValueError, match="calibration: made with"):
        finish(lt_defense.events(tiny(), TEXTS, settings=SMALL, calibration=calibration))
