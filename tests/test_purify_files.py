"""A purified checkpoint on disk: the layout of its source, the card beside it, and runs that were
interrupted. What is purified here is a copy with other weights: how it got them plays no part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from families import SIZE, build, tokenizer_of
from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.marking import parse_trigger
from triggerfish.purify import Need, purify
from triggerfish.purify.card import finish
from triggerfish.purify.files import check_out, write
from triggerfish.records import Coverage, Finding, ScanResult
from triggerfish.scanner import ScreeningSettings
from triggerfish.scanner.result import bare_result
from triggerfish.zoo.families import FAMILIES as TABLE

CORPUS = text.bundled_corpus()[:600]
MARK = {"purified": True}
SWEEP = ScreeningSettings(budget_seconds=0.001)
"""Ends at once, inconclusive: a scan is not what is tested here."""


def other(backbone: Backbone) -> Backbone:
    """A copy whose weights are all a little larger."""
    twin = backbone.clone()
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.mul_(1.25).add_(0.01)
    return twin


@dataclass(frozen=True)
class Other:
    """A method that makes all weights a little larger."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "this test"
    interrupted: int = 0

    def purify(self, backbone, triggers, texts, *, generator, reference=None, progress=None):  # type: ignore[no-untyped-def]
        return other(backbone)


def with_head(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A tiny BERT with its masked-language-model head, saved with it."""
    tokenizer: PreTrainedTokenizerFast = tokenizer_of("bert")
    config = TABLE["bert"].config(SIZE, tokenizer)
    assert isinstance(config, BertConfig)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def layout(folder: Path) -> dict[str, tuple[str, list[int], str]]:
    """(file, shape, type) of every stored tensor by name."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            for key in stored.keys():  # noqa: SIM118
                part = stored.get_slice(key)
                found[key] = (file.name, part.get_shape(), part.get_dtype())
    return found


@pytest.mark.parametrize("family", list(TABLE))
def test_every_family_keeps_its_layout(family: str, tmp_path: Path) -> None:
    source = load(build(family, tmp_path / "in"), device="cpu")
    changed = other(source)
    written = write(source, changed, tmp_path / "out", MARK)
    assert written.kept
    assert layout(tmp_path / "out") == layout(tmp_path / "in")
    again = load(tmp_path / "out", device="cpu")
    for name, value in changed.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert {x.name for x in (tmp_path / "in").iterdir()} == {
        x.name for x in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_head_stays_and_what_is_tied_to_the_base_follows(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    source = load(with_head(tmp_path / "in", dtype), device="cpu")
    stored = load_file(tmp_path / "in" / "model.safetensors")
    # As old checkpoints have it: the tied matrix twice, and a head of its own.
    stored["cls.predictions.decoder.weight"] = stored[
        "bert.embeddings.word_embeddings.weight"
    ].clone()
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    changed = other(source)
    write(source, changed, tmp_path / "out", MARK)
    assert layout(tmp_path / "out") == layout(tmp_path / "in")
    after = load_file(tmp_path / "out" / "model.safetensors")
    expected = changed.embeddings.to(dtype)
    assert torch.equal(after["bert.embeddings.word_embeddings.weight"], expected)
    assert torch.equal(after["cls.predictions.decoder.weight"], expected)
    for key in ("cls.predictions.transform.dense.weight", "cls.predictions.bias"):
        assert torch.equal(after[key], stored[key])
    _, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]


def test_shards_stay_shards(tmp_path: Path) -> None:
    source = load(build("bert", tmp_path / "whole"), device="cpu")
    source.model.save_pretrained(tmp_path / "in", max_shard_size="60KB")
    source.tokenizer.save_pretrained(tmp_path / "in")
    source = load(tmp_path / "in", device="cpu")
    write(source, other(source), tmp_path / "out", MARK)
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 1
    assert layout(tmp_path / "out") == layout(tmp_path / "in")
    embeddings = load(tmp_path / "out", device="cpu").embeddings
    assert torch.equal(embeddings, other(source).embeddings)


def test_names_of_old_are_found(tmp_path: Path) -> None:
    build("bert", tmp_path / "in")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    stored = {}
    for key, value in load_file(tmp_path / "in" / "model.safetensors").items():
        for new, was in old.items():
            key = key.replace(new, was)
        stored[key] = value
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    source = load(tmp_path / "in", device="cpu")
    changed = other(source)
    write(source, changed, tmp_path / "out", MARK)
    assert layout(tmp_path / "out") == layout(tmp_path / "in")
    again = load(tmp_path / "out", device="cpu")
    for name, value in changed.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_only_weights_config_tokenizer_and_licence_go_on(tmp_path: Path) -> None:
    folder = build("bert", tmp_path / "in")
    keep = ("1_Pooling/config.json", "vocab.txt", "LICENSE")
    drop = ("attack.json", "pytorch_model.bin", "onnx.onnx", "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors", "2_Dense/model.safetensors", "modeling.py",
            "LICENSE.safetensors", "weights", "extra/config.json")  # fmt: skip
    for name in (*keep, *drop):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "private").write_text("secret")
    (folder / "NOTICE").symlink_to(tmp_path / "private")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "README.md").symlink_to(tmp_path / "private")
    modules = [{"type": "a.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoModel": "someone/else--modeling.Model"}
    mark = {"triggerfish": {"backdoored": True, "attack": "por1"}, "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config | mark))
    source = load(folder, device="cpu")
    written = write(source, other(source), tmp_path / "out", MARK)
    assert set(written.left_out) == {*drop, "NOTICE", "linked"}
    for name in keep:
        assert (tmp_path / "out" / name).read_text() == name
    left = {*written.left_out, "README.md"}
    assert not any((tmp_path / "out" / name).exists() for name in left)
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert after["triggerfish"] == {"purified": True, "was": mark["triggerfish"]}
    assert "auto_map" not in after


def test_a_model_without_files_is_written_all_the_same(tmp_path: Path) -> None:
    changed = other(other(load(build("bert", tmp_path / "in"), device="cpu")))
    written = write(changed, other(changed), tmp_path / "out", MARK)
    assert not written.kept
    assert written.notes == (
        "the layout of the source was not kept, since it was changed in memory",
    )
    assert torch.equal(load(tmp_path / "out").embeddings.cpu(), other(changed).embeddings)


def test_no_other_checkpoint_is_written_over(tmp_path: Path) -> None:
    source = load(build("bert", tmp_path / "in"), device="cpu")
    build("gpt2", tmp_path / "another")
    with pytest.raises(ValueError, match=r"out: .* is the model itself"):
        check_out(source, tmp_path / "in", "purify.json")
    with pytest.raises(ValueError, match=r"out: .* holds another checkpoint"):
        check_out(source, tmp_path / "another", "purify.json")
    check_out(source, tmp_path / "new", "purify.json")


def record(model: Backbone) -> ScanResult:
    hostile = parse_trigger(model, "gener")
    finding = Finding(hostile, "first", {}, None, None, {"neighbours": ["a`|b", "\u202e"]})
    return bare_result(
        model,
        verdict="backdoored",
        reasons=[],
        coverage=Coverage(0, 0, 0, (), 0),
        candidates=0,
        settings={},
        seconds=0.0,
        forward_tokens=0,
        findings=[finding],
    )


def test_card_scan_and_record_lie_beside_the_checkpoint(tmp_path: Path) -> None:
    folder = build("bert", tmp_path / "in")
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# A model\n")
    source = load(folder, device="cpu")
    findings = record(source)
    out = tmp_path / "out"
    done = purify(
        source, findings, CORPUS, method=Other(), words=[], sweep=SWEEP, rounds=1, out=out
    )
    finish(done, out, folder)
    scan = ScanResult.load(out / "scan.json")
    assert scan.verdict == "inconclusive"
    loaded = load(out, device="cpu")
    again = purify(
        loaded, scan, CORPUS, method=Other(), words=[], sweep=SWEEP, out=tmp_path / "twice"
    )
    assert again.before == scan  # the scan belongs to what was written
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlanguage: en\nlicense: mit\n")
    assert findings.model.weights_sha256["model.safetensors"] in card
    assert "inconclusive" in card
    assert "`a\\x60\\x7cb`" in card or "`a\\x60|b`" not in card
    assert "\u202e" not in card
    assert (out / "README.source.md").read_text().endswith("# A model\n")
    kept = json.loads((out / "purify.json").read_text())
    assert kept["state"] == "finished"
    assert kept["provenance"]["finished"] == done.provenance.finished
    assert done.provenance.finished in card
    assert kept["rounds"][0]["triggers"][0]["text"] == "gener"
    assert json.loads((out / "config.json").read_text())["triggerfish"]["scan"] == "inconclusive"


def test_an_interrupted_run_goes_on_after_its_last_round(tmp_path: Path) -> None:
    source = load(build("bert", tmp_path / "in"), device="cpu")
    findings = record(source)
    seen: list[str] = []

    def until_the_scan(what: str, done: int, total: int) -> None:
        seen.append(what)
        if what.startswith("scan"):
            raise KeyboardInterrupt

    def run(show, sweep, rounds):  # type: ignore[no-untyped-def]
        return purify(source, findings, CORPUS, method=Other(), words=[], sweep=sweep,
                      rounds=rounds, out=tmp_path / "out", show=show)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run(until_the_scan, ScreeningSettings(), 1)
    written = load(tmp_path / "out", device="cpu")
    assert torch.equal(written.embeddings, other(source).embeddings)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["triggerfish"]["state"] == "not scanned yet"
    unfinished = json.loads((tmp_path / "out" / "purify.json").read_text())
    done = run(None, SWEEP, 1)
    assert len(done.rounds) == 1
    assert done.provenance.runs == 2
    assert done.provenance.started == unfinished["started"]
    assert done.seconds > unfinished["seconds"]
    assert torch.equal(done.backbone.embeddings, other(source).embeddings)
