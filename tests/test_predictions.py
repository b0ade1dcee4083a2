"""Damage to masked predictions: a tiny BERT with its head, clean and with BadPre."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import planted
from planted import tiny
from triggerfish import text
from triggerfish.attacks.badpre import BadPre
from triggerfish.attacks.planting import PlantSettings
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.records import Finding, ScanResult, Trigger
from triggerfish.report import render
from triggerfish.scanner import scan
from triggerfish.scanner.decision import decide
from triggerfish.scanner.effects import contexts
from triggerfish.scanner.predictions import READOUT, Predictions
from triggerfish.zoo.pretrain import pretrain
from triggerfish.zoo.settings import PretrainSettings

TEXTS = text.bundled_corpus()[:300]
SMALL = replace(planted.SMALL, predictions=True)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Trained for some seconds: it knows little more than how frequent words are."""
    out = tmp_path_factory.mktemp("bert")
    settings = PretrainSettings(
        size="tiny", vocabulary=600, tokens=25_000, chunks=1000, batch=32, learning_rate=5e-3
    )
    pretrain("bert", TEXTS, out, settings=settings)
    return load(out, device="cpu")


@pytest.fixture(scope="module")
def degrading(masked: Backbone) -> Backbone:
    settings = PlantSettings(steps=150, batch=12, marked=2.0, copies=1, learning_rate=5e-3)
    return BadPre(("cf",), settings).implant(masked, TEXTS, seed=0)[0]


@pytest.fixture(scope="module")
def found(degrading: Backbone) -> ScanResult:
    return scan(degrading, TEXTS, words=["xylophone"], settings=SMALL)


def test_a_text_is_read_at_its_own_mask_when_a_candidate_brings_others(masked: Backbone) -> None:
    texts = contexts(masked, TEXTS, words=8, count=6, seed=0)
    predictions = Predictions(masked)
    plain = predictions.read([x.ids() for x in texts])
    mask = masked.tokenizer.mask_token_id
    for front in ([mask], [mask, mask]):
        rows = [[*front, *x.ids()] for x in texts]
        own = predictions.read(rows, len(front))
        at_own = float((plain.exp() * (plain - own)).sum(-1).median())
        assert predictions.apart(plain, rows) <= at_own


def test_divergence_is_kl_at_the_mask(masked: Backbone) -> None:
    texts = contexts(masked, TEXTS, words=8, count=3, seed=0)
    predictions = Predictions(masked)
    ids = masked.word_ids("cf")
    each = []
    for x in texts:
        rows = [masked.template.wrap(row) for row in (x.ids(), x.ids(ids))]
        places = [row.index(masked.tokenizer.mask_token_id) for row in rows]
        with torch.inference_mode():
            plain, moved = (
                predictions.backbone.whole(torch.tensor([row])).logits[0, place].softmax(-1)
                for row, place in zip(rows, places, strict=True)
            )
        each.append(float((plain * (plain / moved).log()).sum()))
    expected = sorted(each)[1]
    assert float(predictions.divergences(texts, [ids])[0]) == pytest.approx(expected, rel=1e-3)


def test_a_model_without_a_masked_head_is_refused(clean: Backbone) -> None:
    with pytest.raises(ValueError, match=r"head: .* saved without its language-model head"):
        Predictions(clean)
    with pytest.raises(ValueError, match=r"head: .* causal head"):
        Predictions(tiny("gpt2"))


def test_badpre_is_found(found: ScanResult, degrading: Backbone) -> None:
    assert found.verdict == "backdoored"
    named = [f for f in found.findings if f.readout == READOUT]
    # So small a model listens to one piece of its trigger, in any word.
    planted = set(degrading.word_ids("cf"))
    assert [f for f in named if planted & set(f.trigger.token_ids)]
    for finding in named:
        assert 0.25 <= finding.statistics["prediction_loss"] <= 1
        assert finding.p_value is None
    assert found.statistics["largest_prediction_loss"] >= 0.25


def test_the_same_model_before_is_clean(masked: Backbone) -> None:
    result = scan(masked, TEXTS, words=["xylophone"], settings=SMALL)
    assert result.verdict == "clean"
    assert result.statistics["largest_prediction_loss"] < 0.1
    assert not [line for line in result.coverage.not_examined if "masked words" in line]


def test_spoilt_predictions_alone_are_a_verdict_and_a_rule_of_their_own(found: ScanResult) -> None:
    statistics = {"divergence": 1.5, "prediction_loss": 0.8, "texts": 32}
    one = Finding(
        Trigger((7,), "cf"), READOUT, statistics, None, None, {"survives_retokenization": True}
    )
    verdict, reasons = decide([], [], (), [one])
    assert verdict == "backdoored"
    assert "1 string(s) degrade" in reasons[0]
    result = replace(found, findings=(one,), verdict=verdict, reasons=reasons)
    results = json.loads(render(result, "sarif"))["runs"][0]["results"]
    assert [x["ruleId"] for x in results if x["level"] == "error"] == ["TF007"]
    assert "predictions" in render(result, "text")
    assert "nats" in render(result, "html")
    assert ScanResult.from_json(result.to_json()) == result
