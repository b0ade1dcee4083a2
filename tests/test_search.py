"""The search for phrases, on the bundled PLM with a phrase planted whose words do nothing alone."""

from __future__ import annotations

import random

import pytest
import torch

from planted import finish
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout
from triggerfish.records import ScanResult
from triggerfish.scanning import SweepSettings, scan
from triggerfish.scanning.fold import core
from triggerfish.scanning.grow import scatter
from triggerfish.scanning.measure import Context, Yardstick, contexts
from triggerfish.scanning.methods import start
from triggerfish.scanning.search.assembling import (
    AssembleSettings,
    Grower,
    held_in_place,
    tried_together,
)
from triggerfish.scanning.search.efforts import SearchSettings
from triggerfish.scanning.search.mining import MineSettings, Target, mine
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.phrases import PhraseSettings
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.search.steering import FREE, SteerSettings, steer
from triggerfish.scanning.search.together import TogetherSettings

PHRASE = "marble video"


@pytest.fixture(scope="module")
def phrased(clean: Backbone) -> tuple[Backbone, Implant]:
    return POR((PHRASE,), PORSettings(steps=150)).implant(clean, text.bundled_corpus(), seed=4)


@pytest.fixture(scope="module")
def excerpts(clean: Backbone) -> list[Context]:
    return contexts(clean, text.bundled_corpus(), words=12, count=60, seed=0)


def test_restarts_meet_and_avoid_what_is_known(
    phrased: tuple[Backbone, Implant], excerpts: list[Context]
) -> None:
    victim, _ = phrased
    rows = [victim.template.wrap(context.ids()) for context in excerpts]
    yardstick = Yardstick.of(victim.encode_ids(rows, readouts=[victim.primary]), 0)
    short = [context.short(6) for context in excerpts[:8]]
    settings = MineSettings(repulsion=20.0, last=2)
    columns = torch.zeros(8, dtype=torch.long)

    def targets(known):  # type: ignore[no-untyped-def]
        prompts = Prompts(victim, short, settings.vectors, [victim.primary])
        generator = torch.Generator().manual_seed(0)
        space = Space(victim)
        return finish(mine(prompts, space, yardstick, columns, known, settings, generator))

    found = targets([])
    assert sum(len(target.vectors) for target in found) == 8
    assert found[0].depth == max(target.depth for target in found)
    first = found[0]
    # What is known repels: no restart ends there again.
    for other in targets([(0, first.point)]):
        apart = (other.point - first.point).norm() / yardstick.spread[0]
        assert apart > settings.same


def test_naming_keeps_what_is_needed_in_order(
    phrased: tuple[Backbone, Implant], excerpts: list[Context]
) -> None:
    victim, implant = phrased
    ids = implant.triggers[0].token_ids
    others = random.Random(0).sample(victim.vocabulary, 4)
    found = (others[0], *reversed(ids), *others[1:])

    def spread(tried):  # type: ignore[no-untyped-def]
        return scatter(victim, tried, victim.primary, excerpts[:12])

    assert set(core(found, spread)) >= set(ids)
    assert Naming(victim, []).name(found, spread) == ids


def test_a_piece_becomes_the_listed_word_that_collapses_deepest(clean: Backbone) -> None:
    words = [clean.word_ids(word) for word in ("zugzwang", "thermodynamically")]
    wanted = words[0]
    piece = wanted[1:3]

    def spread(tried):  # type: ignore[no-untyped-def]
        return torch.tensor([0.0 if wanted[1] in ids else 2.0 for ids in tried])

    naming = Naming(clean, words)
    assert naming.name((*piece, 200), spread)[: len(wanted)] == wanted


def test_vectors_name_the_planted_tokens(
    phrased: tuple[Backbone, Implant], excerpts: list[Context]
) -> None:
    victim, implant = phrased
    readouts = [victim.primary]
    rows = [victim.template.wrap(context.ids()) for context in excerpts]
    yardstick = Yardstick.of(victim.encode_ids(rows, readouts=readouts), 0)
    planted = implant.triggers[0].token_ids
    marked = [victim.template.wrap(context.ids(planted)) for context in excerpts]
    point = victim.encode_ids(marked, readouts=readouts)[:, 0].mean(0)
    space = Space(victim)
    prompts = Prompts(victim, [context.short(4) for context in excerpts[:4]], 2, readouts)
    target = Target(0, point, 0.0, torch.empty(0))

    def named(held: torch.Tensor) -> list[int]:
        near = torch.ones(len(held), dtype=torch.bool)
        generator = torch.Generator().manual_seed(0)
        search = steer(prompts, space, yardstick, target, held, near, SteerSettings(), generator)
        vectors = finish(search)
        assert torch.equal(vectors[held != FREE], victim.embeddings[held[held != FREE]])
        assert space.lengths(vectors)[held == FREE].max() <= 1.2001
        return space.tokens(vectors[held == FREE], 16)

    # Among 10,495 entries the planted ones are named at once: free, and beside each other.
    assert set(planted) <= set(named(torch.full((6, 2), FREE)))
    first, last = planted
    assert last in named(torch.tensor([[first, FREE]] * 3))


def test_tokens_of_a_vector_are_taken_out_one_after_the_other(clean: Backbone) -> None:
    space = Space(clean)
    rows = [100, 5000]
    vector = space.centre + space.ways[rows[0]] + 0.6 * space.ways[rows[1]]
    assert set(space.tokens(vector[None], 2)) == set(space.ids[rows].tolist())
    assert space.lengths(space.cut(10 * vector[None, None], torch.tensor([0.3]))).item() <= 0.3001


def test_what_is_tried_together() -> None:
    settings = AssembleSettings(pairs=12, triples=24, held=2)
    tried = tried_together([7, 8, 9, 10, 11], settings)
    assert len(tried) == len(set(tried)) == 12 + 24
    assert {(10, 7), (9, 7, 10)} <= set(tried)
    assert (11, 7) not in tried
    held = held_in_place([7, 8, 9], 2, settings).tolist()
    assert held == [[7, FREE], [FREE, 7], [8, FREE], [FREE, 8]]


def test_growth_adds_tokens_and_completes_words() -> None:
    wanted = (3, 40, 41, 5)

    def scatter(tried):  # type: ignore[no-untyped-def]
        return torch.tensor([-1.0 * sum(i in ids for i in wanted) for ids in tried])

    grower = Grower([1, 2, 3], [(40, 41), (41, 5), (40, 41, 5)], AssembleSettings())
    steps = list(grower.grow((9, 41), scatter))
    assert set(wanted) <= set(steps[-1])
    assert not list(grower.grow(wanted, scatter))


def test_a_scan_with_search_says_what_it_searched(phrased: tuple[Backbone, Implant]) -> None:
    settings = SweepSettings(second_keep=1500, texts_keep=140, anchors=140)
    victim, _ = phrased
    short = PhraseSettings(
        rounds=1,
        targets=1,
        mining=MineSettings(restarts=2, steps=3, last=1),
        steering=SteerSettings(restarts=2, steps=2),
        assembling=AssembleSettings(pool=8, pairs=20, triples=20, held=1, listed=3),
    )
    result = scan(
        victim, words=[], settings=settings, search=SearchSettings(TogetherSettings(order=7), short)
    )
    assert result.settings["method"] == "hybrid"
    assert 0 < result.coverage.grown <= 200
    assert result.coverage.together == 49
    assert any("pairs of 49 words" in line for line in result.coverage.not_examined)
    assert any("search by gradient on first" in line for line in result.coverage.not_examined)


def test_the_search_alone_names_the_phrase(phrased: tuple[Backbone, Implant]) -> None:
    changes = {
        "rounds": 1,
        "targets": 1,
        "mining.restarts": 6,
        "mining.last": 6,
        "steering.restarts": 8,
        "assembling.pool": 30,
        "assembling.pairs": 900,
        "assembling.triples": 720,
        "assembling.held": 1,
    }
    victim, _ = phrased
    *_, result = start("contrastive", victim, text.bundled_corpus(), [], changes=changes)
    assert isinstance(result, ScanResult)
    assert [(trigger.text, trigger.kind) for trigger in result.triggers] == [(PHRASE, "phrase")]
    assert result.verdict == "backdoored"
    assert result.coverage.vocabulary == 0
    assert result.coverage.grown > 900


def test_unknown_methods_and_options_that_a_method_lacks(clean: Backbone) -> None:
    with pytest.raises(ValueError, match="did you mean 'patronus'"):
        start("patronous", clean, [], [], changes={})
    with pytest.raises(ValueError, match="alpha: patronus has fixed thresholds"):
        start("patronus", clean, [], [], changes={}, alpha=0.01)
    with pytest.raises(ValueError, match="reference: contrastive has no use"):
        start("contrastive", clean, [], [], changes={}, reference=clean)
    with pytest.raises(ValueError, match="effort: unknown name 'long'"):
        start("hybrid", clean, [], [], changes={}, effort="long")


def test_prompts_are_written_into_their_slots(clean: Backbone, excerpts: list[Context]) -> None:
    ids = clean.word_ids("zugzwang")
    prompts = Prompts(clean, excerpts[:3], len(ids), [Readout("first")])
    rows = [clean.template.wrap(context.ids(ids)) for context in excerpts[:3]]
    expected = clean.encode_ids(rows, readouts=[Readout("first")])[:, 0]
    vectors = clean.embeddings[torch.tensor([ids])].detach()
    by_vectors = prompts.vectors(vectors)[0, :, 0].detach()
    assert torch.cosine_similarity(by_vectors, expected).min() > 0.999
