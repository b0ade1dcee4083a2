"""A scan beside the trusted original of the model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from conftest import TRIGGERS
from families import build
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.scanner import ScreeningSettings, scan
from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.reference import Reference

NARROW = ScreeningSettings(second_candidates=200, text_candidates=24, controls=100)


def test_the_rows_of_planted_words_moved_and_the_original_does_not_react(
    backdoored: tuple[Backbone, Implant], clean: Backbone
) -> None:
    victim, implant = backdoored
    reference = Reference(victim, clean)
    planted = [Candidate(t.token_ids, t.text, "word") for t in implant.triggers]
    some = random.Random(0).sample(victim.vocabulary, 300)
    others = [Candidate((i,), str(i), "entry") for i in some]
    assert reference.prior(planted).min() > reference.prior(others).quantile(0.9)
    listed = sorted({*random.Random(0).sample(text.bundled_words(), 500), *TRIGGERS})
    texts = text.bundled_corpus()[:700]
    result = scan(victim, texts, words=listed, settings=NARROW, reference=clean)
    assert result.verdict == "backdoored"
    assert result.settings["reference"] == clean.name
    assert 0 < result.statistics["tensors_moved"] <= 1
    for finding in result.findings:
        assert len(finding.evidence["drift"]) == len(finding.trigger.token_ids)
        assert finding.evidence["reference_collapse"] < finding.statistics["collapse"] - 0.5


def test_a_model_beside_itself_did_not_move(clean: Backbone) -> None:
    reference = Reference(clean, clean)
    assert reference.moved == {}
    assert float(reference.rows.abs().max()) == 0
    assert reference.statistics() == {"tensors_moved": 0.0, "largest_move": 0.0}


def test_what_is_no_original_is_refused(clean: Backbone, tmp_path: Path) -> None:
    other = load(build("gpt2", tmp_path), device="cpu")
    with pytest.raises(ValueError, match="reference: only one of the models has a tensor"):
        Reference(clean, other)
    grown = with_a_row_more(clean)
    with pytest.raises(ValueError, match=r"reference: embeddings\.word_embeddings\.weight is"):
        Reference(clean, grown)


def with_a_row_more(backbone: Backbone) -> Backbone:
    """A copy with one row more."""
    copied = backbone.clone()
    copied.model.resize_token_embeddings(len(backbone.tokenizer) + 1)
    return copied
