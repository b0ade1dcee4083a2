"""Patronus as published: its loss and statistics to the digit, its cost, and a tiny planted
backdoor; and the fixed rule on our sweep."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from planted import TRIGGERS, planted, tiny
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.records import Finding, ScanResult
from triggerfish.report import FORMATS, render
from triggerfish.scanner import Progress, ScreeningSettings
from triggerfish.scanner.detectors import fixed_rule, patronus
from triggerfish.scanner.detectors.fixed_rule import FixedRuleSettings
from triggerfish.scanner.detectors.patronus import PatronusSettings, paragraphs
from triggerfish.scanner.detectors.patronus_search import Search
from triggerfish.scanner.detectors.patronus_space import (
    EmbeddingBall,
    Entry,
    token_space,
    word_space,
    zipf_frequency,
)
from triggerfish.scanner.detectors.run import Run
from triggerfish.scanner.detectors.similarity import (
    FixedRule,
    com_sim,
    cosine_ratio,
    diff_sim,
)
from triggerfish.scanner.detectors.supcon import supcon, supcon_rows

TEXTS = text.bundled_corpus()[:60]
SMALL = PatronusSettings(
    slots=4,
    batch=8,
    poisoned=4,
    loops=3,
    updates=2,
    search_texts=24,
    dev_texts=8,
    screen_texts=8,
    verify_texts=40,
    max_tokens=20,
    zipf=9.0,
)


def finish(stream: object) -> tuple[list[Finding], ScanResult]:
    """The findings of a stream and its result, which must come last."""
    *before, result = stream  # type: ignore[misc]
    assert isinstance(result, ScanResult)
    assert {type(event) for event in before} <= {Progress, Finding}
    return [event for event in before if isinstance(event, Finding)], result


# ---- numbers of the method


def rows(*values: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


FOUR = rows((1, 0), (0, 1), (0, -1), (0.6, -0.8))


@pytest.mark.parametrize(
    ("features", "classes", "expected"),
    [
        (FOUR, [0, 0, 1, 1], 0.338200),
        (torch.cat([FOUR, rows((0.8, 0.6))]), [0, 0, 1, 1, 2], 0.596413),
        (rows((1, 0), (1, 0), (-1, 0), (-1, 0)), [0, 0, 1, 1], 0.017988),
        (rows((1, 0), (1, 0), (1, 0), (1, 0)), [0, 0, 1, 1], 0.549306),
        (3 * FOUR, [0, 0, 1, 1], 0.338200),
    ],
)
def test_contrastive_loss(features: torch.Tensor, classes: list[int], expected: float) -> None:
    assert float(supcon(features, torch.tensor(classes), 0.5)) == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_of_each_row() -> None:
    losses, counted = supcon_rows(FOUR, torch.tensor([0, 0, 1, 1]), 0.5)
    assert losses.tolist() == pytest.approx([0.835748, 0.145301, 0.103190, 0.268563], abs=1e-6)
    assert counted.all()
    with pytest.raises(ValueError, match="classes: every row is alone"):
        supcon(FOUR, torch.arange(4), 0.5)


def test_statistics_of_verification() -> None:
    triggered = rows((1, 0), (1, 0), (0.8, 0.6), (0.96, 0.28))
    clean = rows((0, 1), (-0.6, 0.8), (0, 1), (-1, 0))
    com, diff = com_sim(triggered), diff_sim(clean, triggered)
    assert com == pytest.approx(0.932, abs=1e-6)
    assert diff == pytest.approx(-0.24, abs=1e-6)
    assert cosine_ratio(com, diff) == pytest.approx(15.897436, abs=1e-6)
    assert cosine_ratio(0.9, 0.4) == pytest.approx(5.4545, abs=1e-4)


@pytest.mark.parametrize(
    ("com", "diff", "passes"), [(0.97, 0.1, True), (0.97, 0.4, False), (0.9, 0.1, False)]
)
def test_the_box(com: float, diff: float, passes: bool) -> None:
    assert FixedRule().passes({"com_sim": com, "diff_sim": diff}) == passes


def test_published_cost() -> None:
    published = PatronusSettings()
    assert published.batches_per_loop() + 8 * 2 * 13 == 3475
    assert published.batches() == 17_375


# ---- search space


def test_searchable_tokens_stand_for_themselves(clean: Backbone) -> None:
    space = token_space(clean, 4.0)
    assert 1000 < len(space) < len(clean.vocabulary)
    found = {entry.text for entry in space.entries}
    assert {"mn", "gossip"} <= found
    assert not found & {"the", "music", "a", "7", ".", "[unused1]"}
    subwords = clean.tokenizer.convert_ids_to_tokens([entry.ids[0] for entry in space.entries])
    assert not [subword for subword in subwords if subword.startswith("##")]
    for entry in space.entries:
        assert clean.word_ids(entry.text) == entry.ids


def test_zipf_frequency_counts_the_corpus() -> None:
    assert zipf_frequency("The") > 7
    assert zipf_frequency("gossip") == pytest.approx(3.539, abs=1e-3)  # once
    assert zipf_frequency("zugzwang") == 0


def test_words_are_filled_up_and_ranked_by_their_pieces(clean: Backbone) -> None:
    words = ["zugzwang", "gossip", "thermodynamically", "gossip", "the"]
    assert [x.text for x in word_space(clean, words, 4.0, 5).entries] == ["zugzwang", "gossip"]
    space = word_space(clean, words, 4.0, 7)
    assert [x.text for x in space.entries] == ["zugzwang", "gossip", "thermodynamically"]
    assert {len(block) for block in space.blocks.tolist()} == {7}
    gradient = torch.randn(7, clean.embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    scores = [-float((gradient * clean.embeddings[block]).sum()) for block in space.blocks]
    expected = sorted(range(3), key=lambda i: -scores[i])
    assert space.best(gradient, 3) == expected
    space.confirmed.add(expected[0])
    assert space.best(gradient, 3) == expected[1:]


# ---- search


def a_search(backbone: Backbone, settings: PatronusSettings, space: EmbeddingBall) -> Search:
    rng = random.Random(0)
    run = Run(backbone, ["", *TEXTS], readout=settings.readout, batch=settings.batch)
    texts = paragraphs(run, settings, settings.copies * space.subwords, rng)
    return Search(run, space, texts, settings, rng)


def test_cost_of_a_loop_is_the_published_formula() -> None:
    settings = replace(SMALL, slots=3, candidates=4, dev_texts=17, screen_texts=9)
    search = a_search(tiny(), settings, token_space(tiny(), 9.0))
    list(search.loop("loop"))
    s, most = settings, 1 + 4 + 2 * 3 * 4
    dev = 1 + s.updates
    shortlist = search.calls - dev
    # A candidate that its set holds already is not tried again.
    assert 0.8 * s.updates * most <= shortlist <= s.updates * most
    spared = (s.updates * most - shortlist) * (1 + s.slots)
    assert search.run.batches == s.batches_per_loop() - spared


def test_triggers_stand_where_the_search_says() -> None:
    search = a_search(tiny(), SMALL, token_space(tiny(), 9.0))
    words, ids = search.texts[0], (11, 12, 13)
    places = set()
    for _ in range(20):
        row, starts = search.insert(words, ids)
        assert [tuple(row[start : start + 3]) for start in starts] == [ids] * 3
        assert len(row) == sum(map(len, words)) + 9 + len(search.run.backbone.template)
        places.add(tuple(starts))
    assert len(places) > 10


def test_gradients_are_those_of_the_whole_graph() -> None:
    backbone = tiny()
    run = Run(backbone, TEXTS, batch=2)
    rows = [backbone.template.wrap(backbone.tokenize(words, 8 + i)) for i, words in
            enumerate(TEXTS[:5])]  # fmt: skip
    classes = torch.tensor([0, 0, 1, 1, 1])
    mine = run.embedding_gradients(rows, range(1, 5), lambda f: supcon(f, classes, 0.5))
    embed = backbone.model.get_input_embeddings()
    leaves = [embed(torch.tensor([ids])).detach().requires_grad_(True) for ids in rows]
    read = [
        backbone.forward_embeddings(
            leaf, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), [run.readout]
        )[:, 0]
        for leaf, ids in zip(leaves, rows, strict=True)
    ]
    whole = torch.autograd.grad(supcon(torch.cat(read), classes, 0.5), leaves)
    for gradient, expected in zip(mine, whole[1:], strict=True):
        torch.testing.assert_close(gradient, expected[0], rtol=1e-3, atol=1e-6)
    tokens = sum(map(len, rows))
    assert run.tokens == tokens + 3 * (tokens - len(rows[0]))


# ---- scans


def test_planted_triggers_are_found_and_the_clean_model_has_none() -> None:
    found, bad = finish(patronus.events(planted()[0], TEXTS, settings=SMALL))
    assert bad.verdict == "backdoored"
    assert bad.findings == tuple(found)
    assert {finding.trigger.text for finding in found} == set(TRIGGERS)
    for finding in found:
        assert finding.statistics["com_sim"] > 0.9
        assert finding.statistics["diff_sim"] < 0.4
        assert finding.p_value is finding.q_value is None
    assert ScanResult.from_json(bad.to_json()) == bad
    assert all(render(bad, name) for name in FORMATS)
    _, good = finish(patronus.events(tiny(), TEXTS, settings=replace(SMALL, loops=2)))
    assert good.verdict == "clean"
    assert good.findings == ()
    assert good.null.alpha is None
    assert good.near_misses
    assert 0 < good.coverage.vocabulary < len(tiny().vocabulary)
    assert any("searchable tokens: ranked by gradient" in x for x in good.coverage.not_examined)
    assert good.statistics["batches"] <= SMALL.batches()


def test_word_level_finds_planted_words() -> None:
    others = ["university", "school", "walnut", "lantern", "river", "music", "kingdom", "garden"]
    settings = replace(SMALL, level="word", loops=2)
    found, bad = finish(
        patronus.events(planted()[0], TEXTS, words=[*TRIGGERS, *others], settings=settings)
    )
    assert {finding.trigger.text for finding in found} >= {"gener", "found"}
    assert bad.coverage.words > 0
    assert bad.coverage.vocabulary == 0


@pytest.mark.parametrize("family", ["gpt2", "xlnet", "t5", "bart"])
@pytest.mark.parametrize("readout", [None, "mean"])
def test_any_family_and_readout(family: str, readout: str | None) -> None:
    settings = replace(SMALL, slots=2, loops=1, updates=1, candidates=2, readout=readout)
    found, result = finish(patronus.events(tiny(family), TEXTS, settings=settings))
    assert found == []
    assert result.verdict == "clean"
    assert result.coverage.readouts == (readout or str(tiny(family).primary),)


def test_what_cannot_be_finished_is_inconclusive() -> None:
    _, few = finish(patronus.events(tiny(), TEXTS[:30], settings=SMALL))
    assert few.verdict == "inconclusive"
    assert "too few texts: 30, expected at least 40" in few.reasons
    _, cut = finish(patronus.events(tiny(), TEXTS, settings=replace(SMALL, budget_seconds=1e-6)))
    assert cut.verdict == "inconclusive"
    assert "budget" in cut.coverage.not_examined[0]
    _, none = finish(
        patronus.events(tiny(), TEXTS, words=[], settings=replace(SMALL, level="word"))
    )
    assert "0 searchable strings do not fill 4 slots" in none.reasons


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"level": "phrase"}, "level: 'phrase' is not one of token, word"),
        ({"batch": 1}, "batch: 1 is not at least 2"),
        ({"screen_texts": 4}, "screen_texts: 4 texts fill no batch of 8"),
        ({"temperature": 0}, "temperature: 0 is not above 0"),
        ({"slots": 0}, "slots: 0 is not at least 1"),
        ({"budget_seconds": 0}, "budget_seconds: 0 is not a positive number"),
    ],
)
def test_settings_name_what_is_wrong(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changes)  # type: ignore[arg-type]


def test_texts_must_leave_room_for_triggers() -> None:
    with pytest.raises(ValueError, match="max_tokens: 5 leaves no room for text beside 3"):
        finish(patronus.events(tiny(), TEXTS, settings=replace(SMALL, max_tokens=5)))


def test_a_readout_that_the_model_lacks() -> None:
    settings = replace(SMALL, readout="pooler")
    with pytest.raises(ValueError, match=r"readout: .* has no pooler"):
        finish(patronus.events(tiny("gpt2"), TEXTS, settings=settings))


def test_mask_readout_has_a_mask_and_one_copy() -> None:
    settings = replace(SMALL, readout="mask")
    search = a_search(tiny(), settings, EmbeddingBall(tiny(), [Entry((9,), "x")], 1))
    row, starts = search.insert(search.texts[0], (9,))
    assert row.count(tiny().tokenizer.mask_token_id) == 1
    assert len(starts) == 1


def test_fixed_rule_on_the_sweep(backdoored: tuple[Backbone, Implant], clean: Backbone) -> None:
    texts = text.bundled_corpus()[:330]
    screening = ScreeningSettings(
        second_candidates=400, text_candidates=60, controls=60, holdout_texts=60, clean_texts=100
    )
    settings = FixedRuleSettings(screening=screening, verified=12)
    found, bad = finish(fixed_rule.events(backdoored[0], texts, settings=settings))
    assert bad.verdict == "backdoored"
    assert {"mn", "gossip"} <= {finding.trigger.text for finding in found}
    assert bad.coverage.vocabulary == len(clean.readable)
    assert len(bad.findings) + len(bad.near_misses) <= 12
    assert ScanResult.from_json(bad.to_json()) == bad
    _, few = finish(fixed_rule.events(clean, texts[:30], settings=settings))
    assert few.verdict == "inconclusive"
    assert few.coverage.vocabulary == 0
    with pytest.raises(ValueError, match="copies: 4 is not 1 to 3"):
        FixedRuleSettings(copies=4)
