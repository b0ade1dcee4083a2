"""LMSanitator: its entropy term, and what it mines from a tiny model, planted and clean."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from planted import planted, tiny
from triggerfish import text
from triggerfish.records import ScanResult
from triggerfish.report import FORMATS, render
from triggerfish.scanner import Progress
from triggerfish.scanner.detectors import lmsanitator
from triggerfish.scanner.detectors.lmsanitator import (
    Inversion,
    LMSanitatorSettings,
    entropy_deficit,
)
from triggerfish.scanner.detectors.run import Run

TEXTS = text.bundled_corpus()[:256]
SMALL = LMSanitatorSettings(texts=256, max_tokens=24, restarts=3, learning_rate=5e-4)


def finish(stream: object) -> ScanResult:
    *before, result = stream  # type: ignore[misc]
    assert isinstance(result, ScanResult)
    assert {type(event) for event in before} <= {Progress}
    return result


def test_entropy_is_measured_from_agreement() -> None:
    assert float(entropy_deficit(torch.ones(8, 5))) == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[0.0, 1000.0], [0.0, 0.0]])
    assert float(entropy_deficit(apart)) == pytest.approx(math.log(2) / 2, abs=1e-6)


def test_published_thresholds_depend_on_the_family() -> None:
    published = LMSanitatorSettings()
    bert, roberta = published.resolved("bert"), published.resolved("roberta")
    assert (bert.learning_rate, bert.distance) == (5e-5, 0.2)
    assert (roberta.learning_rate, roberta.distance) == (2e-4, 0.1)
    # The threshold of the code, -3.446, is for 2,000 texts in batches of 32.
    ceiling = (62 * math.log(32) + math.log(16)) / 63
    assert ceiling - published.diversity == pytest.approx(3.446, abs=1e-4)


def test_a_planted_vector_is_mined() -> None:
    victim, implant = planted()
    result = finish(lmsanitator.events(victim, TEXTS, settings=SMALL))
    assert result.verdict == "backdoored"
    assert result.findings == ()
    (target,) = result.targets
    vector = torch.tensor(target.vector)
    alike = torch.cosine_similarity(vector, torch.tensor(implant.vectors))
    assert float(alike.max()) > 0.9
    assert target.statistics["distance"] > 0.2
    assert any("names no trigger" in missing for missing in result.coverage.not_examined)
    assert ScanResult.from_json(result.to_json()) == result
    assert "1 hidden target without a named trigger found" in render(result, "text")
    assert all(render(result, name) for name in FORMATS)


def test_restarts_count_and_known_targets_are_not_listed_twice() -> None:
    victim, _ = planted()
    everything = replace(SMALL, stop_after=None, restarts=4, repetition=0.0)
    result = finish(lmsanitator.events(victim, TEXTS, settings=everything))
    assert result.null.candidates == 4
    vectors = torch.tensor([target.vector for target in result.targets])
    for i, vector in enumerate(vectors):
        apart = (vectors[i + 1 :] - vector).square().mean(1)
        assert bool((apart >= 0.2).all())
    assert 1 <= sum(target.restarts for target in result.targets) <= 4


def test_a_clean_model_has_none() -> None:
    result = finish(lmsanitator.events(tiny(), TEXTS, settings=SMALL))
    assert result.verdict == "clean"
    assert result.targets == ()
    # Three searches of two passes over eight batches, and the clean features.
    assert result.statistics["batches"] == 8 + 3 * 2 * 8


def test_vectors_stand_in_the_text() -> None:
    run = Run(tiny(), TEXTS[:40], batch=32)
    inversion = Inversion(run, replace(SMALL, texts=40).resolved("bert"), seed=0)
    template = run.backbone.template
    for words, row, place in zip(TEXTS, inversion.rows, inversion.places, strict=False):
        assert len(row) <= 24
        assert row[place : place + 7] == [run.backbone.pad_id] * 7
        clean = template.wrap([i for _, ids in run.backbone.words_ids(words.split()) for i in ids])
        rest = row[:place] + row[place + 7 : -len(template.suffix)]
        assert rest == clean[: len(rest)]
        assert place > len(template.prefix)
    # Vectors that are embeddings of tokens do what the tokens do.
    tokens = [inversion.rows[0][1]] * 7
    row, place = inversion.rows[1], inversion.places[1]
    expected = run.encode([row[:place] + tokens + row[place + 7 :]])
    vectors = inversion.matrix[tokens]
    torch.testing.assert_close(inversion._read(vectors, [1]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "xlnet", "t5", "bart"])
@pytest.mark.parametrize("readout", [None, "mean"])
def test_any_family_and_readout(family: str, readout: str | None) -> None:
    settings = replace(SMALL, texts=40, restarts=1, readout=readout)
    result = finish(lmsanitator.events(tiny(family), TEXTS, settings=settings))
    assert result.verdict == "clean"
    assert result.coverage.readouts == (readout or str(tiny(family).primary),)


def test_mask_readout() -> None:
    settings = replace(SMALL, texts=40, restarts=1, readout="mask")
    assert finish(lmsanitator.events(tiny(), TEXTS, settings=settings)).verdict == "clean"


def test_what_cannot_be_finished_is_inconclusive() -> None:
    few = finish(lmsanitator.events(tiny(), TEXTS[:20], settings=SMALL))
    assert few.verdict == "inconclusive"
    assert "too few texts: 20, expected at least 32" in few.reasons
    cut = finish(lmsanitator.events(tiny(), TEXTS, settings=replace(SMALL, budget_seconds=1e-6)))
    assert cut.verdict == "inconclusive"
    assert "budget" in cut.coverage.not_examined[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 1}, "batch: 1 is not at least 2"),
        ({"restarts": 0}, "restarts: 0 is not at least 1"),
        ({"patience": 5}, "patience: 5 is above epochs, 4"),
    ],
)
def test_settings_name_what_is_wrong(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changes)  # type: ignore[arg-type]
