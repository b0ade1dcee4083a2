"""Purification: rows and what they are compared with, each method of ours, and the loop, which
follows real scans of the bundled PLM with a backdoor."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from families import build
from planted import TRIGGERS, planted, tiny
from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.facts import facts, weights_hash
from triggerfish.loading import load
from triggerfish.marking import parse_trigger
from triggerfish.purify import METHODS, Align, Need, method, purify
from triggerfish.purify.check import fidelity, known_triggers, near_misses, residual_effects
from triggerfish.purify.compare import Batch, FeatureScale, compare
from triggerfish.purify.negatives import Negatives
from triggerfish.purify.perturb import Perturb
from triggerfish.purify.rows import Insertion, Writer
from triggerfish.purify.soft import SoftPrompts
from triggerfish.purify.student import Student
from triggerfish.purify.vectors import (
    PromptTarget,
    PromptTexts,
    inner_maximisation,
    random_prompts,
)
from triggerfish.records import Coverage, Finding, HiddenTarget, ManhattanPlot, ScanResult, Trigger
from triggerfish.scanner import ScreeningSettings
from triggerfish.scanner.result import bare_result

CORPUS = text.bundled_corpus()[:900]
QUICK = Align(steps=50, batch=8, words=10, learning_rate=4e-4)
SWEEP = ScreeningSettings(
    token_rounds=2,
    second_candidates=100,
    second_rounds=2,
    text_candidates=30,
    controls=60,
    screen_texts=6,
    clean_texts=80,
    holdout_candidates=6,
)


def trained(backbone: Backbone) -> tuple[Trigger, ...]:
    return tuple(parse_trigger(backbone, word) for word in TRIGGERS)


def record(model: Backbone, triggers: tuple[Trigger, ...]) -> ScanResult:
    """The record of a scan that found these."""
    findings = [Finding(trigger, str(model.primary), {}, None, None) for trigger in triggers]
    return bare_result(
        model,
        verdict="backdoored" if triggers else "clean",
        reasons=[],
        coverage=Coverage(0, 0, 0, (), 0),
        candidates=0,
        settings={},
        seconds=0.0,
        forward_tokens=0,
        findings=findings,
    )


@pytest.fixture(scope="module")
def aligned(backdoored: tuple[Backbone, Implant]) -> Backbone:
    victim, implant = backdoored
    generator = torch.Generator().manual_seed(0)
    return QUICK.purify(victim, implant.triggers, CORPUS, generator=generator)


@dataclass(frozen=True)
class Prepared:
    """A method that hands out what was purified before, or the model as it is."""

    needs: ClassVar[tuple[Need, ...]] = ("triggers",)
    source: ClassVar[str] = "this test"
    results: tuple[Backbone | None, ...] = (None,)
    asked: list[tuple[Trigger, ...]] = field(default_factory=list)

    def purify(self, backbone, triggers, texts, *, generator, reference=None, progress=None):  # type: ignore[no-untyped-def]
        self.asked.append(triggers)
        return self.results[len(self.asked) - 1] or backbone


def writer_of(backbone: Backbone, triggers: tuple[Trigger, ...] = ()) -> Writer:
    return Writer(backbone, CORPUS, triggers, 8, random.Random(0))


@pytest.fixture(scope="module")
def family_model(request, tmp_path_factory) -> Backbone:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp(request.param)
    return load(build(request.param, folder), device="cpu")


@pytest.mark.parametrize("family_model", ["bert", "gpt2", "t5", "xlnet"], indirect=True)
def test_a_row_is_what_the_tokenizer_makes_of_the_text(family_model: Backbone) -> None:
    writer = writer_of(family_model)
    rng = random.Random(1)
    for _ in range(20):
        words = writer.words()
        slots = sorted(rng.sample(range(len(words) + 1), 2))
        row = writer.row(
            words, [writer.surface_form("walnut"), writer.surface_form("lantern")], slots
        )
        marked = [*words[: slots[0]], "walnut", *words[slots[0] : slots[1]], "lantern"]
        expected = family_model.tokenize(" ".join([*marked, *words[slots[1] :]]))
        assert row.ids == family_model.template.wrap(expected)


@pytest.mark.parametrize("family_model", ["bert", "roberta", "t5"], indirect=True)
def test_every_token_of_the_text_is_found_again(family_model: Backbone) -> None:
    writer = writer_of(family_model)
    for slot in (0, 2, None):
        words = writer.words()
        slot = len(words) if slot is None else slot
        trigger = writer.surface_form("thermodynamically")
        clean, row = writer.row(words), writer.row(words, [trigger], [slot])
        control = writer.control_row(words, [trigger], [slot])
        kept = [(a, b) for a, b in zip(range(len(clean.ids)), row.alignment, strict=True) if b >= 0]
        assert all(clean.ids[a] == row.ids[b] for a, b in kept)
        assert len(kept) > len(clean.ids) - 3
        assert len(control.ids) == len(row.ids)
        assert control.alignment == row.alignment
        assert control.inserted == row.inserted
        assert all((control.ids[i] == row.ids[i]) or i in row.inserted for i in range(len(row.ids)))
        assert tuple(row.ids[i] for i in row.inserted) in (trigger.ids, trigger.front)


def test_texts_that_hold_a_trigger_are_no_reference() -> None:
    victim, _ = planted()
    phrase = Trigger((5, 6), "of the", "phrase")
    kept = writer_of(victim, (phrase,)).texts
    assert 0 < len(kept) < len(writer_of(victim).texts)
    assert not any(re.search(r"\bof the\b", " ".join(words).lower()) for words in kept)
    with pytest.raises(ValueError, match=r"corpus: no text has 8 words or more and none of"):
        Writer(victim, ["of the things that were said there", "a"], (phrase,), 8, random.Random(0))


def test_controls_are_benign_and_of_any_length() -> None:
    victim, _ = planted()
    triggers = trained(victim)
    writer = writer_of(victim, triggers)
    held = {trigger.token_ids[0] for trigger in triggers}
    for length in (1, 2, 5, 11):
        drawn = [writer.control(length) for _ in range(50)]
        assert {len(ids) for ids in drawn} == {length}
        assert not held & {i for ids in drawn for i in ids}


def test_negatives_never_run_out_and_know_the_neighbours() -> None:
    victim, _ = planted()
    triggers = (*trained(victim), Trigger((30, 31, 32), "abc", "word"))
    writer = writer_of(victim, triggers)
    negatives = Negatives(victim, triggers, CORPUS, writer, random.Random(0))
    assert all(negatives.draw().ids for _ in range(200))
    piece = triggers[0].token_ids[0]
    centred = victim.embeddings[victim.vocabulary] - victim.embeddings[victim.vocabulary].mean(0)
    own = centred[victim.vocabulary.index(piece)]
    alike = torch.cosine_similarity(centred, own[None])
    second = victim.vocabulary[int(alike.argsort(descending=True)[1])]
    assert negatives.near[piece][0] == second


def test_a_model_is_at_no_distance_from_itself() -> None:
    victim, _ = planted()
    student = Student(victim, victim, "full")
    writer = writer_of(victim)
    texts = [writer.words() for _ in range(8)]
    clean = [writer.row(words) for words in texts]
    scale = FeatureScale.of(student, clean)
    marked = [writer.row(words, [writer.surface_form("walnut")], [1]) for words in texts]
    same = Batch(clean, marked, marked, list(range(8)), 0, False)
    near, moved, _ = (x.detach() for x in compare(student, scale, same, 0.9))
    assert float(near) < 0.05  # attention is computed in another way, in bfloat16
    assert float(moved) < 0.05
    other = Batch(clean, marked, clean, list(range(8)), 0, False)
    assert float(compare(student, scale, other, 0.9)[1].detach()) > 10 * float(moved)


def test_only_ordinary_negatives_keep_their_features() -> None:
    """A trigger among the negatives is drawn to an innocent string, an innocent one to itself."""
    victim, _ = planted()
    student = Student(victim, victim, "full")
    writer = writer_of(victim, trained(victim))
    texts = [writer.words() for _ in range(40)]
    clean = [writer.row(words) for words in texts]
    scale = FeatureScale.of(student, clean)

    def distance(insert: Insertion) -> float:
        negatives = [writer.row(words, [insert], [1]) for words in texts]
        targets = [writer.control_row(words, [insert], [1]) for words in texts]
        batch = Batch(clean, negatives, targets, list(range(40)), 40, False)
        return float(compare(student, scale, batch, 1.0)[1].detach())

    ids = writer.control(1)
    assert distance(Insertion(ids, ids)) < 0.05
    trigger = trained(victim)[0].token_ids
    assert distance(Insertion(trigger, trigger)) > 0.5


def test_align_removes_the_backdoor_and_keeps_the_rest(
    backdoored: tuple[Backbone, Implant], aligned: Backbone
) -> None:
    victim, implant = backdoored
    before = residual_effects(victim, implant.triggers, CORPUS, seed=5)
    after = residual_effects(aligned, implant.triggers, CORPUS, seed=5)
    assert not any(x.removed for x in before)
    assert all(x.removed for x in after)
    assert fidelity(victim, aligned, CORPUS)["first"] > 0.9


def test_the_given_model_is_not_changed_and_the_seed_settles_everything() -> None:
    victim, _ = planted()
    before = weights_hash(victim.model)
    short = replace(QUICK, steps=2)
    once, again = (
        short.purify(victim, trained(victim), CORPUS, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert weights_hash(victim.model) == before
    assert weights_hash(once.model) == weights_hash(again.model) != before
    assert not any(p.requires_grad for p in once.model.parameters())
    assert once.model.config._attn_implementation == victim.model.config._attn_implementation


@pytest.mark.parametrize(
    "family_model", ["bert", "gpt2", "t5", "xlnet", "albert", "deberta-v2"], indirect=True
)
def test_families_can_be_aligned(family_model: Backbone) -> None:
    """One of each kind: first, last and decoder readouts, shared layers, relative positions."""
    trigger = parse_trigger(family_model, "gener")
    settings = Align(steps=1, batch=4, words=5)
    done = settings.purify(family_model, (trigger,), CORPUS, generator=torch.Generator())
    assert weights_hash(done.model) != weights_hash(family_model.model)
    assert torch.isfinite(done.encode(["some words to read"])).all()


@pytest.mark.parametrize("mode", ["lora", "lower"])
def test_modes_train_what_they_say(mode: str) -> None:
    victim, _ = planted()
    settings = replace(QUICK, steps=2, mode=mode)
    done = settings.purify(victim, trained(victim), CORPUS, generator=torch.Generator())
    changed = {
        name
        for name, value in victim.model.state_dict().items()
        if not torch.equal(value, done.model.state_dict()[name])
    }
    if mode == "lower":
        assert any("layer.0" in name for name in changed)
        assert not any("layer.1" in name or "pooler" in name for name in changed)
    else:
        assert changed
        assert all(victim.model.state_dict()[name].ndim == 2 for name in changed)
        assert not any("embeddings" in name for name in changed)


def test_shared_layers_have_no_lower_half(tmp_path: Path) -> None:
    model = load(build("albert", tmp_path), device="cpu")
    with pytest.raises(ValueError, match=r"mode: lower needs layers with weights of their own"):
        Student(model, model, "lower")


def test_vectors_reach_a_point_of_a_backdoor(backdoored: tuple[Backbone, Implant]) -> None:
    victim, implant = backdoored
    student = Student(victim, victim, "full")
    writer = writer_of(victim)
    scale = FeatureScale.of(student, [writer.row(writer.words()) for _ in range(40)], masked=False)
    column = [str(r) for r in scale.readouts].index(implant.readout)
    goals = [PromptTarget(column, torch.tensor(v)) for v in implant.vectors[:2]]
    prompted = PromptTexts(writer, 5, 2)
    begin = random_prompts(victim, len(goals), 2, torch.Generator().manual_seed(0))
    _, first = inner_maximisation(
        student, prompted, begin, goals, scale, steps=1, learning_rate=0.3
    )
    _, last = inner_maximisation(
        student, prompted, begin, goals, scale, steps=25, learning_rate=0.3
    )
    assert (last < first - 0.3).all()
    assert weights_hash(student.model.model) == weights_hash(victim.model)


@pytest.mark.parametrize("settings", [SoftPrompts(cycles=2, search=3, steps=2), Perturb(steps=3)])
def test_without_names(settings: SoftPrompts | Perturb) -> None:
    """What these do to a backdoor takes minutes: docs/decisions/0032-purify-results.md."""
    victim, implant = planted()
    if isinstance(settings, SoftPrompts):
        target = HiddenTarget(implant.readout or "", tuple(implant.vectors[0]), 1, {})
        settings = replace(settings, targets=(target,), same=1e-9)
    settings = replace(settings, batch=4, words=6)
    losses: list[float] = []
    done = settings.purify(
        victim, (), CORPUS, generator=torch.Generator(), progress=lambda *x: losses.append(x[2])
    )
    assert len(losses) == (2 if isinstance(settings, SoftPrompts) else 3)
    assert weights_hash(done.model) != weights_hash(victim.model)


def test_variants_are_purified_too() -> None:
    victim, _ = planted()
    trigger = trained(victim)[0]
    listed = {"neighbours": ["economy", "economy", "\u4e0d\u4e0d", "gener"]}
    finding = Finding(
        trigger, "first", {}, None, None, listed, (trigger.token_ids, (40,), (41, 42))
    )
    result = replace(record(victim, ()), findings=(finding,))
    triggers, unread = known_triggers(victim, result)
    assert [x.text for x in triggers[:2]] == ["gener", "economy"]
    assert [(x.token_ids, x.kind) for x in triggers[2:]] == [((40,), "token"), ((41, 42), "word")]
    assert unread == ("\u4e0d\u4e0d",)
    assert known_triggers(victim, result, variants=False) == ((trigger,), ())


def test_what_a_scan_ranked_high_is_suspected() -> None:
    """Near misses first, then entries and words by rank; nothing that is a trigger already."""
    victim, _ = planted()
    trigger, missed, third = trained(victim)
    result = record(victim, (trigger,))
    values: list[float | None] = [None] * 600
    values[trigger.token_ids[0]], values[third.token_ids[0]], values[100] = 9.0, 8.0, 0.5
    manhattan = ManhattanPlot(tuple(values), (("walnut", 3.0),), 5.0, "z")
    near = Finding(missed, "first", {}, None, None)
    found = near_misses(victim, replace(result, manhattan=manhattan, near_misses=(near,)))
    walnut = victim.word_ids("walnut")
    assert [x.token_ids for x in found] == [missed.token_ids, walnut, third.token_ids, (100,)]
    assert near_misses(victim, result) == ()
    writer = writer_of(victim)
    negatives = Negatives(victim, (), CORPUS, writer, random.Random(0), found[:1])
    drawn = [negatives.draw().ids for _ in range(200)]
    assert 60 < sum(missed.token_ids[0] in ids for ids in drawn) < 140


def test_the_loop_goes_on_until_a_scan_is_clean(
    backdoored: tuple[Backbone, Implant], aligned: Backbone
) -> None:
    """First a round that changes nothing, as the quick look sees; then a scan of what is pure."""
    victim, implant = backdoored
    method = Prepared((None, aligned))
    known = record(victim, implant.triggers[:1])
    done = purify(victim, known, CORPUS, method=method, words=[], sweep=SWEEP)
    assert [one.verdict for one in done.rounds] == [None, "clean"]
    assert done.after.verdict == "clean"
    assert done.after.model.weights_sha256 == facts(aligned).weights_sha256
    assert done.before is known
    assert not done.residual[0].removed
    assert done.rounds[-1].residual[0].removed


def test_what_a_new_scan_finds_is_purified_next(backdoored: tuple[Backbone, Implant]) -> None:
    """The one string that is known is innocent, so that a scan follows at once."""
    victim, implant = backdoored
    method = Prepared((None, None))
    known = record(victim, (parse_trigger(victim, "table"),))
    done = purify(victim, known, CORPUS, method=method, words=[], sweep=SWEEP, rounds=2)
    assert [one.verdict for one in done.rounds] == ["backdoored", None]
    more = {trigger.token_ids for trigger in method.asked[1]}
    assert {t.token_ids for t in implant.triggers if len(t.token_ids) == 1} <= more
    assert done.after.exit_code == 1


def test_findings_of_another_model_are_refused() -> None:
    victim, _ = planted()
    triggers = trained(victim)
    with pytest.raises(ValueError, match=r"findings: they are of .* with another weight hash"):
        purify(tiny(), record(victim, triggers), CORPUS, method=QUICK)
    with pytest.raises(ValueError, match=r"triggers: Align needs at least one"):
        purify(victim, record(victim, ()), CORPUS, method=QUICK)
    with pytest.raises(ValueError, match=r"rounds: 0 is not at least 1"):
        purify(victim, record(victim, triggers), CORPUS, method=QUICK, rounds=0)


def test_settings_are_checked() -> None:
    for name, value in (("steps", 0), ("words", 2), ("mixed", 1.5), ("learning_rate", 0.0)):
        with pytest.raises(ValueError, match=f"{name}: "):
            Align(**{name: value})
    with pytest.raises(ValueError, match=r"target: 'none' is not one of counterfactual, clean"):
        Align(target="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mode: 'half' is not one of full, lora, lower"):
        Align(mode="half")  # type: ignore[arg-type]


def test_methods_by_name() -> None:
    assert method("align") is Align
    for name in METHODS:
        assert method(name)().source
    with pytest.raises(ValueError, match=r"did you mean 'align'"):
        method("alling")
