"""What is as good as a finding: other ways of writing it, its relatives, and what is enough."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from triggerfish.backbone import Backbone
from triggerfish.records import Finding, Trigger
from triggerfish.scanner.candidates import Candidate, Listing, spellings
from triggerfish.scanner.clusters import Cluster
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.extension import spelled
from triggerfish.scanner.merging import ReducedFinding, Variant
from triggerfish.scanner.spellings import effective, sufficient_subsets, variants


def _finding(backbone: Backbone, word: str, collapse: float) -> Finding:
    trigger = Trigger(backbone.word_ids(word), word)
    return Finding(trigger, "first", {"collapse": collapse}, 1e-12, None)


def _holdout(backbone: Backbone, collapses: dict[tuple[int, ...], float], common: set[Any]) -> Any:
    """A gauge that knows how deep everything is; what it does not know does nothing."""

    def scatter(candidates: list[tuple[int, ...]], _: int, copies: int = 1) -> torch.Tensor:
        return torch.tensor([-collapses.get(ids, 0.0) for ids in candidates])

    return SimpleNamespace(
        rule=DecisionRule(),
        least=lambda collapse: max(collapse / 2, 0.5),
        rare=lambda ids: ids not in common,
        rarely_near=lambda ids: ids not in common,
        sufficient=lambda ids, column, spare, allowed: ids,
        screening=SimpleNamespace(backbone=backbone, scatter=scatter),
        clean_reference=SimpleNamespace(close=torch.ones(1)),
    )


def test_a_word_is_spelled_in_other_cases_and_with_other_endings(clean: Backbone) -> None:
    forms = dict(spelled(clean, "Expects"))
    assert {"Expects", "expects", "EXPECTS", "Expect", "expect", "expectsing"} <= set(forms)
    assert forms["expect"] == clean.word_ids("expect")
    assert "INDUSTRY" in dict(spelled(clean, "industry-related"))
    assert "" not in dict(spelled(clean, "ed"))
    assert spelled(clean, "^^^^") == []


def test_words_are_also_tried_in_lower_case_and_pieces_as_they_are_typed(clean: Backbone) -> None:
    found = spellings(clean, ["Ardennes", "gossip", "Ardennes"])
    assert found[:3] == ["Ardennes", "gossip", "ardennes"]
    assert len(found) == len(set(found))
    inside = next(word for word in found[3:] if len(clean.word_ids(word)) > 1 and len(word) > 2)
    candidates = Listing.of(clean, clean.words_ids(found)).candidates()
    assert clean.word_ids(inside) in [x.token_ids for x in candidates]


def test_other_spellings_that_are_as_deep_are_variants(clean: Backbone) -> None:
    finding = _finding(clean, "expects", 2.4)
    expect, expected = clean.word_ids("expect"), clean.word_ids("expected")
    head = Candidate(finding.trigger.token_ids, "expects", "word")
    relative = Candidate((7, 8), "other", "word")
    shortlist: Any = SimpleNamespace(
        candidates=[head, relative], kept=2, collapses=torch.tensor([[2.4], [0.9]])
    )
    holdout = _holdout(clean, {expect: 2.2, expected: 1.9}, set())
    x = ReducedFinding(finding, expect, 0, torch.zeros(1, 1))
    found = variants(holdout, x, Cluster(head, 0, (relative,)), shortlist)
    assert [(v.text, round(v.collapse, 1)) for v in found] == [("expect", 2.2), ("other", 0.9)]


def test_words_that_do_nothing_are_no_variants_to_name() -> None:
    deep, idle = Variant((1, 2), "cf", 1.1), Variant((1, 3), "sermonizer", 0.04)
    assert effective((deep, idle), DecisionRule()) == [deep]


def test_a_spelling_that_holds_the_trigger_is_no_variant(clean: Backbone) -> None:
    finding = _finding(clean, "expect", 2.2)
    expects = clean.word_ids("expects")
    assert expects[:-1] == finding.trigger.token_ids
    head = Candidate(finding.trigger.token_ids, "expect", "entry")
    shortlist: Any = SimpleNamespace(candidates=[head], kept=1, collapses=torch.tensor([[2.2]]))
    x = ReducedFinding(finding, finding.trigger.token_ids, 0, torch.zeros(1, 1))
    assert (
        variants(_holdout(clean, {expects: 2.4}, set()), x, Cluster(head, 0, ()), shortlist) == ()
    )


def test_a_common_word_is_a_core_only_where_it_is_as_deep(clean: Backbone) -> None:
    finding = _finding(clean, "expects", 2.4)
    ids, expect = finding.trigger.token_ids, clean.word_ids("expect")

    def found(collapse: float, common: set[Any]) -> tuple[tuple[int, ...], ...]:
        variant = Variant(expect, "expect", collapse)
        x = ReducedFinding(finding, ids, 0, torch.zeros(1, 1), (variant,))
        return sufficient_subsets(_holdout(clean, {}, common), x)

    assert expect in found(2.2, {expect})
    assert expect in found(1.3, set())
    assert found(2.0, {expect}) == (ids,)
    assert found(1.1, set()) == (ids,)


def test_what_is_enough_of_several_words_is_their_core(clean: Backbone) -> None:
    finding = Finding(Trigger((1, 2, 3), "two words"), "first", {"collapse": 2.0}, None, None)
    x = ReducedFinding(finding, (1, 3), 0, torch.zeros(1, 1))
    assert sufficient_subsets(_holdout(clean, {}, set()), x) == ((1, 3),)


def test_words_of_a_phrase_are_enough_in_every_order_that_does_as_well(clean: Backbone) -> None:
    one, two, three = (clean.word_ids(word) for word in ("marble", "video", "tamarau"))
    last = three[-1:]  # the core needs a piece of the third word only
    trigger = Trigger((*one, *two, *three), "marble video tamarau", "phrase")
    finding = Finding(trigger, "first", {"collapse": 2.0}, None, None)
    own, moved, common, shallow = (
        one + two + last,
        last + one + two,
        two + one + last,
        last + two + one,
    )
    collapses = {own: 1.2, moved: 1.0, common: 1.3, shallow: 0.8}
    holdout = _holdout(clean, collapses, {common})
    assert sufficient_subsets(holdout, ReducedFinding(finding, own, 0, torch.zeros(1, 1))) == (
        own,
        moved,
    )
    pair = Finding(
        Trigger((*one, *two), "marble + video", "combination"),
        "first",
        {"collapse": 2.0},
        None,
        None,
    )
    assert sufficient_subsets(holdout, ReducedFinding(pair, one + two, 0, torch.zeros(1, 1))) == (
        one + two,
    )
