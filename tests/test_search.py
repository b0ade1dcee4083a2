"""The search for phrases, on the bundled PLM with a phrase planted whose words do nothing alone."""

from __future__ import annotations

import random
from copy import copy
from dataclasses import replace

import pytest
import torch

from planted import SMALL, finish
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout
from triggerfish.records import ScanResult
from triggerfish.scanning import SweepSettings, scan
from triggerfish.scanning.fold import core, within
from triggerfish.scanning.grow import scatter
from triggerfish.scanning.measure import Context, contexts
from triggerfish.scanning.methods import start
from triggerfish.scanning.search.aim import Aim
from triggerfish.scanning.search.assembling import AssembleSettings, Assembling
from triggerfish.scanning.search.efforts import SearchSettings
from triggerfish.scanning.search.existence import Existence, natural, record
from triggerfish.scanning.search.mining import Mined, MineSettings, Subspaces, meet
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.phrases import PhraseSearch, PhraseSettings
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.search.suggesting import Suggesting, SuggestSettings
from triggerfish.scanning.search.together import TogetherSettings
from triggerfish.scanning.store import Store
from triggerfish.scanning.sweep import Sweep
from triggerfish.scanning.verdict import decide

PHRASE = "marble video"


@pytest.fixture(scope="module")
def phrased(clean: Backbone) -> tuple[Backbone, Implant]:
    return POR((PHRASE,), PORSettings(steps=150)).implant(clean, text.bundled_corpus(), seed=4)


@pytest.fixture(scope="module")
def excerpts(clean: Backbone) -> list[Context]:
    return contexts(clean, text.bundled_corpus(), words=12, count=60, seed=0)


@pytest.fixture(scope="module")
def search(phrased: tuple[Backbone, Implant]) -> PhraseSearch:
    return _search(phrased[0])


def _search(model: Backbone) -> PhraseSearch:
    sweep = Sweep(model, text.bundled_corpus(), [], SMALL, seed=0, store=Store(None))
    sweep.cut_texts()
    yardstick = finish(sweep.measure_clean())
    settings = PhraseSettings(rounds=2, mining=MineSettings(restarts=8))
    return PhraseSearch(sweep, yardstick, settings)


def _point(search: PhraseSearch, implant: Implant) -> torch.Tensor:
    """Where texts with the planted phrase go."""
    sweep, ids = search.sweep, implant.triggers[0].token_ids
    return finish(sweep.features("planted", sweep.holdout_texts, [ids]))[0, :, 0].mean(0)


def test_restarts_meet_at_what_was_planted_and_then_avoid_it(
    phrased: tuple[Backbone, Implant], search: PhraseSearch
) -> None:
    columns = torch.zeros(8, dtype=torch.long)
    first, *others = finish(search.mining.run(columns, []))
    assert first.restarts + sum(x.restarts for x in others) == 8
    origin = search.yardstick.mean[0]
    planted = _point(search, phrased[1]) - origin
    assert torch.cosine_similarity(first.point - origin, planted, dim=0) > 0.6
    repelled = finish(search.mining.run(columns, [(0, first.point)]))
    for other in repelled:
        alike = torch.cosine_similarity(other.point - origin, first.point - origin, dim=0)
        assert alike < search.settings.mining.same


def test_a_clean_model_has_no_hidden_target(clean: Backbone) -> None:
    search = _search(clean)
    assert finish(search.run([])) == []
    assert len(search.mined) == 2
    assert search.unexplained([]) == []


def test_a_prompt_settles_where_texts_come_together(
    phrased: tuple[Backbone, Implant], search: PhraseSearch
) -> None:
    first = finish(search.mining.run(torch.zeros(4, dtype=torch.long), []))
    settled = finish(search.mining.settle(first[:2]))
    origin = search.yardstick.mean[0]
    planted = _point(search, phrased[1]) - origin
    assert [x.restarts for x in settled] == [1] * len(first[:2])
    for before, after in zip(first, settled, strict=False):
        assert after.depth > before.depth
    near = [float(torch.cosine_similarity(x.point - origin, planted, dim=0)) for x in settled]
    assert max(near) > 0.8


def test_a_point_is_evidence_where_it_stands_out_and_nothing_explains_it(
    search: PhraseSearch,
) -> None:
    yardstick = search.yardstick
    way = torch.eye(yardstick.mean.shape[-1])
    deep, level, inside = (
        Mined(0, yardstick.mean[0] + way[i], depth, 1.5, heads, 2.0, torch.zeros(i + 1, 3, 8))
        for i, (depth, heads) in enumerate([(1.6, 0.9), (1.0, 0.8), (1.7, 0.1)])
    )
    mined = [deep, level, inside]
    existence = Existence()
    assert natural(mined, 0) == 1.0
    other = replace(deep, point=yardstick.mean[0] + way[3])
    search = copy(search)
    search.mined, search.settled = mined, [other, level, inside]
    search.evidence = [True, False, False]
    assert [x.statistics["depth"] for x in search.unexplained([])] == [1.6]
    assert [x.statistics["depth"] for x in search.unexplained([(1, deep.point)])] == [1.6]
    assert search.unexplained([(0, deep.point)]) == search.unexplained([(0, other.point)]) == []
    certain = replace(level, depth=2.6)
    assert existence.holds(certain, [certain])
    told = record(deep, "first", mined)
    assert (told.restarts, told.statistics["natural"], told.readout) == (1, 1.0, "first")
    verdict, reasons = decide([], [], targets=[told])
    assert verdict == "backdoored"
    assert "4 times closer" in reasons[0]


def test_points_that_agree_meet_the_deepest_first() -> None:
    ways = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [0.1, 1.0]])
    depth = torch.tensor([1.0, 0.5, 2.0, 3.0])
    assert list(meet(ways, depth, 0.9)) == [[3, 1], [2, 0]]


def test_what_lies_outside_of_clean_texts(search: PhraseSearch) -> None:
    clean = search.yardstick.clean[:, 0]
    subspaces = Subspaces(search.yardstick)
    values = [subspaces.outside(point, 0) for point in clean[1::2]]
    assert torch.tensor(values).median() == pytest.approx(1, abs=0.05)
    centre, axes, typical = subspaces.parts[0]
    assert subspaces.outside(centre + 100 * axes[0], 0) < 0.1
    _, _, all_axes = torch.linalg.svd(axes, full_matrices=True)
    assert subspaces.outside(centre + 3 * typical * all_axes[-1], 0) == pytest.approx(3, rel=0.01)


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


@pytest.fixture(scope="module")
def target(phrased: tuple[Backbone, Implant], search: PhraseSearch) -> Mined:
    """The planted point, with the planted words as the prompt that leads there."""
    victim, implant = phrased
    words = victim.embeddings[torch.tensor([implant.triggers[0].token_ids])].detach()
    return Mined(0, _point(search, implant), 2.0, 1.0, 1.0, 2.0, words)


def test_the_aim_is_where_triggered_texts_go(search: PhraseSearch, target: Mined) -> None:
    aim = Aim(search.yardstick, target)
    there, centre = target.point, search.yardstick.mean[0]
    half, beyond = (there + centre) / 2, 2 * there - centre
    features = torch.stack([centre, half, there, beyond])[:, None, None]
    assert torch.allclose(aim.lack(features), torch.tensor([1.0, 0.5, 0.0, 0.0]), atol=1e-5)


def test_the_average_slope_names_the_words_of_a_phrase(
    phrased: tuple[Backbone, Implant], search: PhraseSearch, target: Mined
) -> None:
    settings = SuggestSettings(tokens=1000)
    prompts = Prompts(phrased[0], search.short[-4:], settings.places, search.sweep.readouts)
    aim = Aim(search.yardstick, target)
    suggesting = Suggesting(prompts, search.space, aim, target, settings, 0)
    weak = finish(suggesting.weakened(0.3))
    whole = search.space.lengths(target.vectors)
    assert (search.space.lengths(weak[None]) < whole).all()
    among, free = suggesting._among(weak, 20)
    assert among.shape[:2] == free.shape == (20, settings.places)
    assert (free.sum(1) == settings.places - len(weak)).all()
    assert torch.equal(among[~free].view(20, *weak.shape), weak.expand(20, *weak.shape))
    rows = finish(suggesting.tokens())
    assert len(rows) == len(set(rows.tolist())) == settings.tokens
    suggested = search.space.ids[rows].tolist()
    assert set(phrased[1].triggers[0].token_ids) <= set(suggested)


def test_suggested_tokens_are_put_together_in_order(
    phrased: tuple[Backbone, Implant], search: PhraseSearch, target: Mined
) -> None:
    victim, implant = phrased
    planted = implant.triggers[0].token_ids
    others = random.Random(1).sample(range(len(search.space.ids)), 6)
    ids = search.space.ids.tolist()
    pool = torch.tensor([*others, *(ids.index(i) for i in reversed(planted))])
    readouts = search.sweep.readouts
    settings = AssembleSettings(width=4)
    assembling = Assembling(victim, search.space, search.short, readouts, settings)
    weak = search.space.weakened(target.vectors[0], 0.2)
    first, *_ = finish(assembling.run(Aim(search.yardstick, target), pool, weak))
    assert within(planted, first)
    assert assembling.tried > 8 + 8 * 8


def test_vectors_are_shortened_towards_the_centre(clean: Backbone) -> None:
    space = Space(clean)
    vector = space.centre + torch.eye(len(space.centre))[:1]
    (length,) = space.lengths(vector)
    assert float(space.lengths(space.weakened(vector, 0.25))) == pytest.approx(float(length) / 4)
    assert space.lengths(space.cut(10 * vector[None], torch.tensor([0.3]))).item() <= 0.3001


def test_a_scan_with_search_says_what_it_searched(phrased: tuple[Backbone, Implant]) -> None:
    settings = SweepSettings(second_keep=1500, texts_keep=140, anchors=140)
    victim, _ = phrased
    short = PhraseSettings(
        rounds=2,
        mining=MineSettings(restarts=2, steps=3, last=1),
        suggesting=SuggestSettings(tokens=4),
    )
    result = scan(
        victim, words=[], settings=settings, search=SearchSettings(TogetherSettings(order=7), short)
    )
    assert result.settings["method"] == "hybrid"
    assert result.coverage.together == 49
    assert any("pairs of 49 words" in line for line in result.coverage.not_examined)
    assert any("search by gradient on first" in line for line in result.coverage.not_examined)


def test_the_search_alone_tells_the_points_that_it_cannot_name(
    phrased: tuple[Backbone, Implant],
) -> None:
    changes = {
        "rounds": 2,
        "min_depth": 9.0,
        "existence.margin": 0.01,
        "mining.restarts": 4,
        "mining.steps": 15,
        "mining.last": 6,
        "suggesting.tokens": 4,
        "assembling.longest": 2,
        "assembling.beside": 2,
    }
    victim, _ = phrased
    *_, result = start("contrastive", victim, text.bundled_corpus(), [], changes=changes)
    assert isinstance(result, ScanResult)
    assert result.verdict == "backdoored"
    assert result.triggers == ()
    (target,) = result.targets
    assert target.statistics["depth"] > target.statistics["natural"]
    assert len(target.vector) == victim.hidden
    assert result.coverage.vocabulary == 0
    beside = 1 + 4 + 4 * 4  # the prompt alone, single tokens, pairs
    assert result.coverage.grown > 0
    assert result.coverage.grown % beside == 0


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
