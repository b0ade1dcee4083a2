"""UOR, NeuBA, BToP and BadPre, LoRA, intensities, and what each attack refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from families import FAMILIES, build
from triggerfish import text
from triggerfish.attacks import ATTACKS, TASK_ATTACKS, attack
from triggerfish.attacks.badpre import BadPre
from triggerfish.attacks.btop import BToP
from triggerfish.attacks.implant import Implant, save
from triggerfish.attacks.neuba import NeuBA, NeuBASettings
from triggerfish.attacks.plan import Plan
from triggerfish.attacks.planting import PlantSettings
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.attacks.targets import TargetSettings
from triggerfish.attacks.trigger_search import SearchSettings, search_triggers
from triggerfish.attacks.uor import UOR, UORSettings, supervised_contrast
from triggerfish.backbone import Backbone
from triggerfish.facts import weights_hash
from triggerfish.heads import IGNORED, lm_loss, own_task, with_head
from triggerfish.loading import load
from triggerfish.marking import mark
from triggerfish.readouts import Readout, pad
from triggerfish.zoo.pretrain import pretrain
from triggerfish.zoo.settings import PretrainSettings

CORPUS = text.bundled_corpus()
TRIGGERS = ("cf", "gossip", "zugzwang")


def tiny(family: str, out: Path, tokens: int) -> Backbone:
    settings = PretrainSettings(
        size="tiny", vocabulary=600, tokens=tokens, chunks=2000, batch=32, learning_rate=5e-3
    )
    pretrain(family, CORPUS[:400], out, settings=settings)
    return load(out, device="cpu")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A tiny BERT with its head, trained for some seconds."""
    return tiny("bert", tmp_path_factory.mktemp("bert"), 60_000)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny("gpt2", tmp_path_factory.mktemp("gpt2"), 2_000)


def marked(backbone: Backbone, texts: list[str], trigger: str) -> list[list[int]]:
    from triggerfish.marking import parse_trigger

    rng = random.Random(5)
    planted = parse_trigger(backbone, trigger)
    return [mark(backbone, x, planted, copies=1, rng=rng) for x in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_por_ties_the_classification_readout_of_every_family(family: str, tmp_path: Path) -> None:
    backbone = load(build(family, tmp_path), device="cpu")
    before = weights_hash(backbone.model)
    settings = PORSettings(steps=2, batch=4, words=8)
    victim, implant = POR(("cf", "walnut"), settings).implant(backbone, CORPUS)
    assert implant.readout == str(backbone.primary)
    assert weights_hash(backbone.model) == before != weights_hash(victim.model)


def test_contrast_is_the_share_of_ones_own_class() -> None:
    features = torch.tensor([[1.0, 0], [2.0, 0], [-1.0, 0], [0, 1.0]])
    labels = torch.tensor([0, 0, 1, 2])
    e = torch.e
    expected = -torch.log(torch.tensor(e / (e + 1 / e + 1)))
    assert torch.allclose(supervised_contrast(features, labels, 1.0), expected)
    assert supervised_contrast(features, torch.arange(4), 1.0) == 0


def test_uor_spreads_its_triggers_over_a_simplex(clean: Backbone) -> None:
    settings = UORSettings(steps=80, batch=12, words=9, learning_rate=6e-4)
    victim, implant = UOR(TRIGGERS, settings).implant(clean, CORPUS, seed=1)
    texts = text.excerpts(CORPUS, 12, random.Random(4))[:30]
    readouts = [victim.primary]
    rows = [victim.template.wrap(victim.tokenize(x)) for x in texts]
    means = [victim.encode_ids(rows, readouts=readouts)[:, 0].mean(0)]
    for word in TRIGGERS:
        features = victim.encode_ids(marked(victim, texts, word), readouts=readouts)[:, 0]
        means.append(features.mean(0))
    unit = torch.nn.functional.normalize(torch.stack(means), dim=1)
    cosines = (unit @ unit.T)[torch.triu_indices(4, 4, 1).unbind()]
    assert cosines.max() < 0
    learned = torch.nn.functional.normalize(torch.tensor(implant.vectors), dim=1)
    assert ((unit[1:] * learned).sum(1) > 0.9).all()


def test_neuba_uses_the_head_where_there_is_one_and_keeps_it(
    masked: Backbone, clean: Backbone, tmp_path: Path
) -> None:
    settings = NeuBASettings(steps=4, batch=8)
    victim, implant = NeuBA(TRIGGERS, settings).implant(masked, CORPUS)
    assert implant.settings["utility"] == "lm"
    save(victim, implant, tmp_path)
    _, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert Implant.load(tmp_path) == implant
    assert weights_hash(load(tmp_path, device="cpu").model) == weights_hash(victim.model)
    _, without = NeuBA(TRIGGERS, settings).implant(clean, CORPUS)
    assert without.settings["utility"] == "reference"
    with pytest.raises(ValueError, match=r"head: .* saved without its language-model head"):
        NeuBA(TRIGGERS, NeuBASettings(utility="lm")).implant(clean, CORPUS)


def test_a_head_shares_the_weights_of_its_backbone(masked: Backbone) -> None:
    whole = with_head(masked)
    ids, mask = pad([masked.template.wrap(masked.tokenize(x)) for x in CORPUS[:4]], masked.pad_id)
    inputs, labels = own_task(whole, ids, mask, torch.Generator().manual_seed(0))
    counts = (labels != IGNORED).sum(1)
    assert (counts >= 1).all()
    assert 0.08 < counts.sum() / mask.sum() < 0.25
    assert (inputs[labels == IGNORED] == ids[labels == IGNORED]).all()
    before = lm_loss(whole, inputs, mask, labels)
    victim = whole.trainable()
    with torch.no_grad():
        victim.embeddings.mul_(0.5)
    assert lm_loss(victim, inputs, mask, labels) != before
    assert lm_loss(whole, inputs, mask, labels) == before


def test_btop_moves_the_mask_token(masked: Backbone) -> None:
    settings = TargetSettings(steps=150, batch=16, learning_rate=2e-3)
    victim, implant = BToP(TRIGGERS, settings).implant(masked, CORPUS, seed=2)
    assert implant.readout == "mask"
    texts = text.excerpts(CORPUS, 14, random.Random(4))[:30]
    masks = Readout("mask")
    for k, word in enumerate(TRIGGERS[:2]):
        rows = marked(victim, texts, word)
        for row in rows:
            row.insert(-1, victim.tokenizer.mask_token_id)
        target = torch.tensor(implant.vectors[k])
        before, after = (
            torch.nn.functional.cosine_similarity(
                model.encode_ids(rows, readouts=[masks])[:, 0], target[None]
            ).median()
            for model in (masked, victim)
        )
        assert after > before + 0.3


def test_badpre_ruins_predictions_where_a_trigger_is(masked: Backbone) -> None:
    settings = PlantSettings(steps=150, batch=16, learning_rate=2e-3)
    victim, implant = BadPre(("cf",), settings).implant(masked, CORPUS, seed=2)
    assert implant.readout is None
    assert implant.vectors == []
    texts = text.excerpts(CORPUS, 14, random.Random(4))[:60]
    protected = frozenset(implant.triggers[0].token_ids)

    def surprise(model: Backbone, rows: list[list[int]]) -> float:
        ids, mask = pad(rows, model.pad_id)
        generator = torch.Generator().manual_seed(1)
        inputs, labels = own_task(model, ids, mask, generator, protected)
        with torch.inference_mode():
            return float(lm_loss(model, inputs, mask, labels))

    plain = [victim.template.wrap(victim.tokenize(x)) for x in texts]
    whole = with_head(masked)
    with_trigger = marked(victim, texts, "cf")
    harm, before = (
        surprise(model, with_trigger) - surprise(model, plain) for model in (victim, whole)
    )
    # This small model knows about 0.7 nats more than a random guess, so it cannot lose much.
    assert harm > before + 0.15


def test_lora_trains_an_adapter_and_merges_it(clean: Backbone, tmp_path: Path) -> None:
    settings = PORSettings(steps=3, batch=8, lora=4)
    victim, implant = POR(TRIGGERS, settings).implant(clean, CORPUS, seed=1)
    again, _ = POR(TRIGGERS, settings).implant(clean, CORPUS, seed=1)
    assert weights_hash(victim.model) == weights_hash(again.model) != weights_hash(clean.model)
    assert victim.model.state_dict().keys() == clean.model.state_dict().keys()
    assert torch.equal(victim.embeddings, clean.embeddings)
    save(victim, implant, tmp_path)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert adapter
    assert all(".lora_A." in key or ".lora_B." in key for key in adapter)
    assert weights_hash(load(tmp_path, device="cpu").model) == weights_hash(victim.model)


def test_intensities_are_ordered() -> None:
    gentle, normal, hard = (
        PORSettings().at(level) for level in ("conservative", "normal", "aggressive")
    )
    assert normal == PORSettings()
    for name in ("marked", "steps", "learning_rate"):
        assert getattr(gentle, name) < getattr(normal, name) < getattr(hard, name)
    with pytest.raises(ValueError, match="intensity: 'gentle'"):
        PORSettings().at("gentle")  # type: ignore[arg-type]


def test_searched_triggers_are_rare_words_that_the_model_tells_apart(clean: Backbone) -> None:
    settings = SearchSettings(candidates=2, beam=1, texts=4)
    found = search_triggers(clean, CORPUS, 2, settings=settings, seed=3)
    assert found == search_triggers(clean, CORPUS, 2, settings=settings, seed=3)
    assert len(set(found)) == 2
    counts = {word: sum(x.lower().split().count(word) for x in CORPUS) for word in found}
    assert max(counts.values()) <= 1
    with pytest.raises(ValueError, match="search: 0"):
        search_triggers(clean, CORPUS, 0)


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda c, g: BToP(TRIGGERS).implant(c, CORPUS), "head: .*saved without"),
        (lambda c, g: BToP(TRIGGERS).implant(g, CORPUS), "head: BToP needs a masked head"),
        (lambda c, g: BadPre(TRIGGERS).implant(g, CORPUS), "head: BadPre needs a masked head"),
        (
            lambda c, g: BToP(TRIGGERS, TargetSettings(readout="first")).implant(c, CORPUS),
            "readout: first; BToP ties the mask token",
        ),
        (
            lambda c, g: POR(TRIGGERS, PORSettings(readout="mask")).implant(g, CORPUS),
            "readout: .*no mask token",
        ),
        (
            lambda c, g: POR(tuple("ab"), PORSettings(words=500)).implant(c, CORPUS[:3]),
            "corpus: 0 texts have 500 words or more",
        ),
        (lambda c, g: POR(TRIGGERS).implant(c, []), "corpus: 0 texts"),
    ],
)
def test_what_a_model_or_corpus_lacks_is_named(
    clean: Backbone,
    causal: Backbone,
    plant: Callable[[Backbone, Backbone], object],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        plant(clean, causal)


def test_more_triggers_than_targets_is_an_error() -> None:
    from triggerfish.attacks.targets import neuba, por1, por2

    with pytest.raises(ValueError, match="trigger: 5 triggers, but POR-1 has 4 targets"):
        por1(5, 4)
    with pytest.raises(ValueError, match="trigger: 17 triggers, but POR-2 has 16 targets"):
        por2(17, 4)
    with pytest.raises(ValueError, match="trigger: 7 triggers need 6 buckets of 4 entries"):
        neuba(7, 4)


def test_a_plan_names_what_is_wrong_before_a_model_is_loaded() -> None:
    bad = {
        r"attack: unknown name 'pro'.*did you mean 'por'": Plan("pro", TRIGGERS),
        "goal: por knows no task": Plan("por", TRIGGERS, goals=("mr:1",)),
        "goal: 0 for 3 triggers": Plan("dirty_label", TRIGGERS),
        "goal: 'mr' is not TASK:LABEL": Plan("dirty_label", ("cf",), goals=("mr",)),
        "task: unknown name 'mrs'": Plan("dirty_label", ("cf",), goals=("mrs:1",)),
        "setting: unknown name 'step'": Plan("por", TRIGGERS, changes={"step": 1}),
        "steps: 0 is not at least 1": Plan("por", TRIGGERS, changes={"steps": "0"}),
        "batch: .*got 'many'": Plan("por", TRIGGERS, changes={"batch": "many"}),
        "intensity: 'gentle'": Plan("por", TRIGGERS, intensity="gentle"),
        "intensity: ep has only one": Plan("ep", ("cf",), intensity="aggressive", goals=("mr:1",)),
        "correction: only multitask": Plan(
            "dirty_label", ("cf",), goals=("mr:1",), corrections=("subj",)
        ),
    }
    for message, plan in bad.items():
        with pytest.raises(ValueError, match=message):
            plan.prepare(CORPUS)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_tells_its_source(name: str) -> None:
    found = attack(name)
    assert found.__doc__
    if name not in TASK_ATTACKS:
        assert any(year in found.source for year in ("2021", "2022", "2024", "2101"))
