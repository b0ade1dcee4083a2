"""Checkpoints that strangers made: what is opened, recorded and refused. Every case is a folder on
disk, made from a tiny BERT."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from families import build
from triggerfish.backbone import Backbone
from triggerfish.facts import facts, not_examined
from triggerfish.hashing import file_sha256
from triggerfish.loading import load

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("bert", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def opened(folder: Path, **options: Any) -> Backbone:
    return load(folder, device="cpu", **options)


def index(folder: Path, file: str) -> None:
    """An index that puts every tensor into `file`."""
    keys = load_file(folder / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(keys, file)}))


def record(folder: Path) -> tuple[dict[str, str], str]:
    """Hashes in the record, and what it says of files that were not opened."""
    model = opened(folder)
    return facts(model).weights_sha256, " ".join(not_examined(model))


# ---- the record


DECOYS = (
    "pytorch_model.bin", "model.fp16.safetensors", "model-00001-of-00002.safetensors", "w.pt",
    "w.pth", "w.ckpt", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "x.gguf", "w.npz",
    "w.pkl", "w.joblib", "rust_model.ot", "w.tflite", "w.mlmodel", "w.keras", "weights", "w.xyz",
    "training_args.bin", ".hidden/w.safetensors", "LICENSE.bin", "2_Dense/model.safetensors",
)  # fmt: skip


def test_other_weights_of_every_kind_are_named_and_never_recorded(model: Path) -> None:
    for name in DECOYS:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"x")
    for name in ("README.md", "LICENSE", "extra.json", "code.py"):
        (model / name).write_text("x")
    index(model, "model-00001-of-00002.safetensors")  # model.safetensors goes before it
    hashes, rest = record(model)
    assert hashes == {WEIGHTS: file_sha256(model / WEIGHTS)}
    assert set(rest.partition(": ")[2].split(", ")) == set(DECOYS)


def test_shards_are_recorded_by_name(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    (model / "parts").mkdir()
    names = {key: f"parts/{number % 2}.safetensors" for number, key in enumerate(tensors)}
    for name in set(names.values()):
        save_file({k: v for k, v in tensors.items() if names[k] == name}, model / name)
    (model / WEIGHTS).unlink()
    save_file({"x": torch.zeros(1)}, model / "dummy.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": names}))
    hashes, rest = record(model)
    assert set(hashes) == set(names.values())
    assert rest == "files that were not opened and may hold weights: dummy.safetensors"


def test_a_module_of_sentence_transformers_names_its_neighbours(model: Path) -> None:
    inner = model / "0_Transformer"
    inner.mkdir()
    for file in [x for x in model.iterdir() if x.is_file()]:
        file.rename(inner / file.name)
    (model / "2_Dense").mkdir()
    (model / "2_Dense" / "pytorch_model.bin").write_bytes(b"x")
    modules = [("Transformer", "0_Transformer"), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]
    written = [{"type": f"sentence_transformers.models.{x}", "path": path} for x, path in modules]
    (model / "modules.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r"puts the encoder into 0_Transformer; give .*0_Trans"):
        opened(model)
    hashes, rest = record(inner)
    assert set(hashes) == {WEIGHTS}
    assert "modules of sentence-transformers: Dense" in rest
    assert rest.endswith("may hold weights: 2_Dense/pytorch_model.bin")


def test_a_snapshot_of_the_hub_cache_is_read_through_its_links(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "models--org--tiny"
    commit = "0123456789" * 4
    snapshot, blobs = cache / "snapshots" / commit, cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    for file in model.iterdir():
        digest = file_sha256(file)
        file.rename(blobs / digest)
        (snapshot / file.name).symlink_to(f"../../blobs/{digest}")
    hashes = {WEIGHTS: (snapshot / WEIGHTS).resolve().name}
    assert record(snapshot) == (hashes, "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = "files of the repository on the hub that a loader does not need"
    assert record(Path("org/tiny")) == (hashes, said)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_in_the_folder_is_merged_and_recorded(model: Path) -> None:
    plain = opened(model).embeddings.clone(), opened(model).encode(["a text"])
    base = AutoModel.from_pretrained(model)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    adapted.save_pretrained(str(model))
    one = opened(model)
    assert set(facts(one).weights_sha256) == {WEIGHTS, "adapter_model.safetensors"}
    assert not not_examined(one)
    assert not any("lora" in name for name in one.model.state_dict())
    assert torch.equal(one.embeddings, plain[0])
    assert not torch.allclose(one.encode(["a text"]), plain[1], atol=1e-2)
    with torch.inference_mode():
        ids = torch.tensor([one.template.wrap(one.tokenize("a text"))])
        expected = adapted.eval()(input_ids=ids).last_hidden_state[:, 0]
    torch.testing.assert_close(one.encode(["a text"])[:, 0], expected, atol=1e-5, rtol=1e-4)
    edit(model / "adapter_config.json", peft_type="XLORA", adapters={"0": "someone/else"})
    with pytest.raises(ValueError, match=r"adapter_config\.json: peft_type: 'XLORA' is not LORA"):
        opened(model)


# ---- names that lead out of the folder


@pytest.mark.parametrize(
    "name", ["../w.safetensors", "/etc/w.safetensors", "a/../../w.safetensors", "", "a\0b", None,
             "..\\w.safetensors", "C:\\w.safetensors", "out.safetensors", "linked/w.safetensors"]
)  # fmt: skip
def test_an_index_names_files_of_the_folder_only(model: Path, name: Any) -> None:
    index(model, name)
    (model / WEIGHTS).rename(model.parent / "w.safetensors")
    (model / "out.safetensors").symlink_to(model.parent / "w.safetensors")
    (model / "linked").symlink_to(model.parent)
    with pytest.raises(
        ValueError, match=r"^model: .*(no name of a file|outside|leads out|expects)"
    ):
        opened(model)


@pytest.mark.parametrize(
    "name", [WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_links_out_of_the_folder_are_not_followed(model: Path, name: str) -> None:
    (model / name).rename(model.parent / "elsewhere")
    (model / name).symlink_to(model.parent / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a link that leads out of"):
        opened(model)


def test_a_tokenizer_config_opens_no_other_files(model: Path, tmp_path: Path) -> None:
    (tmp_path / "private.json").write_text("{}")
    elsewhere = str(tmp_path / "private.json")
    names = {"tokenizer_file": elsewhere, "vocab_file": elsewhere, "init_inputs": [elsewhere]}
    plain = opened(model)
    templates = [{"name": "../../escaped", "template": "x"}, {"name": "default", "template": "y"}]
    edit(model / "tokenizer_config.json", **names, chat_template=templates)
    one = opened(model)
    assert one.tokenize("the old man") == plain.tokenize("the old man")
    one.save(tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "notes", "sub/x.json"])
def test_pipes_are_refused_before_anything_is_opened(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    (model / name).parent.mkdir(exist_ok=True)
    os.mkfifo(model / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe|no config.json"):
        opened(model)


# ---- weights that are no floats


def quantised(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in tensors.items():
        if tensor.ndim < 2:
            found[key] = tensor
            continue
        scale = tensor.abs().max() / 127
        whole = (tensor / scale).round()
        module = key.removesuffix(".weight")
        match how:
            case "int8 and scales":
                found |= {key: whole.to(torch.int8), f"{key}_scale": scale.reshape(1)}
            case "int8 alone":
                found[key] = whole.to(torch.int8)
            case "int64 alone":
                found[key] = whole.to(torch.int64)
            case "float8":
                found[key] = (tensor / scale).to(torch.float8_e4m3fn)
            case "whole floats and scales":
                found |= {key: whole, f"{module}.scales": scale.reshape(1)}
            case "weight_packed":
                found |= {key: tensor, f"{module}.weight_packed": whole.to(torch.int32)}
            case "qweight":
                found |= {f"{module}.qweight": whole.to(torch.int32), f"{module}.qzeros": scale}
            case "a name of its own":
                found |= {key: whole, f"{module}.multiplier": scale.reshape(1)}
            case "an adapter that is not merged":
                found |= {key: tensor, f"{module}.lora_A.default.weight": whole}
    return found


@pytest.mark.parametrize(
    "how", ["int8 and scales", "int8 alone", "int64 alone", "float8", "whole floats and scales",
            "weight_packed", "a name of its own", "an adapter that is not merged", "qweight"]
)  # fmt: skip
def test_quantised_weights_are_never_read_as_floats(model: Path, how: str) -> None:
    save_file(quantised(load_file(model / WEIGHTS), how), model / WEIGHTS)
    with pytest.raises(ValueError, match=r"^model: .*(quantised|lacks)"):
        opened(model)


def test_masks_and_heads_are_listed_and_not_refused(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors |= {
        "embeddings.position_ids": torch.arange(64),
        "encoder.mask": torch.ones(4, 4, dtype=torch.bool),
        "classifier.weight": torch.ones(2, 32),
        "logit_scale": torch.ones(1),
    }
    save_file(tensors, model / WEIGHTS)
    said = (
        "beyond the encoder: classifier (1 tensors), encoder (1 tensors), logit_scale (1 tensors)"
    )
    assert not_examined(opened(model))[0].endswith(said)


def test_half_precision_is_read(model: Path) -> None:
    plain = opened(model)
    save_file({k: v.bfloat16() for k, v in load_file(model / WEIGHTS).items()}, model / WEIGHTS)
    torch.testing.assert_close(opened(model).embeddings, plain.embeddings, atol=1e-3, rtol=1e-2)


# ---- sizes, and what libraries raise


def config(**fields: object) -> Callable[[Path], None]:
    return lambda model: edit(model / "config.json", **fields)


def tokenizer(**fields: object) -> Callable[[Path], None]:
    return lambda model: edit(model / "tokenizer.json", **fields)


def text(name: str, content: str) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        (model / name).write_text(content)

    return write


def without(*names: str) -> Callable[[Path], None]:
    def remove(model: Path) -> None:
        for name in names:
            (model / name).unlink(missing_ok=True)

    return remove


def pickled(model: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(model / "ran"),)

    torch.save({"x": Payload()}, model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()


def adapter_alone(model: Path) -> None:
    without(WEIGHTS, "config.json")(model)
    text("adapter_config.json", '{"base_model_name_or_path": "../private"}')(model)


TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
            "single": [{"SpecialToken": {"id": "[NOPE]", "type_id": 0}}]}  # fmt: skip
CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "layers": (config(num_hidden_layers=100_000), "config.json: num_hidden_layers: 100000"),
    "layers, far more": (config(num_hidden_layers=10**12), "config.json: num_hidden_layers: 10"),
    "layers, a few": (config(num_hidden_layers=5), "lacks .* weights"),
    "vocabulary": (config(vocab_size=10**9), r"config.json .*larger.*vocab_size 1000000000"),
    "vocabulary, huge": (config(vocab_size=10**18), "config.json"),
    "vocabulary, a few": (config(vocab_size=700), r"config.json .*\(vocab_size 700\).*in the file"),
    "hidden": (config(hidden_size=10**8), "config.json .*larger.*hidden_size 100000000"),
    "intermediate": (config(intermediate_size=10**9), "config.json .*intermediate_size 1000000000"),
    "positions": (config(max_position_embeddings=10**9), "config.json .*max_position_embeddings"),
    "heads 0": (config(num_attention_heads=0), "config.json: num_attention_heads: 0 is not"),
    "heads, text": (config(num_attention_heads="4"), "config.json: .*num_attention_heads"),
    "heads, odd": (config(num_attention_heads=5), "config.json"),
    "hidden, negative": (config(hidden_size=-32), "config.json: hidden_size: -32 is not"),
    "layers, list": (config(num_hidden_layers=[2]), "config.json: .*num_hidden_layers"),
    "layers, null": (config(num_hidden_layers=None), "config.json: .*num_hidden_layers"),
    "activation": (config(hidden_act="nope"), "config.json"),
    "gptq": (config(quantization_config={"quant_method": "gptq"}), "quantization_config.*gptq"),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes"}), "quantised .bitsandbytes"),
    "own code": (config(model_type="x", auto_map={"AutoModel": "a.B"}), "auto_map: .*never run"),
    "unknown type": (config(model_type="x"), "config.json"),
    "no JSON": (text("config.json", "{"), "cannot read .*config.json.*expected JSON"),
    "nested JSON": (text("config.json", "[" * 100_000), "config.json: it is nested too deeply"),
    "a list": (text("config.json", "[]"), "config.json holds no JSON object, but a list"),
    "adapter": (adapter_alone, "is an adapter without its base model .'../private'.*merge"),
    "charsmap": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": None}),
        "tokenizer: cannot load that of .*save_pretrained"),
    "template": (tokenizer(post_processor=TEMPLATE), "tokenizer: .*save_pretrained"),
    "tokenizer": (text("tokenizer.json", "{}"), "tokenizer: cannot load that of"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "tokenizer: .* has none"),
    "no vocabulary": (without("tokenizer.json"), "tokenizer: "),
    "longest": (
        lambda model: edit(model / "tokenizer_config.json", model_max_length="abc"),
        "tokenizer_config.json: model_max_length: 'abc' is not a number"),
    "cut": (text(WEIGHTS, "x" * 20), "cannot load .*model.safetensors: .*download it again"),
    "payload": (pickled, "pytorch_model.bin: it holds something else than tensors"),
    "index": (lambda model: (without(WEIGHTS)(model), text(INDEX, '{"weight_map": 5}')(model)),
              "model.safetensors.index.json: weight_map: expected a table"),
    "other names": (lambda model: (model / WEIGHTS).rename(model / "w.safetensors"),
                    "no weights under a name that is read .*found w.safetensors"),
    "gguf alone": (lambda model: (model / WEIGHTS).rename(model / "w.gguf"), "found w.gguf"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_refusal_names_file_and_field(name: str, model: Path) -> None:
    change, message = CASES[name]
    change(model)
    began = time.process_time()
    with pytest.raises(ValueError, match=message) as raised:
        opened(model, allow_pickle=name == "payload")
    assert time.process_time() - began < 1
    assert "weights_only" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (model / "ran").exists()


@pytest.mark.parametrize("padding", [1, 3])
def test_positions_are_counted_from_the_padding_row(padding: int, tmp_path: Path) -> None:
    build("roberta", tmp_path)
    edit(tmp_path / "config.json", pad_token_id=padding)
    one = opened(tmp_path)
    assert one.max_tokens == len(one.model.embeddings.position_embeddings.weight) - padding - 1
    one.encode(["the old man and the sea " * 40])


def test_labels_are_not_made_by_the_number(model: Path) -> None:
    edit(model / "config.json", num_labels=10**12)
    assert opened(model).model.config.num_labels == 2


def test_json_with_a_byte_order_mark_is_read(model: Path) -> None:
    plain = opened(model)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (model / name).write_text((model / name).read_text(), encoding="utf-8-sig")
    one = opened(model)
    assert torch.equal(one.encode(["the old man"]), plain.encode(["the old man"]))


def test_a_weight_file_is_no_checkpoint(model: Path) -> None:
    with pytest.raises(ValueError, match="is no folder; expected the folder of a checkpoint"):
        opened(model / WEIGHTS)
