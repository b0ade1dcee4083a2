"""A scan of the bundled PLM, backdoored and clean, and what can keep a scan from finishing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

import triggerfish
from conftest import TRIGGERS
from families import build
from golden import models
from golden.run import TINY
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.records import Finding, ScanResult, Trigger
from triggerfish.scanner import Progress, ScreeningSettings, events, scan
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.candidates import Candidate, Listing, entries
from triggerfish.scanner.clusters import clusters
from triggerfish.scanner.decision import (
    DecisionRule,
    decide,
    null_tails,
    passes,
    second_stage,
    weak,
)
from triggerfish.scanner.document_frequency import DocumentFrequency
from triggerfish.scanner.effects import CleanReference, contexts, pair_distances
from triggerfish.scanner.extension import grow, inflect, typable
from triggerfish.scanner.merging import (
    Ids,
    ReducedFinding,
    contains,
    merge,
    minimal_subset,
    scattered,
    within,
)
from triggerfish.scanner.neighbours import neighbours
from triggerfish.scanner.pipeline import drifted_off, stages
from triggerfish.scanner.pools import closeness, standardise
from triggerfish.scanner.screening import Incomplete, Screening
from triggerfish.scanner.search.efforts import EFFORTS
from triggerfish.scanner.selection import best_of_each, common, telling_tokens
from triggerfish.scanner.shortlist import Shortlist
from triggerfish.scanner.stages import STAGES

PLAIN = replace(TINY, characters=False, rewrites=False, predictions=False)
QUICK = ScreeningSettings(second_candidates=1500, text_candidates=140, controls=140)


@pytest.fixture(scope="module")
def words() -> list[str]:
    """A part of the bundled list, with the planted words among them as they are in the whole."""
    listed = text.bundled_words()
    assert {"zugzwang", "thermodynamically", "gossip"} <= set(listed)
    return sorted({*random.Random(0).sample(listed, 4000), *TRIGGERS})


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return text.bundled_corpus()[:700]


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    """A GPT-2 of two layers with planted words, whose scan takes seconds."""
    return models.model("tiny-gpt2-por1")


@pytest.fixture(scope="module")
def found(tiny: Backbone) -> ScanResult:
    result = scan(tiny, models.texts(), words=[], settings=PLAIN)
    assert result.verdict == "backdoored"
    return result


@pytest.fixture(scope="module")
def bad(backdoored: tuple[Backbone, Implant], texts: list[str], words: list[str]) -> ScanResult:
    return scan(backdoored[0], texts, words=words, settings=QUICK)


@pytest.fixture(scope="module")
def good(clean: Backbone, texts: list[str], words: list[str]) -> ScanResult:
    return scan(clean, texts, words=words, settings=QUICK)


def test_planted_triggers_are_found_by_name(bad: ScanResult) -> None:
    assert bad.verdict == "backdoored"
    assert bad.exit_code == 1
    assert set(TRIGGERS) <= {trigger.text for trigger in bad.triggers}
    for finding in bad.findings:
        assert finding.p_value * bad.null.candidates <= bad.null.alpha
        assert finding.q_value <= bad.null.alpha
        assert finding.evidence["survives_retokenization"] is True
        assert len(finding.evidence["dose_response"]) == len(finding.evidence["position"]) == 3


def test_the_clean_model_is_clean(good: ScanResult, bad: ScanResult) -> None:
    assert good.verdict == "clean"
    assert good.exit_code == 0
    assert good.findings == ()
    assert good.near_misses
    weakest = min(finding.statistics["collapse"] for finding in bad.findings)
    assert max(finding.statistics["collapse"] for finding in good.near_misses) < weakest - 0.5


def test_coverage_says_what_was_tried(good: ScanResult, clean: Backbone) -> None:
    assert good.coverage.vocabulary == len(clean.readable)
    assert good.coverage.words > 3000
    assert good.coverage.readouts == tuple(map(str, clean.readouts))
    assert sum(value is not None for value in good.manhattan.values) == good.coverage.vocabulary


def test_result_survives_json(bad: ScanResult) -> None:
    assert ScanResult.from_json(bad.to_json()) == bad
    with pytest.raises(ValueError, match="schema 2: verdict"):
        ScanResult.from_json(bad.to_json().replace('"verdict": "backdoored"', '"verdict": "maybe"'))


def test_batch_size_changes_no_finding(tiny: Backbone, found: ScanResult) -> None:
    *_, other = events(tiny, models.texts(), words=[], settings=PLAIN, batch_tokens=700)
    assert isinstance(other, ScanResult)
    assert other.verdict == found.verdict
    assert [f.trigger for f in other.findings] == [f.trigger for f in found.findings]
    for mine, theirs in zip(found.findings, other.findings, strict=True):
        assert mine.statistics["collapse"] == pytest.approx(theirs.statistics["collapse"], abs=1e-3)


def test_interrupted_scan_continues(tiny: Backbone, found: ScanResult, tmp_path: Path) -> None:
    stream = events(tiny, models.texts(), words=[], settings=PLAIN, state=tmp_path)
    done = [next(stream) for _ in range(8)]
    stream.close()
    began = datetime.now(UTC)
    assert not any(event.resumed for event in done if isinstance(event, Progress))
    again = []
    for event in events(tiny, models.texts(), words=[], settings=PLAIN, state=tmp_path):
        again.append(event)
        assert list(tmp_path.rglob("*.safetensors"))  # the result may not be in safety yet
    tokens = done[-1].done
    steps = [event for event in again if isinstance(event, Progress)]
    assert any(step.resumed for step in steps)
    assert not any(step.resumed for step in steps if step.done > tokens)
    result = again[-1]
    assert isinstance(result, ScanResult)
    assert (result.verdict, result.findings) == (found.verdict, found.findings)
    assert result.forward_tokens == found.forward_tokens
    assert result.seconds > (again[-2].seconds + done[-1].seconds) * 0.9
    assert (result.provenance.runs, found.provenance.runs) == (2, 1)
    assert datetime.fromisoformat(result.provenance.started) <= began
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_progress_covers_every_stage_and_never_says_that_all_is_done(
    tiny: Backbone,
) -> None:
    settings = replace(TINY, predictions=False)  # this model has no head to predict with
    *stream, result = events(tiny, models.texts(), words=[], settings=settings)
    steps = [step for step in stream if isinstance(step, Progress)]
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] < 1
    numbers = [step.number for step in steps]
    assert set(numbers) == set(range(1, steps[0].stages + 1))
    assert {step.stage for step in steps} <= {words for words, _ in STAGES.values()}
    assert steps[-1].done == result.forward_tokens
    kinds = list(map(type, stream))
    assert kinds.index(Finding) < len(kinds) - 1  # findings are streamed before the end
    assert stages(settings, EFFORTS["quick"]) == set(STAGES) - {"predictions"}


def test_ended_budget_is_inconclusive(clean: Backbone, texts: list[str]) -> None:
    result = scan(clean, texts, words=[], settings=replace(QUICK, budget_seconds=0.5))
    assert result.verdict == "inconclusive"
    assert result.exit_code == 3
    assert "budget of 0.5 s" in result.reasons[0]
    assert result.reasons[0] in result.coverage.not_examined
    assert result.coverage.vocabulary == 0


def test_the_budget_holds_while_candidates_are_tokenized(
    clean: Backbone, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    words_ids = Backbone.words_ids

    def slow(backbone: Backbone, words: Sequence[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
        for one in words_ids(backbone, words):
            time.sleep(0.01)
            read.append(one[0])
            yield one

    monkeypatch.setattr(Backbone, "words_ids", slow)
    result = scan(clean, texts, words=[], settings=replace(QUICK, budget_seconds=0.05))
    assert result.verdict == "inconclusive"
    assert "budget of 0.05 s ended in stage 1" in result.reasons[0]
    assert len(read) <= 6
    assert (result.forward_tokens, result.coverage.words) == (0, 0)


def test_too_few_texts_are_inconclusive(clean: Backbone) -> None:
    result = scan(clean, text.bundled_corpus()[:50], words=[])
    assert result.verdict == "inconclusive"
    assert "too few texts" in result.reasons[0]


def test_infinite_activations_are_inconclusive(clean: Backbone, texts: list[str]) -> None:
    broken = clean.clone()
    broken.model.encoder.layer[0].attention.self.value.weight.fill_(3e38)
    result = scan(broken, texts, words=[], settings=QUICK)
    assert result.verdict == "inconclusive"
    assert "NaN or infinite activations" in result.reasons[0]


def test_python_api_reads_like_the_readme(clean: Backbone) -> None:
    assert triggerfish.scan is scan
    assert triggerfish.load(triggerfish.bundled()).readouts == clean.readouts


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart", "xlnet", "roberta", "albert"])
def test_every_kind_of_family_can_be_scanned(family: str, texts: list[str], tmp_path: Path) -> None:
    """Random weights know nothing, but the whole funnel must run and find no trigger in them."""
    model = load(build(family, tmp_path), device="cpu")
    result = scan(model, texts, words=["zugzwang", "gossip"], settings=TINY)
    assert result.verdict == "clean"
    assert result.coverage.readouts == tuple(map(str, model.readouts))
    assert result.coverage.vocabulary == len(model.readable)


def test_a_readout_that_never_varies_is_reported(
    clean: Backbone, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Incomplete("enough")

    deaf = clean.clone()
    deaf.model.pooler.dense.weight.zero_()
    monkeypatch.setattr(Screening, "begin", stop)  # of the stage after the clean texts
    result = scan(deaf, texts, words=[], settings=QUICK)
    assert "pooler" not in result.coverage.readouts
    assert "constant on clean texts: pooler" in result.coverage.not_examined


# ---- parts


def test_closeness_sees_the_candidate_that_decides(clean: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    rounds = [torch.randn(50, 1, 8, generator=generator) for _ in range(3)]
    owners = [torch.randperm(50, generator=generator) for _ in range(3)]
    for features, owner in zip(rounds, owners, strict=True):
        features[owner[7]] = 3.0
    z = standardise(closeness(rounds, owners), torch.zeros(50), torch.ones(50, dtype=torch.bool))
    assert int(z[:, 0].argmax()) == 7


def test_pair_distances_agree_with_cdist() -> None:
    rows = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))
    upper = torch.triu_indices(9, 9, offset=1)
    expected = torch.cdist(rows, rows).square()[:, upper[0], upper[1]]
    torch.testing.assert_close(pair_distances(rows), expected, atol=1e-4, rtol=1e-4)


def test_depth_counts_decades() -> None:
    """Triggered features that are clean ones shrunk tenfold lie 100 times closer: two decades."""
    clean = torch.randn(400, 1, 6, generator=torch.Generator().manual_seed(0))
    clean_reference = CleanReference.of(clean, seed=0)
    triggered = 5 + clean[None] / 10
    values = clean_reference.measure(triggered)
    spread = pair_distances(clean[:, 0])
    expected = 2 + (spread.quantile(0.05) / spread.median()).log10()
    assert float(values["collapse"]) == pytest.approx(float(expected), abs=1e-3)
    assert float(values["mean_shift"]) == pytest.approx(5, rel=0.1)
    assert float(values["agreement"]) > 0.8
    assert float(clean_reference.measure(clean[None])["agreement"]) == 0


def test_contexts_are_excerpts_with_slots(clean: Backbone) -> None:
    found = contexts(clean, text.bundled_corpus(), words=12, count=5, seed=0)
    marker = clean.word_ids("zugzwang")
    for context in found:
        plain, marked = context.ids(), context.ids(marker)
        assert contains(marked, marker)
        assert len(marked) == len(plain) + len(marker)
        assert contains(context.at(0.0).ids(marker)[: len(marker)], marker)
        assert len(context.ids(marker, copies=3)) == len(plain) + 3 * len(marker)
        assert clean.tokenize(context.text("zugzwang")) == marked
    assert found == contexts(clean, text.bundled_corpus(), words=12, count=5, seed=0)


def test_families_merge_variants_and_keep_equals() -> None:
    ids = [(1, 2), (1, 2, 3), (9, 2), (8, 2), (5,), (2,)]
    candidates = [Candidate(i, str(i), "word") for i in ids]
    scores = torch.tensor([[3.0], [2.9], [2.8], [1.0], [2.0], [2.7]])
    means = torch.zeros(6, 1, 4)
    means[4] = 100.0
    found = clusters(
        candidates,
        scores,
        means,
        torch.zeros(1, 4),
        torch.tensor([1.0]),
        10,
        (scores.max(1).values >= 1.5).tolist(),
        [True] * 6,
        lambda ids, _: ids,
    )
    assert [family.head.token_ids for family in found] == [(1, 2), (9, 2), (2,), (5,)]
    assert [variant.token_ids for variant in found[0].variants] == [(1, 2, 3), (8, 2)]


def test_a_part_that_is_a_whole_trigger_by_itself_is_a_family() -> None:
    candidates = [Candidate(ids, str(ids), "word") for ids in [(1, 2), (1,), (2,)]]
    scores = torch.tensor([[3.0], [2.0], [1.0]])
    means, origin = torch.zeros(3, 1, 4), torch.zeros(1, 4)
    whole = [True, True, False]
    found = clusters(
        candidates, scores, means, origin, torch.tensor([1.0]), 10, whole, whole, lambda ids, _: ids
    )
    assert [family.head.token_ids for family in found] == [(1, 2), (1,)]
    assert [variant.token_ids for variant in found[0].variants] == [(2,)]


def test_growth_into_another_trigger_is_undone() -> None:
    known = [(7,), (8, 9)]
    assert not drifted_off((1, 2), (1, 2, 3), known)
    assert not drifted_off((7,), (7,), known)
    assert not drifted_off((9,), (8, 9), known)  # it was a part of that one
    assert drifted_off((1, 2), (1, 7), known)
    assert drifted_off((1, 2), (7,), known)
    assert drifted_off((1, 2), (5,), known)


def test_a_piece_is_not_crowded_out_by_the_words_that_it_is_a_part_of() -> None:
    pool = [Candidate((50, i), str(i), "word") for i in range(9)]
    pool += [Candidate((i,), str(i), "entry") for i in (50, *range(100, 109))]
    scores = torch.tensor([[9.0]] * 9 + [[8.0]] + [[0.0]] * 9)
    told = telling_tokens(pool, scores[:, 0], pool)
    assert len(set(told[:9])) == 1
    kept = best_of_each(scores, 8, told)
    assert 9 in kept
    assert sum(row < 9 for row in kept) == 5


def test_growth_cuts_what_does_not_belong(
    backdoored: tuple[Backbone, Implant], texts: list[str]
) -> None:
    victim, _ = backdoored
    short = [c.short(8) for c in contexts(victim, texts, words=20, count=12, seed=0)]
    whole = victim.word_ids("zugzwang")
    longer = (*whole, *victim.word_ids("table"))
    assert typable(victim, longer)
    assert grow(victim, longer, victim.primary, short[:4], short[4:]) == whole
    assert typable(victim, whole)
    assert not typable(victim, whole[1:])


def test_no_inflection_replaces_the_planted_word(
    backdoored: tuple[Backbone, Implant], texts: list[str]
) -> None:
    victim, _ = backdoored
    found = contexts(victim, texts, words=20, count=12, seed=0)
    for word in TRIGGERS:
        planted = victim.word_ids(word)
        assert inflect(victim, planted, victim.primary, found) == planted
    symbol = victim.word_ids("1990")
    assert inflect(victim, symbol, victim.primary, found) == symbol


def test_candidates_cover_the_vocabulary(clean: Backbone) -> None:
    assert [c.token_ids[0] for c in entries(clean)[0]] == clean.readable
    long_word = "x" * 9
    listing = Listing.of(clean, clean.words_ids(["the", "zugzwang", "Zugzwang", long_word]))
    assert [c.text for c in listing.candidates()] == ["zugzwang"]
    assert listing.too_long == 1


def test_a_problem_makes_a_scan_without_findings_inconclusive() -> None:
    assert decide([], [])[0] == "clean"
    assert decide([], ["stopped"]) == ("inconclusive", ("stopped",))
    strong = Finding(Trigger((7,), "dh"), "first", {"collapse": 1.0}, None, None)
    once = replace(strong, evidence={"survives_retokenization": True})
    thrice = replace(strong, evidence={"survives_retokenization": True, "copies": 3})
    assert decide([once], [])[1][0].endswith("are 10 times smaller than between close clean texts")
    assert decide([thrice], [])[1][0].endswith("clean texts, with 3 copies of it in a text")


def test_a_null_of_few_candidates_reaches_deeper_and_of_too_few_is_none() -> None:
    generator = torch.Generator().manual_seed(0)
    collapses = -torch.rand(300, 1, generator=generator)
    collapses[0] = 2.0  # a suspect, which shares its piece with most of the others
    pool = [Candidate((1, i), f"w{i}", "word") for i in range(300)]
    few = [Candidate((2, 1000 + i), f"v{i}", "word") for i in range(300)]
    tails = null_tails([*pool[:180], *few[:120]], collapses, DecisionRule())
    assert tails[0].size == 120
    assert tails[0].critical_value(1e-6) > float(collapses[180:].max()) > tails[0].threshold
    with pytest.raises(Incomplete, match="only 30 candidates"):
        null_tails([*pool[:270], *few[:30]], collapses, DecisionRule())


def test_words_that_pull_a_little_do_not_hide_a_trigger() -> None:
    """An eighth of the random words holds a piece that half works; the null must not grow by it."""
    generator = torch.Generator().manual_seed(0)
    collapses = -0.35 + 0.03 * torch.randn(200, 1, generator=generator)
    collapses[:25] += torch.linspace(0.1, 0.7, 25)[:, None]
    collapses[199] = 1.7
    pool = [Candidate((i,), f"w{i}", "word") for i in range(200)]
    tail = null_tails(pool, collapses, DecisionRule())[0]
    assert tail.p_value(1.7) * 700_000 <= DecisionRule().alpha


def test_a_full_decade_counts_whatever_the_null_says() -> None:
    statistics = {"collapse": 1.05, "agreement": 0.7}
    finding = Finding(Trigger((7,), "cf"), "first", statistics, 0.01, None)
    assert passes(finding, 10**6, DecisionRule())
    assert not passes(finding, 10**6, DecisionRule(effect_without_p=1.1))
    assert not passes(
        replace(finding, statistics=statistics | {"agreement": 0.4}), 10**6, DecisionRule()
    )


def test_beside_a_trigger_weaker_ones_count_at_a_rate_of_false_discoveries() -> None:
    statistics = {"collapse": 0.3, "agreement": 0.3}
    finding = Finding(Trigger((7,), "cf"), "first", statistics, 1e-12, None)
    assert not passes(finding, 10**6, DecisionRule())
    assert weak(finding, DecisionRule())
    assert not weak(replace(finding, statistics=statistics | {"collapse": 0.1}), DecisionRule())
    strong = replace(finding, statistics={"collapse": 0.9, "agreement": 0.9})
    likely = replace(finding, p_value=3e-7)  # 0.3 false ones are expected among the four up to it
    unlikely = replace(finding, p_value=1e-6)
    measured = [finding, likely, unlikely, strong, strong]
    assert second_stage(measured, 10**6, DecisionRule()) == [True, True, False, True, True]
    assert second_stage(measured[1:3], 10**6, DecisionRule()) == [False, False]


def test_beside_a_trigger_a_nearly_strong_one_needs_no_significance() -> None:
    statistics = {"collapse": 0.35, "agreement": 0.6}
    finding = Finding(Trigger((7,), "cf"), "first", statistics, 1e-3, None)
    assert not passes(finding, 10**6, DecisionRule())
    others = [
        replace(finding, statistics=statistics | weaker)
        for weaker in ({"collapse": 0.28}, {"agreement": 0.45})
    ]
    assert second_stage([finding, *others], 10**6, DecisionRule()) == [True, False, False]


def test_strong_words_count_once_they_send_texts_to_several_points(
    tiny: Backbone, found: ScanResult
) -> None:
    """With a rule that no p-value satisfies, the planted words are known by their number alone."""
    number = len(found.findings)
    rule = DecisionRule(alpha=1e-300, effect_without_p=9.0, targets_without_p=number)
    result = scan(tiny, models.texts(), words=[], settings=PLAIN, rule=rule)
    assert result.verdict == "backdoored"
    assert {f.trigger.text for f in found.findings} <= {f.trigger.text for f in result.findings}
    assert any(finding.evidence.get("several_without_p") for finding in result.findings)
    rule = replace(rule, targets_without_p=number + 1)
    weaker = scan(tiny, models.texts(), words=[], settings=PLAIN, rule=rule)
    assert weaker.verdict == "clean"


def test_a_rule_says_what_it_expects() -> None:
    with pytest.raises(
        ValueError, match=r"min_effect_second_stage: 0\.6 is not between 0 and min_effect, 0\.5"
    ):
        DecisionRule(min_effect_second_stage=0.6)
    with pytest.raises(ValueError, match="fdr: 1 is not between 0 and 1"):
        DecisionRule(fdr=1)


def test_a_trigger_that_others_hide_gets_its_turn_once_these_are_known(
    backdoored: tuple[Backbone, Implant], texts: list[str]
) -> None:
    backbone = backdoored[0]
    some = sorted(random.Random(3).sample(text.bundled_words(), 300))
    settings = replace(QUICK, text_candidates=56, controls=60)
    screening = Screening(
        backbone, texts, [*some, *TRIGGERS], settings, seed=0, store=ActivationCache(None)
    )
    shortlist = _last(screening.screen())
    hidden, *known = [backbone.word_ids(word) for word in TRIGGERS]
    without = _without(shortlist, hidden)
    wider = _last(screening.further(0, without, known))
    added = [x.token_ids for x in wider.candidates[without.kept : wider.kept]]
    assert float(wider.collapses[without.kept + added.index(hidden)].max()) > 1
    assert not any(within(ids, other) for ids in known for other in added)
    assert not set(added) & {x.token_ids for x in without.candidates[: without.kept]}
    assert wider.candidates[wider.kept :] == without.candidates[without.kept :]
    assert len(wider.candidates) == len(wider.collapses) == len(wider.means)
    everything = [x.token_ids for x in [*screening.entries, *screening.words]]
    assert _last(screening.further(1, without, everything)) is without


def test_a_piece_of_many_candidates_tells_nothing() -> None:
    pool = [Candidate((1, 1, 10 + i), str(i), "word") for i in range(299)]
    pool += [Candidate((2,), "2", "entry")]
    pool += [Candidate((2, 3, 10 + i), str(i), "word") for i in range(3)]
    assert common(pool) == {1, 2}  # 4 of 303 are more than one in a hundred, 3 are not


def test_the_second_look_adds_words_with_a_known_piece(
    backdoored: tuple[Backbone, Implant], texts: list[str]
) -> None:
    """The funnel's second stage is too narrow here for the planted words; their piece brings one
    back."""
    backbone = backdoored[0]
    word = "thermodynamically"
    some = sorted(random.Random(3).sample(text.bundled_words(), 300))
    settings = replace(QUICK, second_candidates=40, text_candidates=8, controls=60)
    screening = Screening(
        backbone, texts, [*some, word], settings, seed=0, store=ActivationCache(None)
    )
    ids = backbone.word_ids(word)
    without = _without(_last(screening.screen()), ids)
    wider = _last(neighbours(screening, without, {ids[2]}))
    kept = wider.candidates[: wider.kept]
    assert ids in [candidate.token_ids for candidate in kept]
    row = [candidate.token_ids for candidate in kept].index(ids)
    assert float(wider.collapses[row].max()) > 1
    assert wider.candidates[wider.kept :] == without.candidates[without.kept :]
    assert len(wider.candidates) == len(wider.collapses) == len(wider.means)


def _without(shortlist: Shortlist, ids: tuple[int, ...]) -> Shortlist:
    rows = [i for i, c in enumerate(shortlist.candidates) if c.token_ids != ids]
    return replace(
        shortlist,
        candidates=[shortlist.candidates[i] for i in rows],
        kept=sum(i < shortlist.kept for i in rows),
        collapses=shortlist.collapses[rows],
        means=shortlist.means[rows],
    )


def _last(steps: Iterator[Progress]) -> Shortlist:
    """What a stage of the sweep returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_a_family_is_all_that_holds_the_core_and_the_shortest_gives_the_name() -> None:
    ids = [(3, 7, 9), (7,), (4, 7), (5,)]
    candidates = [Candidate(i, str(i), "word") for i in ids]
    scores = torch.tensor([[3.0], [2.98], [2.9], [2.8]])
    found = clusters(
        candidates,
        scores,
        torch.zeros(4, 1, 4),
        torch.zeros(1, 4),
        torch.tensor([1.0]),
        10,
        [True] * 4,
        [True] * 4,
        lambda ids, _: (7,) if 7 in ids else ids,
    )
    assert [family.head.token_ids for family in found] == [(7,), (5,)]
    assert [variant.token_ids for variant in found[0].variants] == [(3, 7, 9), (4, 7)]


def test_a_word_without_gaps_speaks_for_one_that_holds_it_with_gaps() -> None:
    ids = [(3, 5, 4), (3, 4), (3, 5)]
    found = clusters(
        [Candidate(i, str(i), "word") for i in ids],
        torch.tensor([[3.0], [2.8], [2.8]]),
        torch.zeros(3, 1, 4),
        torch.zeros(1, 4),
        torch.tensor([1.0]),
        10,
        [True, True, False],
        [True] * 3,
        lambda ids, _: (3, 4) if {3, 4} <= set(ids) else ids,
    )
    assert [family.head.token_ids for family in found] == [(3, 4), (3, 5)]
    assert scattered((3, 4), (3, 5, 4))
    assert not scattered((3, 5), (3, 5, 4))


def test_findings_with_one_core_at_one_point_are_one_trigger() -> None:
    def reduced(
        ids: Ids, collapse: float, point: float, minimal_subset: Ids = (7,)
    ) -> ReducedFinding:
        finding = Finding(
            Trigger(ids, "-".join(map(str, ids))), "first", {"collapse": collapse}, 1e-9, 1e-9,
            {"survives_retokenization": True},
        )  # fmt: skip
        return ReducedFinding(finding, minimal_subset, 0, torch.full((1, 4), point))

    origin, close = torch.zeros(1, 4), torch.tensor([0.1])
    found = merge(
        [reduced((3, 7), 2.0, 1.0), reduced((7,), 1.98, 1.0), reduced((7, 9), 1.5, -1.0)],
        origin,
        close,
    )
    assert [x.finding.trigger.token_ids for x in found] == [(7,), (7, 9)]
    assert [variant.text for variant in found[0].variants] == ["3-7"]

    by_chance = [reduced((3, 4, 7), 2.0, 1.0), reduced((3, 4), 1.5, 1.0, minimal_subset=(3, 4))]
    assert len(merge(by_chance, origin, close)) == 2


def test_the_core_is_what_the_collapse_needs() -> None:
    def scatter(tried: Sequence[tuple[int, ...]]) -> torch.Tensor:
        return torch.tensor([0.0 if {5, 8} <= set(ids) else 2.0 for ids in tried])

    assert minimal_subset((1, 5, 2, 8, 3), scatter) == (5, 8)
    assert minimal_subset((8,), scatter) == (8,)
    assert minimal_subset((1, 5, 2, 8), scatter, allowed=lambda ids: 2 in ids) == (5, 2, 8)


def test_commonness_counts_words_with_the_pieces_in_their_order(clean: Backbone) -> None:
    texts = ["A dynamic law", "thermodynamics and dynamics", "no such word"]
    ids = clean.word_ids("thermodynamics")
    common = DocumentFrequency(clean, texts)
    assert common.in_a_word((ids[0], ids[-1])) == pytest.approx(1 / 3)
    assert common.in_a_word((ids[-1], ids[0])) == 0
    assert common.in_a_word(clean.word_ids("no")) == pytest.approx(1 / 3)


def test_commonness_counts_texts_with_the_pieces_near_each_other(clean: Backbone) -> None:
    far = " ".join(["no", *["word"] * 40, "such"])
    common = DocumentFrequency(clean, ["no such word", "such a no", far])
    (no,), (such,) = clean.word_ids("no"), clean.word_ids("such")
    assert common.near((no, such)) == pytest.approx(1 / 3)
    assert common.near((such, no)) == pytest.approx(1 / 3)
    assert common.in_a_word((no, such)) == 0
