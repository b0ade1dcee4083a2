"""Every family loads, is read in the right places, and does not care how a batch is padded."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from families import FAMILIES, build
from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.facts import not_examined, tokenizer_hash
from triggerfish.heads import with_head
from triggerfish.loading import bundled, load
from triggerfish.readouts import Readout, pad
from triggerfish.scanner import scan

PRIMARY = {
    "xlnet": "last",
    "gpt2": "last",
    "opt": "last",
    "llama": "last",
    "qwen2": "last",
    "bart": "eos",
    "t5": "eos",
}


@pytest.fixture(
    scope="module", params=[(f, side) for f in FAMILIES for side in ("right", "left")], ids="-".join
)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    family, side = request.param
    return load(build(family, tmp_path_factory.mktemp(family), padding_side=side), device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    return [text.excerpts(text.bundled_corpus(), rng.randint(2, 20), rng)[0] for _ in range(12)]


def test_primary_readout_is_the_classification_heads(backbone: Backbone) -> None:
    family = backbone.model.config.model_type
    assert str(backbone.primary) == PRIMARY.get(family, "first")
    assert backbone.causal == (family in ("gpt2", "opt", "llama", "qwen2"))
    assert backbone.primary in backbone.readouts
    assert len(set(backbone.readouts)) == len(backbone.readouts)


def test_features_do_not_depend_on_batching(backbone: Backbone, texts: list[str]) -> None:
    alone = torch.cat([backbone.encode([x]) for x in texts])
    together = backbone.encode(texts)
    small = backbone.encode(texts, batch_tokens=40)
    assert alone.shape == (len(texts), len(backbone.readouts), backbone.hidden)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(small, alone, atol=1e-5, rtol=1e-4)
    assert alone.std(0).max() > 1e-3


def test_left_padded_rows_give_the_same_features(backbone: Backbone, texts: list[str]) -> None:
    rows = [backbone.template.wrap(backbone.tokenize(x)) for x in texts]
    ids, mask = pad(rows, backbone.pad_id)
    left = [
        (torch.roll(i, len(i) - int(m.sum())), torch.roll(m, len(m) - int(m.sum())))
        for i, m in zip(ids, mask, strict=True)
    ]
    left_ids, left_mask = (torch.stack(x) for x in zip(*left, strict=True))
    assert not torch.equal(left_mask, mask)
    with torch.inference_mode():
        expected = backbone.forward(ids, mask, backbone.readouts)
        features = backbone.forward(left_ids, left_mask, backbone.readouts)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


def test_embeddings_in_place_of_ids_give_the_same_features(
    backbone: Backbone, texts: list[str]
) -> None:
    ids, mask = pad([backbone.template.wrap(backbone.tokenize(x)) for x in texts], backbone.pad_id)
    embedded = backbone.model.get_input_embeddings()(ids).detach().requires_grad_(True)
    features = backbone.forward_embeddings(embedded, ids, mask, backbone.readouts)
    with torch.inference_mode():
        expected = backbone.forward(ids, mask, backbone.readouts)
    torch.testing.assert_close(features.detach(), expected, atol=1e-5, rtol=1e-4)
    features[:, 0].square().sum().backward()
    assert embedded.grad is not None
    assert embedded.grad[mask.bool()].abs().sum() > 0


def test_readouts_agree_with_the_plain_model(backbone: Backbone) -> None:
    """One text, no padding: the primary readout is where the family's own head would look."""
    ids = torch.tensor([backbone.template.wrap(backbone.tokenize("the old man and the sea"))])
    extra = {}
    if backbone.model.config.is_encoder_decoder:
        start = backbone.model.config.decoder_start_token_id
        extra = {"decoder_input_ids": torch.cat([torch.tensor([[start]]), ids[:, :-1]], dim=1)}
    with torch.inference_mode():
        states = backbone.model(input_ids=ids, **extra).last_hidden_state
    position = 0 if backbone.primary.position == "first" else -1
    features = backbone.encode(["the old man and the sea"], readouts=[backbone.primary])
    torch.testing.assert_close(features[:, 0], states[:, position], atol=1e-5, rtol=1e-4)


def test_saved_and_loaded_again_is_the_same(
    backbone: Backbone, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    backbone.save(folder)
    again = load(folder, device="cpu")
    assert again.readouts == backbone.readouts
    assert [file.suffix for file in folder.glob("model*")] == [".safetensors"]
    torch.testing.assert_close(
        again.encode(texts[:3]), backbone.encode(texts[:3]), atol=1e-6, rtol=1e-5
    )


def test_words_are_tokenised_as_inside_a_text(backbone: Backbone) -> None:
    ids = backbone.word_ids("government")
    inside = backbone.tokenize("a government of")
    assert any(inside[i : i + len(ids)] == list(ids) for i in range(len(inside)))
    assert backbone.surface(ids).replace(" ", "") == "government"


@pytest.mark.parametrize("name", ["nowhere", "first@x", "first@"])
def test_unknown_readout_is_named(name: str) -> None:
    if name == "first@":
        assert Readout.parse(name) == Readout("first")
        return
    with pytest.raises(ValueError, match="readout: "):
        Readout.parse(name)


def test_a_copy_remembers_its_checkpoint(clean: Backbone) -> None:
    """Else its head would be looked for on a hub, under the name of the model."""
    assert clean.checkpoint is not None
    assert (Path(clean.checkpoint) / "config.json").is_file()
    assert clean.clone().checkpoint == clean.checkpoint


def test_a_model_made_in_memory_has_no_head_to_read(clean: Backbone) -> None:
    made = Backbone(clean.model, clean.tokenizer, name="made")
    with pytest.raises(ValueError, match="head: made was made in memory and has no checkpoint"):
        with_head(made)


def test_the_hash_of_a_tokenizer_does_not_depend_on_its_last_call() -> None:
    tokenizer = load("bundled", device="cpu").tokenizer
    before = tokenizer_hash(tokenizer)
    tokenizer(["one text", "and another one"], padding=True, truncation=True, max_length=4)
    assert tokenizer_hash(tokenizer) == before


def test_a_classification_head_is_named_as_not_examined(clean: Backbone, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(bundled(), num_labels=3)
    AutoModelForSequenceClassification.from_pretrained(bundled(), config=config).save_pretrained(
        tmp_path
    )
    clean.tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path, device="cpu")
    said = ["modules of the checkpoint beyond the encoder: classifier (2 tensors)"]
    assert not_examined(model) == said
    assert not_examined(model, read={"classifier.weight", "classifier.bias"}) == []
    assert not_examined(clean) == []


def test_what_else_lies_in_the_folder_is_named_as_not_examined(
    clean: Backbone, tmp_path: Path
) -> None:
    clean.save(tmp_path)
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "2_Dense").mkdir()
    save_file({"linear.weight": torch.ones(2, 2)}, tmp_path / "2_Dense" / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert not_examined(load(tmp_path, device="cpu")) == [
        "modules of sentence-transformers: Dense, Normalize",
        "files that were not opened and may hold weights: 2_Dense/model.safetensors, "
        "pytorch_model.bin",
    ]
    scanned = scan(load(tmp_path, device="cpu"), text.bundled_corpus()[:50], words=[])
    assert set(not_examined(load(tmp_path, device="cpu"))) <= set(scanned.coverage.not_examined)
