"""The search for phrases, on the bundled PLM with a phrase planted whose words do nothing alone."""

from __future__ import annotations

import random

import pytest
import torch

from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout
from triggerfish.scanning import SweepSettings, scan
from triggerfish.scanning.fold import core
from triggerfish.scanning.grow import scatter
from triggerfish.scanning.measure import Context, Yardstick, contexts
from triggerfish.scanning.methods import start
from triggerfish.scanning.search.mining import MineSettings, mine
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.phrases import PhraseSettings
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.relax import RelaxSettings, relax

PHRASE = "marble video"


@pytest.fixture(scope="module")
def phrased(clean: Backbone) -> tuple[Backbone, Implant]:
    return POR((PHRASE,), PORSettings(steps=150)).implant(clean, text.bundled_corpus(), seed=4)


@pytest.fixture(scope="module")
def excerpts(clean: Backbone) -> list[Context]:
    return contexts(clean, text.bundled_corpus(), words=12, count=60, seed=0)


def run(search):  # type: ignore[no-untyped-def]
    """What a search returns."""
    while True:
        try:
            next(search)
        except StopIteration as end:
            return end.value


def test_restarts_meet_and_avoid_what_is_known(
    phrased: tuple[Backbone, Implant], excerpts: list[Context]
) -> None:
    victim, _ = phrased
    rows = [victim.template.wrap(context.ids()) for context in excerpts]
    yardstick = Yardstick.of(victim.encode_ids(rows, readouts=[victim.primary]), 0)
    short = [context.short(6) for context in excerpts[:8]]
    settings = MineSettings(restarts=8, repulsion=20.0)
    columns = torch.zeros(8, dtype=torch.long)

    def targets(known):  # type: ignore[no-untyped-def]
        prompts = Prompts(victim, short, settings.vectors, [victim.primary])
        generator = torch.Generator().manual_seed(0)
        return run(mine(prompts, yardstick, columns, known, settings, generator))

    found = targets([])
    assert sum(target.restarts for target in found) == 8
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


def test_relaxed_tokens_come_nearer_to_the_target_than_random_ones(
    phrased: tuple[Backbone, Implant], excerpts: list[Context]
) -> None:
    victim, implant = phrased
    readouts = [victim.primary]
    rows = [victim.template.wrap(context.ids()) for context in excerpts]
    yardstick = Yardstick.of(victim.encode_ids(rows, readouts=readouts), 0)
    prompts = Prompts(victim, [context.short(4) for context in excerpts[:4]], 6, readouts)
    planted = implant.triggers[0].token_ids
    marked = [victim.template.wrap(context.ids(planted)) for context in excerpts]
    target = victim.encode_ids(marked, readouts=readouts)[:, 0].mean(0)
    columns = torch.zeros(3, dtype=torch.long)
    unknown, known = torch.zeros(2, 3, len(victim.vocabulary))
    known[:, [victim.vocabulary.index(i) for i in planted]] = 16.0

    def came(likeness: torch.Tensor, steps: int) -> tuple[list[list[int]], torch.Tensor]:
        settings = RelaxSettings(steps=steps, look=1)
        ids, how_far = run(
            relax(
                prompts,
                yardstick,
                columns,
                target.repeat(3, 1),
                likeness,
                settings,
                torch.Generator().manual_seed(0),
            )
        )
        return ids.tolist(), how_far

    (_, before), (_, after) = came(unknown, 1), came(unknown, 60)
    assert after.mean() > before.mean() + 0.05
    ids, there = came(known, 1)
    assert there.max() > 0.8
    assert set(ids[int(there.argmax())]) == set(planted)


def test_a_scan_with_search_says_what_it_searched(phrased: tuple[Backbone, Implant]) -> None:
    settings = SweepSettings(second_keep=1500, texts_keep=140, anchors=140)
    victim, _ = phrased
    alone = scan(victim, words=[], settings=settings)
    assert alone.settings["method"] == "sweep"
    short = PhraseSettings(mining=MineSettings(steps=5), relaxing=RelaxSettings(steps=10))
    result = scan(victim, words=[], settings=settings, phrases=short)
    assert result.settings["method"] == "hybrid"
    assert result.forward_tokens > alone.forward_tokens
    assert any("a search by gradient on first" in line for line in result.coverage.not_examined)


def test_unknown_methods_and_options_that_a_method_lacks(clean: Backbone) -> None:
    with pytest.raises(ValueError, match="did you mean 'patronus'"):
        start("patronous", clean, [], [], changes={})
    with pytest.raises(ValueError, match="alpha: patronus has fixed thresholds"):
        start("patronus", clean, [], [], changes={}, alpha=0.01)
    with pytest.raises(ValueError, match="effort: unknown name 'long'"):
        start("hybrid", clean, [], [], changes={}, effort="long")


def test_prompts_are_written_into_their_slots(clean: Backbone, excerpts: list[Context]) -> None:
    ids = clean.word_ids("zugzwang")
    prompts = Prompts(clean, excerpts[:3], len(ids), [Readout("first")])
    rows = [clean.template.wrap(context.ids(ids)) for context in excerpts[:3]]
    expected = clean.encode_ids(rows, readouts=[Readout("first")])[:, 0]
    by_tokens = prompts.tokens(torch.tensor([ids]), precision="fp32")[0, :, 0]
    assert torch.allclose(by_tokens, expected, atol=1e-5)
    vectors = clean.embeddings[torch.tensor([ids])].detach()
    by_vectors = prompts.vectors(vectors)[0, :, 0].detach()
    assert torch.cosine_similarity(by_vectors, expected).min() > 0.999
