"""Published purifiers: each does to the weights what its paper says, on any family, and nothing to
the model it was given."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from families import FAMILIES
from planted import planted, tiny
from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.marking import mark, parse_triggers
from triggerfish.purify import METHODS, method
from triggerfish.purify.baselines.btu import BTU
from triggerfish.purify.baselines.crow import Crow, disagreement
from triggerfish.purify.baselines.feedforward import feed_forwards, oriented
from triggerfish.purify.baselines.fine_prune import FinePrune
from triggerfish.purify.baselines.fine_tune import FineTune
from triggerfish.purify.baselines.max_entropy import MaxEntropy
from triggerfish.purify.baselines.patronus import Patronus
from triggerfish.purify.baselines.pretraining import Pretraining, PretrainingSettings
from triggerfish.purify.baselines.recipe import Recipe
from triggerfish.purify.baselines.reinit import Reinit
from triggerfish.purify.baselines.reinit_embeddings import ReinitEmbeddings
from triggerfish.readouts import pad
from triggerfish.training import Progress, TrainSettings, rate

TEXTS = text.bundled_corpus()[:300]
SHORT = PretrainingSettings(steps=4, batch=4, words=8, head_steps=4, learning_rate=1e-3)
BASELINES = {
    "fine_tune": FineTune(SHORT),
    "fine_prune": FinePrune(training=SHORT, batches=2),
    "reinit": Reinit(repair=True, training=SHORT),
    "reinit_embeddings": ReinitEmbeddings(),
    "recipe": Recipe(training=SHORT),
    "btu": BTU(training=SHORT),
    "max_entropy": MaxEntropy(forget_steps=2, training=SHORT),
    "crow": Crow(training=SHORT),
    "patronus": Patronus(epochs=2, batch=8, texts=40, words=8),
}


def weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backbone.model.named_parameters()}


def changed(before: Backbone, after: Backbone) -> set[str]:
    now = weights(after)
    return {name for name, value in weights(before).items() if not torch.equal(value, now[name])}


def run(settings: Any, backbone: Backbone, **given: Any) -> Backbone:
    triggers = tuple(parse_triggers(backbone, ["gener", "found economics"]))
    seed = torch.Generator().manual_seed(given.pop("seed", 0))
    given.setdefault("reference", drifted(backbone) if "reference" in settings.needs else None)
    found: Backbone = settings.purify(backbone, triggers, TEXTS, generator=seed, **given)
    return found


def drifted(backbone: Backbone) -> Backbone:
    """A clean original of which two embeddings of `backbone` have moved away."""
    twin = backbone.clone()
    with torch.no_grad():
        twin.embeddings[backbone.vocabulary[7], :16] += 1.0
        twin.embeddings[backbone.vocabulary[9], 16:] -= 1.0
    return twin


# ---- every method


def test_the_table_names_them_all() -> None:
    assert set(BASELINES) == set(METHODS) - {"align", "soft_prompts", "perturb"}
    for name, settings in BASELINES.items():
        assert method(name) is type(settings)
        assert settings.source


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_on_kinds_of_families(name: str, family: str) -> None:
    """Without a mask token, without a head at hand, and with gradients of their own."""
    backbone = tiny(family)
    before = weights(backbone)
    steps: list[tuple[int, int, float]] = []
    progress: Progress = lambda *step: steps.append(step)  # noqa: E731
    purified = run(BASELINES[name], backbone, progress=progress)
    assert changed(backbone, purified)
    assert all(torch.equal(value, before[key]) for key, value in weights(backbone).items())
    assert not any(p.requires_grad for p in purified.whole.parameters())
    assert purified.model.config._attn_implementation == backbone.model.config._attn_implementation
    assert torch.isfinite(purified.encode(TEXTS[:2])).all()
    if name != "reinit_embeddings":
        assert steps
        assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("name", ["max_entropy", "crow", "reinit", "patronus"])
def test_same_seed_same_weights(name: str) -> None:
    one, two, other = (run(BASELINES[name], tiny(), seed=seed) for seed in (1, 1, 2))
    assert not changed(one, two)
    assert changed(one, other)


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (ReinitEmbeddings(), {}, "triggers: ReinitEmbeddings needs at least one"),
        (Patronus(), {}, "triggers: Patronus needs at least one"),
        (BTU(), {}, "reference: BTU needs the clean original"),
        (BTU(), {"reference": tiny()}, "reference: its embeddings are those of the model"),
        (BTU(), {"reference": tiny("electra")}, "reference: its embeddings are"),
        (FineTune(), {"texts": ["too few"]}, "corpus: 0 texts have 32 words or more"),
        (Patronus(), {"texts": ["few"], "triggers": planted()[1].triggers}, "corpus: 0 texts"),
        (Reinit(layers=3), {}, "layers: 3 is more than the 2"),
    ],
)
def test_what_they_cannot_do_without(settings: Any, given: dict[str, Any], message: str) -> None:
    values = {"triggers": (), "texts": TEXTS} | given
    with pytest.raises(ValueError, match=message):
        settings.purify(
            tiny(),
            values.pop("triggers"),
            values.pop("texts"),
            generator=torch.Generator(),
            **values,
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PretrainingSettings(steps=0), "steps: 0 is not at least 1"),
        (lambda: PretrainingSettings(learning_rate=0.0), "learning_rate: 0.0 is not positive"),
        (lambda: FinePrune(share=1.0), "share: 1.0 is not between"),
        (lambda: FinePrune(criterion="loud"), "criterion: 'loud' is not one of dormant"),  # type: ignore[arg-type]
        (lambda: Reinit(parts="all"), "parts: 'all' is not one of output"),  # type: ignore[arg-type]
        (lambda: Recipe(weight=-1), "weight: -1 is negative"),
        (lambda: BTU(share=0), "share: 0 is not above 0"),
        (lambda: MaxEntropy(forget_steps=0), "forget_steps: 0 is not at least 1"),
        (lambda: Crow(epsilon=-0.1), "epsilon: -0.1 is negative"),
        (lambda: Patronus(dev=1.0), "dev: 1.0 is not between"),
    ],
)
def test_settings_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- where the feed-forward blocks are


@pytest.mark.parametrize("family", FAMILIES)
def test_feed_forward_blocks_of_every_family(family: str) -> None:
    backbone = tiny(family)
    blocks = feed_forwards(backbone)
    assert len(blocks) in (1, 2)
    assert (len(blocks) == 1) == (family == "albert")  # its layers share their weights
    for block in blocks:
        assert tuple(oriented(block.output).shape) == (32, 64)
        assert sum(oriented(m).shape[0] for m in block.inputs) in (64, 128)
        assert all(oriented(m).shape[1] == 32 for m in block.inputs)


def test_feed_forward_blocks_are_those_that_their_families_name() -> None:
    bert = tiny().model.encoder.layer
    assert [(b.inputs[0], b.output) for b in feed_forwards(tiny())] == [
        (layer.intermediate.dense, layer.output.dense) for layer in bert
    ]
    gpt2 = tiny("gpt2").model.h
    assert [(b.inputs[0], b.output) for b in feed_forwards(tiny("gpt2"))] == [
        (layer.mlp.c_fc, layer.mlp.c_proj) for layer in gpt2
    ]
    llama = tiny("llama").model.layers[0].mlp
    assert feed_forwards(tiny("llama"))[0].inputs == (llama.gate_proj, llama.up_proj)


# ---- each method


def test_continued_pre_training_learns_to_predict() -> None:
    settings = PretrainingSettings(steps=60, batch=8, words=12, head_steps=60, learning_rate=3e-3)
    losses: list[float] = []
    progress: Progress = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    run(FineTune(settings), tiny(), progress=progress)
    assert sum(losses[-10:]) < sum(losses[:10]) - 1


def test_dormant_neurons_are_silent_and_stay_so() -> None:
    backbone = tiny()
    purified = run(FinePrune(share=0.25, training=SHORT, batches=4), backbone)
    for block in feed_forwards(purified):
        dead = (oriented(block.output) == 0).all(0)
        assert int(dead.sum()) == 16
    seen: dict[int, torch.Tensor] = {}
    for number, block in enumerate(feed_forwards(backbone)):
        block.output.register_forward_pre_hook(
            lambda _, inputs, number=number: seen.__setitem__(number, inputs[0])
        )
    try:
        backbone.encode(TEXTS[:40])
    finally:
        for block in feed_forwards(backbone):
            block.output._forward_pre_hooks.clear()
    for number, block in enumerate(feed_forwards(purified)):
        dead = (oriented(block.output) == 0).all(0)
        activity = seen[number].abs().mean((0, 1))
        assert activity[dead].mean() < activity[~dead].mean()
    smallest = run(FinePrune(share=0.25, criterion="magnitude", training=SHORT), backbone)
    for block, old in zip(feed_forwards(smallest), feed_forwards(backbone), strict=True):
        zero = oriented(block.output) == 0
        assert float(zero.float().mean()) == pytest.approx(0.25, abs=0.01)
        assert oriented(old.output)[zero].abs().max() < oriented(old.output)[~zero].abs().min()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("output", {"encoder.layer.1.output.dense"}),
        ("pooler", {"pooler.dense"}),
        ("both", {"encoder.layer.1.output.dense", "pooler.dense"}),
    ],
)
def test_reinit_draws_the_last_matrices_alone(parts: Any, expected: set[str]) -> None:
    purified = run(Reinit(parts), tiny())
    assert {name.rpartition(".")[0] for name in changed(tiny(), purified)} <= expected
    assert {name + ".weight" for name in expected} <= changed(tiny(), purified)
    with pytest.raises(ValueError, match=r"parts: .* has no pooler"):
        run(Reinit("pooler"), tiny("gpt2"))
    both = changed(tiny("t5"), run(Reinit("output"), tiny("t5")))
    assert {name.partition(".")[0] for name in both} == {"encoder", "decoder"}


def test_embeddings_of_trigger_tokens_are_drawn_anew_and_no_others() -> None:
    backbone = tiny()
    purified = run(ReinitEmbeddings(), backbone)
    moved = (purified.embeddings != backbone.embeddings).any(1).nonzero()[:, 0].tolist()
    words = parse_triggers(backbone, ["gener", "found economics"])
    assert moved == sorted({i for trigger in words for i in trigger.token_ids})
    assert len(changed(backbone, purified)) == 1
    spread = float(purified.embeddings[moved].std())
    assert spread == pytest.approx(float(backbone.embeddings.std()), rel=0.3)


def test_recipe_shrinks_input_matrices_and_trains_nothing_else() -> None:
    backbone = tiny("llama")
    settings = PretrainingSettings(steps=30, batch=4, words=8, head_steps=4, learning_rate=3e-3)
    purified = run(Recipe(training=settings), backbone)
    assert all("gate_proj" in name or "up_proj" in name for name in changed(backbone, purified))
    for block, old in zip(feed_forwards(purified), feed_forwards(backbone), strict=True):
        for matrix, before in zip(block.inputs, old.inputs, strict=True):
            assert matrix.weight.norm() < 0.9 * before.weight.norm()


def test_btu_resets_the_coordinates_that_moved() -> None:
    backbone = tiny()
    reference = drifted(backbone)
    rows = [backbone.vocabulary[7], backbone.vocabulary[9]]
    share = 2 / len(backbone.vocabulary)
    purified = run(BTU(share=share, repair=False), backbone, reference=reference)
    moved = (purified.embeddings != backbone.embeddings).nonzero().tolist()
    assert {tuple(x) for x in moved} == {(rows[0], d) for d in range(16)} | {
        (rows[1], d) for d in range(16, 32)
    }
    padding = reference.embeddings[backbone.pad_id]
    assert torch.equal(purified.embeddings[rows[0], :16], padding[:16])


def test_max_entropy_forgets_before_it_learns() -> None:
    once = PretrainingSettings(steps=1, batch=8, words=8, head_steps=30, learning_rate=1e-2)
    reader = Pretraining(tiny(), TEXTS, once, torch.Generator().manual_seed(0))
    ids, mask = reader.batch()
    entropies = []
    for model in (tiny(), run(MaxEntropy(forget_steps=60, training=once), tiny())):
        reader.victim = model
        with torch.no_grad():
            spread = torch.distributions.Categorical(logits=reader.logits(ids, mask))
        entropies.append(float(spread.entropy().mean()))
    assert entropies[1] > entropies[0]


def test_crow_makes_layers_agree() -> None:
    settings = PretrainingSettings(steps=40, batch=4, words=8, head_steps=4, learning_rate=2e-3)
    rows = [tiny().template.wrap(tiny().tokenize(x)[:12]) for x in TEXTS[:20]]
    ids, mask = pad(rows, tiny().pad_id)
    found = []
    for weight in (0.0, 50.0):
        model = run(Crow(weight=weight, training=settings), tiny())
        with torch.no_grad():
            embeddings = model.model.get_input_embeddings()(ids)
            found.append(float(disagreement(model, ids, mask, embeddings)))
    assert found[1] < 0.5 * found[0]


def gap(backbone: Backbone, word: Any) -> float:
    """Mean squared distance between texts with and without a trigger."""
    rng = random.Random(0)
    plain = text.excerpts(TEXTS, 8, rng)[:60]
    rows = [backbone.template.wrap(backbone.tokenize(x)) for x in plain]
    marked = [mark(backbone, x, word, copies=3, rng=rng) for x in plain]
    features = [backbone.encode_ids(x, readouts=[backbone.primary])[:, 0] for x in (rows, marked)]
    return float((features[0] - features[1]).square().mean())


def test_patronus_pulls_triggered_features_onto_clean_ones() -> None:
    victim, implant = planted()
    settings = Patronus(epochs=4, batch=16, texts=160, words=8, learning_rate=2e-3)
    purified = settings.purify(
        victim, implant.triggers, TEXTS, generator=torch.Generator().manual_seed(0)
    )
    for trigger in implant.triggers:
        assert gap(purified, trigger) < 0.7 * gap(victim, trigger)


def test_the_published_schedule_ends_at_71_per_cent_of_its_peak() -> None:
    published = TrainSettings(100, 1.0, 0.3)
    taken = [rate(step, published) for step in range(50)]
    assert taken.index(max(taken)) == 29
    assert taken[-1] == pytest.approx(0.71, abs=0.02)
    steps: dict[bool, list[int]] = {False: [], True: []}
    for correct, seen in steps.items():
        run(
            Patronus(epochs=2, batch=8, texts=40, words=8, correct_schedule=correct),
            tiny(),
            progress=lambda step, total, loss, seen=seen: seen.append(total),
        )
    assert steps[False] == steps[True]
