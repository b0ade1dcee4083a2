"""The search for phrases, on the bundled PLM with a phrase planted whose words do nothing alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
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
from triggerfish.scanner import scan
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.decision import decide
from triggerfish.scanner.effects import Carrier, contexts
from triggerfish.scanner.extension import scatter
from triggerfish.scanner.merging import Ids, Scatter, contains, minimal_subset
from triggerfish.scanner.methods import start
from triggerfish.scanner.screening import Progress, Screening
from triggerfish.scanner.search import phrases
from triggerfish.scanner.search.efforts import SearchSettings
from triggerfish.scanner.search.embedding_ball import EmbeddingBall
from triggerfish.scanner.search.genetic import GeneticSearch, GeneticSettings, Rows
from triggerfish.scanner.search.hidden_targets import HiddenTargetTest, natural, record
from triggerfish.scanner.search.inversion import InversionSettings, InvertedTarget, Subspaces, meet
from triggerfish.scanner.search.objectives import Goal, together, towards
from triggerfish.scanner.search.pairs import PairSettings
from triggerfish.scanner.search.phrases import PhraseSearch, PhraseSettings
from triggerfish.scanner.search.regression import Regression, left_over, robust
from triggerfish.scanner.search.relaxation import RelaxationSettings, relax
from triggerfish.scanner.search.soft_prompts import SoftPrompts
from triggerfish.scanner.search.suppressed import SuppressedSearch, SuppressedSettings
from triggerfish.scanner.search.words_from_tokens import WordReconstruction, join

PHRASE = "marble video"


@pytest.fixture(scope="module")
def phrased(clean: Backbone) -> tuple[Backbone, Implant]:
    return POR((PHRASE,), PORSettings(steps=150)).implant(clean, text.bundled_corpus(), seed=4)


@pytest.fixture(scope="module")
def excerpts(clean: Backbone) -> list[Carrier]:
    return contexts(clean, text.bundled_corpus(), words=12, count=60, seed=0)


@pytest.fixture(scope="module")
def search(phrased: tuple[Backbone, Implant]) -> PhraseSearch:
    return _search(phrased[0])


def _search(model: Backbone) -> PhraseSearch:
    screening = Screening(
        model, text.bundled_corpus(), [], SMALL, seed=0, store=ActivationCache(None)
    )
    screening.cut_texts()
    clean_reference = finish(screening.measure_clean())
    settings = PhraseSettings(
        rounds=1,
        tried=1,
        inversion=InversionSettings(restarts=4),
        suppressed=SuppressedSettings(again=300, first=200, children=50, generations=2),
    )
    return PhraseSearch(screening, clean_reference, settings)


def _point(search: PhraseSearch, implant: Implant) -> torch.Tensor:
    """Where texts with the planted phrase go."""
    screening, ids = search.screening, implant.triggers[0].token_ids
    return finish(screening.features("planted", screening.holdout_texts, [ids]))[0, :, 0].mean(0)


def test_restarts_meet_at_what_was_planted_and_then_avoid_it(
    phrased: tuple[Backbone, Implant], search: PhraseSearch
) -> None:
    columns = torch.zeros(4, dtype=torch.long)
    found = finish(search.inversion.run(columns, []))
    assert sum(x.restarts for x in found) == 2 * 4  # before settling and after
    assert [x.collapse for x in found] == sorted((x.collapse for x in found), reverse=True)
    origin = search.clean_reference.mean[0]
    planted = _point(search, phrased[1]) - origin
    near = [float(torch.cosine_similarity(x.point - origin, planted, dim=0)) for x in found]
    assert max(near) > 0.6
    best = found[near.index(max(near))]
    for other in finish(search.inversion.run(columns, [(0, best.point)])):
        alike = torch.cosine_similarity(other.point - origin, best.point - origin, dim=0)
        assert alike < search.settings.inversion.same


def test_a_clean_model_has_no_hidden_target(clean: Backbone) -> None:
    search = _search(clean)
    assert finish(search.run([])) == []
    assert len(search.inverted) == 1
    assert search.unexplained([]) == []


def test_a_point_is_evidence_where_it_stands_out_and_nothing_explains_it(
    search: PhraseSearch,
) -> None:
    clean_reference = search.clean_reference
    way = torch.eye(clean_reference.mean.shape[-1])
    deep, level, inside = (
        InvertedTarget(0, clean_reference.mean[0] + way[i], collapse, 1.5, agreement, 2.0, i + 1)
        for i, (collapse, agreement) in enumerate([(2.1, 0.9), (1.0, 0.8), (2.2, 0.1)])
    )
    inverted = [deep, level, inside]
    hidden_targets = HiddenTargetTest()
    assert natural(inverted, 0) == 1.0
    search = copy(search)
    search.inverted = inverted
    assert [x.statistics["collapse"] for x in search.unexplained([])] == [2.1]
    assert [x.statistics["collapse"] for x in search.unexplained([(1, deep.point)])] == [2.1]
    assert search.unexplained([(0, deep.point)]) == []
    assert not hidden_targets.holds(replace(level, collapse=2.6), [replace(level, collapse=2.6)])
    assert not hidden_targets.holds(replace(deep, collapse=3.3), [replace(level, collapse=2.2)])
    told = record(deep, "first", inverted)
    assert (told.restarts, told.statistics["baseline_collapse"], told.readout) == (1, 1.0, "first")
    verdict, reasons = decide([], [], targets=[told])
    assert verdict == "backdoored"
    assert "13 times more than anywhere else" in reasons[0]


def test_points_that_agree_meet_the_deepest_first() -> None:
    ways = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [0.1, 1.0]])
    collapse = torch.tensor([1.0, 0.5, 2.0, 3.0])
    assert list(meet(ways, collapse, 0.9)) == [[3, 1], [2, 0]]


def test_what_lies_outside_of_clean_texts(search: PhraseSearch) -> None:
    clean = search.clean_reference.clean[:, 0]
    subspaces = Subspaces(search.clean_reference)
    values = [subspaces.outside(point, 0) for point in clean[1::2]]
    assert torch.tensor(values).median() == pytest.approx(1, abs=0.05)
    centre, axes, typical = subspaces.parts[0]
    assert subspaces.outside(centre + 100 * axes[0], 0) < 0.1
    _, _, all_axes = torch.linalg.svd(axes, full_matrices=True)
    assert subspaces.outside(centre + 3 * typical * all_axes[-1], 0) == pytest.approx(3, rel=0.01)


def test_naming_keeps_what_is_needed_in_order(
    phrased: tuple[Backbone, Implant], excerpts: list[Carrier]
) -> None:
    victim, implant = phrased
    ids = implant.triggers[0].token_ids
    others = random.Random(0).sample(victim.vocabulary, 4)
    found = (others[0], *reversed(ids), *others[1:])

    def spread(tried):  # type: ignore[no-untyped-def]
        return scatter(victim, tried, victim.primary, excerpts[:12])

    assert set(minimal_subset(found, spread)) >= set(ids)
    assert WordReconstruction(victim, []).name(found, spread, spread) == tuple((i,) for i in ids)


def test_a_piece_becomes_the_listed_word_that_collapses_deepest(clean: Backbone) -> None:
    words = [clean.word_ids(word) for word in ("zugzwang", "thermodynamically")]
    wanted = words[0]
    subword = wanted[1:3]

    def spread(tried):  # type: ignore[no-untyped-def]
        return torch.tensor([0.0 if wanted[1] in ids else 2.0 for ids in tried])

    naming = WordReconstruction(clean, words)
    assert naming.name((*subword, 200), spread, spread) == (wanted,)


def test_a_word_gives_way_to_a_relative_that_is_deeper(clean: Backbone) -> None:
    other, wanted = (clean.word_ids(word) for word in ("thermally", "botanically"))
    assert set(other) & set(wanted)

    def spread(tried):  # type: ignore[no-untyped-def]
        return torch.tensor([-1.0 if contains(ids, wanted) else 0.0 for ids in tried])

    assert WordReconstruction(clean, [other, wanted])._polish((other,), spread, spread) == (wanted,)


@pytest.fixture(scope="module")
def target(phrased: tuple[Backbone, Implant], search: PhraseSearch) -> InvertedTarget:
    """The planted point."""
    return InvertedTarget(0, _point(search, phrased[1]), 2.0, 1.0, 1.0, 2.0, 1)


def _towards(search: PhraseSearch, target: InvertedTarget) -> Goal:
    return towards(target.point, 0, search.clean_reference.close[0])


def _prompts(search: PhraseSearch, texts: list[Carrier], length: int = 6) -> SoftPrompts:
    return SoftPrompts(search.screening.backbone, texts, length, search.screening.readouts)


def _evolving(
    search: PhraseSearch,
    texts: list[Carrier],
    goal: Goal,
    settings: GeneticSettings,
    length: int = 6,
) -> GeneticSearch:
    return GeneticSearch(search.space, _prompts(search, texts, length), goal, settings, 0)


def _features(search: PhraseSearch, ids: tuple[int, ...], texts: list[Carrier]) -> torch.Tensor:
    backbone = search.screening.backbone
    rows = [backbone.template.wrap(x.ids(ids)) for x in texts]
    return backbone.encode_ids(rows, readouts=search.screening.readouts)[:, 0]


def _relaxed(search: PhraseSearch, goal: Goal, settings: RelaxationSettings) -> list[Rows]:
    prompts = _prompts(search, search.mixed_in)
    return finish(relax(search.space, prompts, goal, settings, 0))


def test_mixtures_hold_what_leads_to_a_point(
    phrased: tuple[Backbone, Implant], search: PhraseSearch, target: InvertedTarget
) -> None:
    settings = RelaxationSettings(drawn=40)
    goal = _towards(search, target)
    rows = _relaxed(search, goal, settings)
    assert len(rows) == 2 + 40
    assert {len(row) for row in rows} == {6}
    assert rows == _relaxed(search, goal, settings)
    planted = set(phrased[1].triggers[0].token_ids)
    held = [planted & set(search.space.ids[list(row)].tolist()) for row in rows]
    assert max(map(len, held)) >= 2  # of 30,522 entries, six at a time
    genetic = _evolving(search, search.short, goal, GeneticSettings(first=300))
    list(genetic.run(generations=1))
    drawn = _evolving(search, search.short, goal, GeneticSettings(first=42))
    list(drawn._try(rows))
    assert drawn.best < genetic.best - 0.3
    with pytest.raises(ValueError, match="steps: 0 is not at least 1"):
        RelaxationSettings(steps=0)
    with pytest.raises(ValueError, match="pool: 3 is fewer than the 4 texts of a step"):
        RelaxationSettings(pool=3)


def test_sequences_begin_with_those_that_are_given(
    search: PhraseSearch, target: InvertedTarget
) -> None:
    settings = GeneticSettings(first=30, children=1, generations=1)
    genetic = _evolving(search, search.short, _towards(search, target), settings, length=2)
    list(genetic.run([(7, 9)]))
    assert next(iter(genetic.distances)) == (7, 9)
    assert 25 < len(genetic.distances) <= 31


def test_sequences_evolve_towards_a_point(search: PhraseSearch, target: InvertedTarget) -> None:
    settings = GeneticSettings(first=60, children=40, parents=20, generations=5)
    texts, close = search.short, search.clean_reference.close[0]
    genetic = _evolving(search, texts, _towards(search, target), settings)
    tokens = sum(genetic.run())
    assert 60 < len(genetic.distances) <= 60 + 5 * 40
    assert tokens > len(genetic.distances) * 6 * len(texts)
    (rows,) = genetic.nearest(1)
    ids = genetic.ids(rows)
    assert len(ids) == 6
    far = (_features(search, ids, texts) - target.point).square().sum(-1) / close
    assert min(genetic.distances.values()) == pytest.approx(float(far.log10().mean()), abs=0.1)
    first = list(genetic.distances.values())[:60]
    assert min(genetic.distances.values()) < min(first)
    before = len(genetic.distances)
    list(genetic.run(generations=1))
    assert before < len(genetic.distances) <= before + 40


def test_sequences_evolve_towards_texts_that_meet(
    search: PhraseSearch, target: InvertedTarget
) -> None:
    settings = GeneticSettings(first=20, children=40, parents=20, generations=2)
    texts, close = search.inversion.texts[:4], search.clean_reference.close[0]
    genetic = _evolving(search, texts, together(0, close), settings)
    begin = [tuple(range(i, i + 6)) for i in range(20)]
    list(genetic.run(begin))
    assert len(genetic.distances) <= 20 + 2 * 40
    features = _features(search, genetic.ids(begin[3]), texts)
    met = (features.var(0, correction=0).sum() / close).log10()
    assert genetic.distances[begin[3]] == pytest.approx(float(met), abs=0.1)


def test_evolution_ends_when_nothing_comes_nearer(
    search: PhraseSearch, target: InvertedTarget
) -> None:
    settings = GeneticSettings(first=10, children=5, parents=5, patience=2, gain=9.0)
    genetic = _evolving(search, search.short, _towards(search, target), settings)
    list(genetic.run())
    assert len(genetic.distances) <= 10 + 3 * 5
    with pytest.raises(ValueError, match="length: 1 is not at least 2"):
        PhraseSettings(length=1)
    with pytest.raises(ValueError, match="copies: 4 is not 1 to 3"):
        PhraseSettings(copies=4)
    with pytest.raises(ValueError, match="children: 0"):
        GeneticSettings(children=0)


def test_the_words_of_a_phrase_are_named_from_its_point(
    phrased: tuple[Backbone, Implant], search: PhraseSearch, target: InvertedTarget
) -> None:
    ids = finish(search._reach(target))
    assert phrased[0].surface(ids) == PHRASE


@pytest.fixture(scope="module")
def suppressed(search: PhraseSearch) -> SuppressedSearch:
    listed = random.Random(3).sample(text.bundled_words(), 3000)
    words = [ids for _, ids in search.screening.backbone.words_ids([*listed, *PHRASE.split()])]
    settings = SuppressedSettings(again=600, first=400, children=100, generations=12)
    suppressed = SuppressedSearch(search.screening, search.clean_reference, 0, settings, 3, words)
    finish(suppressed.alone())
    return suppressed


def test_words_of_a_phrase_were_taught_to_do_nothing(
    search: PhraseSearch, suppressed: SuppressedSearch
) -> None:
    planted = [search.screening.backbone.word_ids(word) for word in PHRASE.split()]
    assert max(suppressed.order.index(ids) for ids in planted) < 200  # of thousands
    left = [suppressed.expected(ids) for ids in planted]
    assert max(left) < -2
    assert suppressed.expected(planted[0] * 2) == 0  # not tried
    (twice,) = suppressed.below([planted[0] * 2])
    assert twice > max(suppressed.below(planted))


def test_inert_words_bring_texts_together(
    search: PhraseSearch, suppressed: SuppressedSearch
) -> None:
    planted = {search.screening.backbone.word_ids(word) for word in PHRASE.split()}
    gain, (best, *_) = finish(suppressed.run(set()))
    assert planted <= set(best)
    assert 300 < suppressed.tried <= 400 + 12 * 100
    without, (other, *_) = finish(suppressed.run({i for ids in planted for i in ids}))
    assert gain > PhraseSettings().together
    assert gain > without + 0.3
    assert not planted & set(other)
    collapses = search._collapse([join(best), join(other)], 0, copies=3)
    assert collapses[0] > collapses[1] + 0.3
    with pytest.raises(ValueError, match="pool: 1 is not at least 2"):
        SuppressedSettings(pool=1)


def test_words_that_do_it_alone_or_lead_to_what_is_known_are_no_phrase(
    search: PhraseSearch, suppressed: SuppressedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tuple(search.screening.backbone.word_ids(word) for word in PHRASE.split())

    def ran(barred: set[int]) -> Iterator[Progress]:
        return 1.0, [pair]
        yield

    monkeypatch.setattr(phrases, "SuppressedSearch", lambda *_: suppressed)
    monkeypatch.setattr(suppressed, "alone", lambda: iter(()))
    monkeypatch.setattr(suppressed, "run", ran)
    eager = copy(search)
    eager.settings = replace(search.settings, suppressed_runs=1)
    for words, count in ((pair, 1), (pair[:1], 0), ((join(pair), join(pair)), 0)):
        monkeypatch.setattr(search.naming, "least_active", lambda *_, words=words: words)
        points: list[tuple[int, torch.Tensor]] = []
        found = finish(eager._among_inert(0, points))
        assert len(found) == len(points) == count
        assert all(x.alone < 0.2 for x in found)
        assert finish(eager._among_inert(0, points)) == []  # leads to what is known


def test_what_a_word_does_is_foretold_by_its_pieces(clean: Backbone) -> None:
    words = [(a, b) for a in clean.vocabulary[::9] for b in clean.vocabulary[:3]]
    embeddings = clean.embeddings.detach().float()
    done = torch.stack([embeddings[list(ids)].mean(0) for ids in words]) @ embeddings[7]
    done[50] -= 5 * done.std()
    left = left_over(Regression(words, embeddings, seed=1), done, seed=1)
    assert left.argmin() == 50
    assert robust(left)[50] < -10
    rest = torch.arange(len(words)) != 50
    assert left[rest].std() < 0.5 * done.std()


def test_of_words_that_do_as_much_together_the_one_that_does_least_alone_is_named(
    search: PhraseSearch,
) -> None:
    class Alone:
        def expected(self, ids: Ids) -> float:
            return -10.0 if ids == lubber else 0.0

        def below(self, words: Sequence[Ids]) -> list[float]:
            return [self.expected(ids) for ids in words]

    word = search.screening.backbone.word_ids
    head, found, lubber = word("marble"), word("lubberly"), word("lubber")
    naming = WordReconstruction(search.screening.backbone, [head, found, lubber])

    def together(collapse: float) -> Scatter:
        collapses = {(*head, *found): -1.1, (*head, *lubber): -collapse}
        return lambda tried: torch.tensor([collapses.get(ids, 0.0) for ids in tried])

    as_deep, shallow = together(1.0), together(0.9)
    assert naming.least_active([(head, found)], as_deep, as_deep, Alone()) == (head, lubber)
    assert naming.least_active([(head, found)], shallow, shallow, Alone()) == (head, found)
    spare = (word("video"), head)
    collapse = {(*spare[0], *head): -1.1, head: -1.0}

    def alike(tried: Sequence[Ids]) -> torch.Tensor:
        return torch.tensor([collapse.get(ids, 0.0) for ids in tried])

    assert naming.least_active([spare], alike, alike, Alone()) == (head,)


def test_copies_stand_in_as_many_places(excerpts: list[Carrier]) -> None:
    text_of = excerpts[0].text("marble", 3)
    assert text_of.split().count("marble") == 3 + excerpts[0].typed.count("marble")
    assert excerpts[0].ids((70, 90), 3).count(90) >= 3


def test_some_of_the_texts(clean: Backbone, excerpts: list[Carrier]) -> None:
    prompts = SoftPrompts(clean, excerpts[:5], 2, clean.readouts)
    vectors = EmbeddingBall(clean).entries[[70, 90]][None]
    some = prompts.only([3, 1])
    assert some.vectors(vectors)[0] == pytest.approx(prompts.vectors(vectors)[0, [3, 1]], abs=0.05)
    assert some.passed < prompts.passed


def test_vectors_are_shortened_towards_the_centre(clean: Backbone) -> None:
    space = EmbeddingBall(clean)
    vector = space.centre + torch.eye(len(space.centre))[:1]
    assert space.lengths(space.cut(10 * vector[None], torch.tensor([0.3]))).item() <= 0.3001


def test_a_scan_with_search_says_what_it_searched(phrased: tuple[Backbone, Implant]) -> None:
    settings = replace(SMALL, rewrites=True)
    victim, _ = phrased
    short = PhraseSettings(
        rounds=2,
        inversion=InversionSettings(restarts=2, steps=3, last=1, settling=1),
        relaxation=RelaxationSettings(steps=2, drawn=5),
        genetic=GeneticSettings(first=20, generations=1),
        suppressed=SuppressedSettings(words_alone=1, again=20, first=20, generations=1),
    )
    result = scan(
        victim, words=[], settings=settings, search=SearchSettings(PairSettings(order=7), short)
    )
    assert result.settings["method"] == "hybrid"
    assert result.coverage.pair_words == 49
    assert any("pairs of 49 words" in line for line in result.coverage.not_examined)
    assert any("search by gradient on first" in line for line in result.coverage.not_examined)


def test_the_search_alone_tells_the_points_that_it_cannot_name(
    phrased: tuple[Backbone, Implant],
) -> None:
    changes = {
        "rounds": 2,
        "min_effect": 9.0,
        "hidden_targets.margin": 0.01,
        "hidden_targets.times": 1.0,
        "inversion.restarts": 4,
        "inversion.steps": 15,
        "inversion.last": 6,
        "inversion.settling": 6,
        "relaxation.steps": 2,
        "genetic.first": 20,
        "genetic.generations": 1,
        "suppressed_runs": 0,
    }
    victim, _ = phrased
    *_, result = start("inversion", victim, text.bundled_corpus(), [], changes=changes)
    assert isinstance(result, ScanResult)
    assert result.verdict == "backdoored"
    assert result.triggers == ()
    (target,) = result.targets
    assert target.statistics["collapse"] > target.statistics["baseline_collapse"]
    assert len(target.vector) == victim.hidden
    assert result.coverage.vocabulary == 0
    assert result.coverage.extended >= 20


def test_unknown_methods_and_options_that_a_method_lacks(clean: Backbone) -> None:
    with pytest.raises(ValueError, match="did you mean 'patronus'"):
        start("patronous", clean, [], [], changes={})
    with pytest.raises(ValueError, match="alpha: patronus has fixed thresholds"):
        start("patronus", clean, [], [], changes={}, alpha=0.01)
    with pytest.raises(ValueError, match="reference: inversion has no use"):
        start("inversion", clean, [], [], changes={}, reference=clean)
    with pytest.raises(ValueError, match="effort: unknown name 'long'"):
        start("hybrid", clean, [], [], changes={}, effort="long")


def test_prompts_are_written_into_their_slots(clean: Backbone, excerpts: list[Carrier]) -> None:
    ids = clean.word_ids("zugzwang")
    prompts = SoftPrompts(clean, excerpts[:3], len(ids), [Readout("first")])
    rows = [clean.template.wrap(context.ids(ids)) for context in excerpts[:3]]
    expected = clean.encode_ids(rows, readouts=[Readout("first")])[:, 0]
    vectors = clean.embeddings[torch.tensor([ids])].detach()
    by_vectors = prompts.vectors(vectors)[0, :, 0].detach()
    assert torch.cosine_similarity(by_vectors, expected).min() > 0.999
