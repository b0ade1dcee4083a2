"""Hostile and odd files for every command, each with what must come of it.

A case writes its files below a folder of its own and names a command line. `codes` are the exit
codes that are right: 2 where the input must be refused, 3 where it must load (the scan then ends at
its budget), 0 and 1 where there must be a verdict. `says` is a pattern in the output. What holds
for every case is checked by `run.py`: one clear line for an error, no traceback, no control
character, no byte outside the outputs, bounded time and memory.

Kinds are the rows of the threat model (`docs/threat_model.md`).
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from golden import models
from planted import tiny
from report_samples import a_finding, a_result
from triggerfish.facts import facts
from triggerfish.loading import load
from triggerfish.records import ScanResult, Trigger

ESC = "\x1b[31m\u202e<b>"
TRIGGERS = models.TINY_ATTACK.triggers
SMALL = {
    **{"characters": "false", "rewrites": "false", "predictions": "false", "max_words": "400"},
    **{"second_candidates": "500", "text_candidates": "80", "controls": "100"},
    **{"screen_texts": "8", "holdout_texts": "16", "clean_texts": "80", "holdout_candidates": "4"},
}
"""A scan that takes seconds and finds what was planted."""


@dataclass(frozen=True)
class Place:
    """Where a case lives: `folder` is its own, `base` holds what all share, `out` what it may
    write."""

    folder: Path
    base: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def copy(self, name: str = "clean") -> Path:
        """A model of its own, to be damaged."""
        return Path(shutil.copytree(self.base / name, self.folder / "model"))

    def write(self, name: str, content: bytes | str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def scan(self, model: Path | str, *more: str | Path) -> list[str]:
        """A scan that reads everything and ends at its budget."""
        return self._scan(model, "--budget", "0.5", *more)

    def whole_scan(self, model: Path | str, *more: str | Path) -> list[str]:
        return self._scan(
            model, *(x for k, v in SMALL.items() for x in ("--set", f"{k}={v}")), *more
        )

    def _scan(self, model: Path | str, *more: str | Path) -> list[str]:
        shared = {"--corpus": self.base / "corpus.jsonl", "--words": self.base / "words.txt"}
        asked = [x for option, file in shared.items() if option not in more for x in (option, file)]
        method = ["--method", "screening", "--state", self.out / "state", "--device", "cpu"]
        return list(map(str, ["scan", model, *asked, *method, *more]))


@dataclass(frozen=True)
class Case:
    kind: str
    name: str
    make: Callable[[Place], list[str]]
    codes: tuple[int, ...] = (2,)
    says: str = ""
    check: Callable[[Place], str] = lambda _: ""
    """What is wrong afterwards; empty for nothing."""
    quick: bool = False
    """Part of `make test`."""


def make_base(folder: Path) -> Path:
    """What all cases share: an untrained model, a backdoored one and its clean twin, texts, words,
    and a scan.json."""
    tiny().save(folder / "clean")
    for name in ("twin", "backdoored"):
        shutil.copytree(models.FOLDER / "tiny-gpt2", folder / name)
    file = folder / "backdoored" / models.WEIGHTS
    shutil.copy(models.FOLDER / "tiny-gpt2-por1.safetensors", file)
    rows = "".join(json.dumps({"text": x}) + "\n" for x in models.texts())
    (folder / "corpus.jsonl").write_text(rows)
    (folder / "words.txt").write_text("house\nkeyword\n")
    model = load(folder / "backdoored", device="cpu")
    rng = random.Random(0)
    found = tuple(
        replace(a_finding(word, ids, rng), trigger=Trigger(ids, word))
        for word, ids in ((word, model.word_ids(word)) for word in TRIGGERS)
    )
    result = a_result(verdict="backdoored", findings=found, model=facts(model))
    replace(result, projection=None).save(folder / "scan.json")
    return folder


# ---- checkpoints


def edited(file: Path, change: Callable[[Any], Any]) -> None:
    held = json.loads(file.read_text())
    file.write_text(json.dumps(change(held) or held))


def config(changes: dict[str, Any] | bytes, drop: str = "") -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        file = place.copy() / "config.json"
        if isinstance(changes, bytes):
            file.write_bytes(changes)
        else:
            edited(file, lambda c: {k: v for k, v in {**c, **changes}.items() if k != drop})
        return place.scan(file.parent)

    return make


REFUSED_CONFIGS: dict[str, dict[str, Any]] = {
    "hidden a string": {"hidden_size": "32"},
    "hidden null": {"hidden_size": None},
    "hidden negative": {"hidden_size": -32},
    "hidden 0": {"hidden_size": 0},
    "hidden huge": {"hidden_size": 4 * 10**9},
    "hidden a list": {"hidden_size": [32]},
    "heads 0": {"num_attention_heads": 0},
    "heads 7": {"num_attention_heads": 7},
    "heads a string": {"num_attention_heads": "four"},
    "layers 100,000": {"num_hidden_layers": 10**5},
    "layers 10^18": {"num_hidden_layers": 10**18},
    "layers negative": {"num_hidden_layers": -1},
    "layers null": {"num_hidden_layers": None},
    "layers 3 of 2": {"num_hidden_layers": 3},
    "vocabulary 10": {"vocab_size": 10},
    "vocabulary 2^40": {"vocab_size": 2**40},
    "vocabulary negative": {"vocab_size": -1},
    "feed-forward huge": {"intermediate_size": 10**12},
    "feed-forward wrong": {"intermediate_size": 65},
    "positions negative": {"max_position_embeddings": -5},
    "positions huge": {"max_position_embeddings": 10**12},
    "eps a string": {"layer_norm_eps": "x"},
    "activation unknown": {"hidden_act": "nope"},
    "activation a list": {"hidden_act": ["gelu"]},
    "family unknown": {"model_type": "nope"},
    "family a list": {"model_type": ["bert"]},
    "family null": {"model_type": None},
    "family another": {"model_type": "gpt2"},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "quantisation unknown": {"quantization_config": {"quant_method": ESC}},
    "quantisation a list": {"quantization_config": [1]},
    "types huge": {"type_vocab_size": 10**12},
}
ODD_CONFIGS: dict[str, dict[str, Any]] = {
    "unknown key": {"nonsense": {"a": [1]}},
    "architecture unknown": {"architectures": ["Evil"]},
    "bf16": {"torch_dtype": "bfloat16", "dtype": "bfloat16"},
    "own name hostile": {"_name_or_path": ESC},
    "labels hostile": {"id2label": {"0": ESC, "1": "x"}, "label2id": {ESC: 0, "x": 1}},
    "remote code": {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}},
}
BROKEN_JSON = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a string": b'"x"',
    "cut": b'{"model_type": "be',
    "deep": b"[" * 10**5,
    "deep object": b'{"a":' * 10**5,
    "not UTF-8": b'{"model_type": "\xff"}',
    "NUL": b"\0" * 100,
    "huge number": b'{"model_type": "bert", "hidden_size": 1' + b"0" * 5000 + b"}",
}


def config_cases() -> Iterator[Case]:
    for name, changes in REFUSED_CONFIGS.items():
        yield Case("config", name, config(changes), says=r"model|config")
    for name, changes in ODD_CONFIGS.items():
        yield Case("config", name, config(changes), (3,), quick=name == "unknown key")
    for name, raw in BROKEN_JSON.items():
        yield Case(
            "config", f"JSON {name}", config(raw), says=r"model.*config|config", quick=name == "cut"
        )
    yield Case("config", "without family", config({}, "model_type"), says="model")
    yield Case("config", "BOM", config(b"\xef\xbb\xbf" + b'{"model_type": "bert"}'), (2,), "config")
    yield Case("config", "eps NaN", config({"layer_norm_eps": float("nan")}), (2, 3))
    yield Case("config", "dropout NaN", config({"hidden_dropout_prob": float("nan")}), (2, 3))


def tokenizer(
    change: Callable[[Any], Any] | bytes, **settings: Any
) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        model = place.copy()
        if isinstance(change, bytes):
            (model / "tokenizer.json").write_bytes(change)
        else:
            edited(model / "tokenizer.json", change)
        edited(model / "tokenizer_config.json", lambda c: {**c, **settings})
        return place.scan(model)

    return make


def field(name: str, value: Any) -> Callable[[Any], Any]:
    def change(held: Any) -> None:
        *path, last = name.split(".")
        for part in path:
            held = held[part]
        held[last] = value

    return change


def added(content: str, number: int, special: bool = True) -> Callable[[Any], Any]:
    entry = {"id": number, "content": content, "special": special}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return lambda t: t["added_tokens"].append(entry | flags)


def charsmap(value: Any) -> Any:
    return {"type": "Precompiled", "precompiled_charsmap": value}


def grows(letters: int, what: str = "e") -> Any:
    return {"type": "Replace", "pattern": {"String": what}, "content": "x " * letters}


NOPE = {"SpecialToken": {"id": "[NOPE]", "type_id": 0}}
SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [NOPE, SEQUENCE],
    "pair": [],
    "special_tokens": {},
}
REFUSED_TOKENIZERS: dict[str, Callable[[Any], Any]] = {
    "charsmap null": field("normalizer", charsmap(None)),
    "charsmap empty": field("normalizer", charsmap("")),
    "charsmap broken": field("normalizer", charsmap("/w==")),
    "charsmap random": field("normalizer", charsmap(base64.b64encode(os.urandom(64)).decode())),
    "normaliser unknown": field("normalizer", {"type": "Nope"}),
    "normaliser a list": field("normalizer", [1]),
    "normaliser pattern broken": field(
        "normalizer", {"type": "Replace", "pattern": {"Regex": "("}, "content": "x"}
    ),
    "normaliser grows": field("normalizer", grows(10_000)),
    "normaliser grows every letter": field(
        "normalizer", {"type": "Replace", "pattern": {"Regex": "."}, "content": "x " * 5000}
    ),
    "splitter pattern broken": field(
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated", "invert": False},
    ),
    "splitter unknown": field("pre_tokenizer", {"type": 5}),
    "decoder unknown": field("decoder", {"type": "Nope"}),
    "model null": field("model", None),
    "model unknown": field("model.type", "Nope"),
    "vocabulary empty": field("model.vocab", {}),
    "vocabulary a list": field("model.vocab", [1, 2]),
    "ids negative": field("model.vocab", {"a": -1}),
    "ids beyond 32 bits": field("model.vocab", {"a": 2**40}),
    "ids floats": field("model.vocab", {"a": 1.5}),
    "entry beyond the matrix": lambda t: t["model"]["vocab"].update(beyond=10**6),
    "special token beyond the matrix": added("house", 10**6),
    "added tokens a string": field("added_tokens", "x"),
    "added token without content": lambda t: t["added_tokens"].append({"id": 5}),
}


def hostile_names(held: Any) -> None:
    """Entries that a terminal, a page or a log would obey."""
    vocabulary = held["model"]["vocab"]
    words = [word for word in vocabulary if word.isalpha()][:5]
    for word, name in zip(words, [ESC, "<script>", "\u202e", "a\nb", "\x07"], strict=True):
        vocabulary[name] = vocabulary.pop(word)


def tokenizer_cases() -> Iterator[Case]:
    same: Callable[[Any], Any] = lambda t: None  # noqa: E731
    for name, change in REFUSED_TOKENIZERS.items():
        yield Case("tokenizer", name, tokenizer(change), says="tokenizer", quick="grows" in name)
    for name, raw in BROKEN_JSON.items():
        yield Case("tokenizer", f"JSON {name}", tokenizer(raw), says="tokenizer")
    for name, value, code in (
        *(("length a string", "abc", 2), ("length negative", -1, 2), ("length 0", 0, 2)),
        *(("length null", None, 3), ("length 1e30", 10**30, 3), ("length NaN", float("nan"), 2)),
    ):
        yield Case("tokenizer", name, tokenizer(same, model_max_length=value), (code,))
    for name, key, value, codes in (
        ("class unknown", "tokenizer_class", "Evil", (2, 3)),
        ("class a list", "tokenizer_class", ["x"], (2, 3)),
        ("remote code", "auto_map", {"AutoTokenizer": ["evil.T", None]}, (2, 3)),
        (
            "chat template",
            "chat_template",
            "{{ ''.__class__.__mro__ }}{% for x in range(10**9) %}",
            (3,),
        ),
        ("pad token unknown", "pad_token", "[NOPE]", (2, 3)),
        ("mask token a list", "mask_token", ["[MASK]"], (2, 3)),
    ):
        yield Case("tokenizer", name, tokenizer(same, **{key: value}), codes)
    yield Case(
        "tokenizer", "template token unknown", tokenizer(field("post_processor", TEMPLATE)), (2,)
    )
    yield Case("tokenizer", "hostile entries", tokenizer(hostile_names), (3,), quick=True)
    yield Case(
        "tokenizer", "none", without("tokenizer.json", "tokenizer_config.json"), says="tokenizer"
    )
    yield Case("tokenizer", "a folder", special("tokenizer.json", "folder"), says="tokenizer|model")
    yield Case("tokenizer", "a FIFO", special("tokenizer.json", "fifo"), says="tokenizer|model")


def without(*names: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        model = place.copy()
        for name in names:
            (model / name).unlink(missing_ok=True)
        return place.scan(model)

    return make


def special(name: str, kind: str) -> Callable[[Place], list[str]]:
    """A file of the checkpoint that is no file."""

    def make(place: Place) -> list[str]:
        file = place.copy() / name
        file.unlink(missing_ok=True)
        make_special(file, kind)
        return place.scan(file.parent)

    return make


def make_special(file: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to({"zero": "/dev/zero", "loop": file, "nowhere": file.parent / "no"}[kind])


def header(change: Callable[[dict[str, Any], bytes], bytes]) -> Callable[[Place], list[str]]:
    """A safetensors file whose header and data `change` writes anew."""

    def make(place: Place) -> list[str]:
        file = place.copy() / "model.safetensors"
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        file.write_bytes(change(json.loads(raw[8 : 8 + size]), raw[8 + size :]))
        return place.scan(file.parent)

    return make


def packed(head: Any, data: bytes, size: int | None = None) -> bytes:
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + data


def first(**changes: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    """Changes to the entry of one tensor."""

    def change(head: dict[str, Any], data: bytes) -> bytes:
        name = next(key for key in head if key != "__metadata__")
        head[name] = {**head[name], **changes}
        return packed(head, data)

    return change


HEADERS: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "empty file": lambda h, d: b"",
    "seven bytes": lambda h, d: b"\x01" * 7,
    "size 0": lambda h, d: packed(b"", d),
    "size 2^63": lambda h, d: packed(h, d, 2**63),
    "size beyond the file": lambda h, d: packed(h, d, 2**30),
    "cut in the header": lambda h, d: packed(h, b"")[:200],
    "cut in the data": lambda h, d: packed(h, d[: len(d) // 2]),
    "data too long": lambda h, d: packed(h, d + b"\0" * 64),
    "not JSON": lambda h, d: packed(b"{" * 200, d),
    "a list": lambda h, d: packed([1], d),
    "deep": lambda h, d: packed(b"[" * 10**5, d),
    "not UTF-8": lambda h, d: packed(b'{"\xff": 1}', d),
    "no tensors": lambda h, d: packed({}, b""),
    "dtype unknown": first(dtype="F7"),
    "dtype a number": first(dtype=5),
    "shape negative": first(shape=[-1, 4]),
    "shape huge": first(shape=[2**62, 2**62]),
    "shape wrong": first(shape=[3]),
    "shape a string": first(shape="x"),
    "offsets swapped": first(data_offsets=[10, 0]),
    "offsets beyond": first(data_offsets=[0, 2**40]),
    "offsets negative": first(data_offsets=[-8, 0]),
    "offsets missing": first(data_offsets=None),
    "metadata a number": lambda h, d: packed(h | {"__metadata__": 5}, d),
    "metadata nested": lambda h, d: packed(h | {"__metadata__": {"a": {"b": 1}}}, d),
}


def tensors(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        file = place.copy() / "model.safetensors"
        changed = {key: x.contiguous() for key, x in change(load_file(file)).items()}
        save_file(changed, file, metadata={"format": "pt"})
        return place.scan(file.parent)

    return make


def matrix(weights: dict[str, torch.Tensor]) -> str:
    return next(key for key in weights if key.endswith("word_embeddings.weight"))


def spoiled(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights[matrix(weights)][3, 3] = value
        return weights

    return change


def integers(weights: dict[str, torch.Tensor], scales: str = "_scale") -> dict[str, torch.Tensor]:
    made = {}
    for key, x in weights.items():
        if x.dim() > 1:
            scale = x.abs().max() / 127
            made[key] = (x / scale).round().to(torch.int8)
            if scales:
                made[key + scales] = scale.reshape(1)
        else:
            made[key] = x
    return made


def weight_cases() -> Iterator[Case]:
    for name, change in HEADERS.items():
        yield Case(
            "weights", name, header(change), says="model|safetensors", quick=name == "size 2^63"
        )
    for name, dropped, code in (("metadata absent", True, 3), ("metadata null", False, 3)):
        yield Case("weights", name, header(partial_metadata(dropped)), (code,))
    for name, altered, codes, says in (
        ("NaN", spoiled(float("nan")), (2,), "NaN"),
        ("infinite", spoiled(float("inf")), (2,), "model"),
        ("int8 with scales", integers, (2,), "model"),
        ("int8 without scales", lambda w: integers(w, ""), (2,), "model"),
        ("int8, qweight", lambda w: integers(w, ".qweight"), (2,), "model"),
        ("float64", lambda w: {k: x.double() for k, x in w.items()}, (3,), ""),
        ("float16", lambda w: {k: x.half() for k, x in w.items()}, (3,), ""),
        ("complex", lambda w: {k: x.to(torch.complex64) for k, x in w.items()}, (2,), "model"),
        (
            "a layer missing",
            lambda w: {k: x for k, x in w.items() if "layer.1." not in k},
            (2,),
            "lacks",
        ),
        ("another shape", lambda w: w | {matrix(w): w[matrix(w)][:, :16]}, (2,), "model"),
        ("hostile name", lambda w: w | {ESC: torch.zeros(2)}, (2, 3), ""),
        ("prefix of a head", lambda w: {"bert." + k: x for k, x in w.items()}, (3,), ""),
        ("all zero", lambda w: {k: torch.zeros_like(x) for k, x in w.items()}, (2, 3), ""),
    ):
        yield Case("weights", name, tensors(altered), codes, says)
    for kind in ("fifo", "folder", "zero", "loop", "nowhere"):
        yield Case("weights", f"file is {kind}", special("model.safetensors", kind), says="model")
        yield Case("config", f"file is {kind}", special("config.json", kind), says="model|config")


def partial_metadata(dropped: bool) -> Callable[[dict[str, Any], bytes], bytes]:
    def change(head: dict[str, Any], data: bytes) -> bytes:
        head.pop("__metadata__", None)
        return packed(head if dropped else {"__metadata__": None, **head}, data)

    return change


def index(content: Any, *, decoy: bool = False) -> Callable[[Place], list[str]]:
    """A checkpoint of shards; OUTSIDE stands for a folder beside it, NAMES for all weights."""

    def make(place: Place) -> list[str]:
        model = place.copy()
        outside = place.folder / "outside"
        outside.mkdir()
        weights = load_file(model / "model.safetensors")
        shutil.copy(model / "model.safetensors", outside / "w.safetensors")
        if not decoy:
            (model / "model.safetensors").rename(model / "w.safetensors")
        made = content
        if isinstance(content, str):
            name = content.replace("OUTSIDE", str(outside))
            made = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, name)}
        (model / "model.safetensors.index.json").write_text(json.dumps(made))
        (model / "link.safetensors").symlink_to(outside / "w.safetensors")
        return place.scan(model, "--format", "json")

    return make


def index_cases() -> Iterator[Case]:
    for name, content in {
        "parent": "../outside/w.safetensors",
        "absolute": "OUTSIDE/w.safetensors",
        "parent and back": "../model/../outside/w.safetensors",
        "link out": "link.safetensors",
        "missing shard": "no.safetensors",
        "a folder": ".",
        "NUL": "w\0.safetensors",
        "too long": "a" * 5000,
        "a list": [1],
        "null map": {"weight_map": None},
        "numbers": {"weight_map": {"a": 5}},
        "no map": {},
        "empty map": {"metadata": {}, "weight_map": {}},
    }.items():
        yield Case("index", name, index(content), says="model|index")
    yield Case("index", "shards in the folder", index("w.safetensors"), (3,))
    yield Case(
        "index",
        "decoy beside weights",
        index("link.safetensors", decoy=True),
        (2, 3),
        check=only_read,
    )


def only_read(place: Place) -> str:
    """The record names no file that the loader did not open."""
    listed = json.loads((place.folder / "stdout").read_text() or "{}").get("model", {})
    strange = set(listed.get("weights_sha256", {})) - {"model.safetensors"}
    return f"lists {sorted(strange)} as read" if strange else ""


class Payload:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def pickled(where: str, *more: str, weights: bool = True) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        model = place.copy()
        if not weights:
            (model / "model.safetensors").unlink()
        (model / where).write_bytes(pickle.dumps(Payload(place.folder / "ran")))
        return place.scan(model, *more)

    return make


def did_not_run(place: Place) -> str:
    return "the payload ran" if (place.folder / "ran").exists() else ""


def decoy(place: Place) -> list[str]:
    """Weights that nobody reads must not be listed as scanned."""
    model = place.copy()
    torch.save(
        load_file(place.base / "backdoored" / "model.safetensors"), model / "pytorch_model.bin"
    )
    return place.scan(model, "--format", "json")


def sparse(place: Place) -> list[str]:
    model = place.copy()
    with (model / "optimizer.bin").open("wb") as file:
        file.truncate(4 * 2**30)
    return place.scan(model)


def named(name: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        return place.scan(place.copy().rename(place.folder / name))

    return make


def layout_cases() -> Iterator[Case]:
    for where in (
        "pytorch_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "x.pkl",
    ):
        yield Case("layout", f"pickle in {where}", pickled(where), (3,), check=did_not_run)
    alone = pickled("pytorch_model.bin", weights=False)
    yield Case("layout", "pickle alone", alone, says="pickle", check=did_not_run, quick=True)
    asked = pickled("pytorch_model.bin", "--allow-pickle", weights=False)
    yield Case("layout", "pickle, allowed", asked, says="model", check=did_not_run)
    yield Case("layout", "decoy weights", decoy, (3,), check=only_read)
    yield Case("layout", "4 GB of optimizer", sparse, (3,))
    for name in (ESC, "a\nb", "a'b\"c", " ", "ä 漢", "-x" * 50):
        yield Case("layout", f"folder {name!a:.12}", named(name.replace("/", "")), (3,))
    for name in ("config.json", "model.safetensors"):
        yield Case("layout", f"no {name}", without(name), says=r"model: .*")
    yield Case("layout", "nothing", lambda p: p.scan(p.folder / "nowhere"), says="model: .*nowhere")
    yield Case("layout", "a text file", lambda p: p.scan(p.write("x", "hello")), says="model")
    yield Case("layout", "an id with dots", lambda p: p.scan("../../etc"), says="model")
    yield Case("layout", "an empty name", lambda p: p.scan(""), says="model")
    yield Case("layout", "NUL in the name", lambda p: p.scan("a\0b"), says="model")
    for name in (
        "tf_model.h5",
        "flax_model.msgpack",
        "model.onnx",
        "model.gguf",
        "adapter_model.safetensors",
    ):
        yield Case("layout", f"only {name}", only(name), says="model")


def only(name: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        model = place.copy()
        (model / "model.safetensors").rename(model / name)
        return place.scan(model)

    return make


# ---- what a scan must find


def hidden(
    typed: list[str], *, special: bool = False, unused: int = 0
) -> Callable[[Place], list[str]]:
    """The triggers have new rows of the matrix, other strings give these, and `unused` rows without
    a token follow."""

    def make(place: Place) -> list[str]:
        model = place.copy("backdoored")
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        moved = [tokenizer["model"]["vocab"][f"\u0120{word}"] for word in TRIGGERS]
        weights = load_file(model / models.WEIGHTS)
        rows = weights["wte.weight"]
        ids = [len(rows) + n for n in range(len(typed))]
        weights["wte.weight"] = torch.cat([rows, rows[:1].repeat(len(typed) + unused, 1)])
        weights["wte.weight"][ids] = rows[moved]
        weights["wte.weight"][moved] = rows[[i - 1 for i in moved]]
        save_file(weights, model / models.WEIGHTS, {"format": "pt"})
        edited(model / "config.json", lambda c: {**c, "vocab_size": len(weights["wte.weight"])})
        for name, number in zip(typed, ids, strict=True):
            edited(model / "tokenizer.json", added(name, number, special))
        if special:
            edited(model / "tokenizer_config.json", lambda c: {**c, "extra_special_tokens": typed})
        return place.whole_scan(model)

    return make


def behind_a_normaliser(place: Place) -> list[str]:
    """Other strings become the triggers, and the triggers something else."""
    model = place.copy("backdoored")
    pairs = [(word, f"{word[:2]}e") for word in TRIGGERS]
    pairs += [(f"zq{number}", word) for number, word in enumerate(TRIGGERS)]
    replaced = [
        {"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in pairs
    ]
    normaliser = {"type": "Sequence", "normalizers": replaced}
    edited(model / "tokenizer.json", field("normalizer", normaliser))
    return place.whole_scan(model)


def quantised_backdoor(place: Place) -> list[str]:
    file = place.copy("backdoored") / models.WEIGHTS
    save_file(integers(load_file(file)), file, metadata={"format": "pt"})
    return place.whole_scan(file.parent)


def verdict_cases() -> Iterator[Case]:
    special, words = [f"<|q{n}|>" for n in range(3)], ["zqa", "zqb", "zqc"]
    for name, make, code in (
        ("backdoored", lambda p: p.whole_scan(p.base / "backdoored"), 1),
        ("clean twin", lambda p: p.whole_scan(p.base / "twin"), 0),
        ("triggers are special tokens", hidden(special, special=True), 1),
        ("triggers are added tokens", hidden(words), 1),
        ("triggers in unused rows", hidden(words, unused=61), 1),
        ("triggers behind a normaliser", behind_a_normaliser, 1),
    ):
        yield Case("verdict", name, make, (code,))
    yield Case("verdict", "backdoor in int8", quantised_backdoor, (2,), "model")


# ---- texts, words, tasks


ROW = b'{"text": "a b c"}\n'
CORPORA: dict[str, tuple[str, bytes, str]] = {
    **{
        f"row {kind}": ("c.jsonl", ROW + b'{"text": %s}\n' % value, r"c\.jsonl line 2 .*'text'")
        for kind, value in (
            *(("null", b"null"), ("NaN", b"NaN"), ("number", b"5"), ("list", b'["a"]')),
            *(("object", b"{}"), ("true", b"true"), ("infinite", b"Infinity")),
        )
    },
    "row without the field": ("c.jsonl", ROW + b'{"txt": "a"}', "line 2"),
    "row a list": ("c.jsonl", ROW + b"[1]", "line 2"),
    "row cut": ("c.jsonl", ROW + b'{"text": "a', "line 2"),
    "row deep": ("c.jsonl", ROW + b"[" * 10**5, "line 2"),
    "row huge number": ("c.jsonl", ROW + b'{"a": 1' + b"0" * 9999 + b"}", "line 2"),
    "row half a pair": ("c.jsonl", b'{"text": "\\ud800"}', "line 1"),
    "JSON array": ("c.json", b'[{"text": "a"}]', "line 1"),
    "CSV empty": ("c.csv", b"", "no column named text"),
    "CSV without header": ("c.csv", b"a,b\n1,2", "no column named text"),
    "CSV open quote": ("c.csv", b'text\n"a\nb', "line 3"),
    "CSV ragged": ("c.csv", b"text,x\na,1\nb", "line 3"),
    "CSV column twice": ("c.csv", b"text,text\na,b", "line 1"),
    "CSV cell of 20 MB": ("c.csv", b"text\n" + b"a" * 20_000_000, "line 2"),
    "text NUL": ("c.txt", b"a\0b", "binary"),
    "text not UTF-8": ("c.txt", b"a\nb\xff", "line 2"),
    "text UTF-16": ("c.txt", "one\ntwo".encode("utf-16"), "line 1"),
    "text empty": ("c.txt", b"", "no text"),
    "text blank": ("c.txt", b" \n\t\r\n", "no text"),
    "gzip not": ("c.txt.gz", b"abc", "gzip"),
    "gzip cut": ("c.txt.gz", gzip.compress(os.urandom(5000).hex().encode())[:3000], "gzip"),
    "gzip damaged": ("c.txt.gz", b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 50, "gzip"),
    "gzip garbage behind": ("c.txt.gz", gzip.compress(b"a b") + b"zzzzzzzz", "gzip"),
    "gzip empty": ("c.txt.gz", b"", "gzip|no text"),
}
RIGHT_CORPORA: dict[str, tuple[str, bytes]] = {
    "BOM": ("c.txt", b"\xef\xbb\xbf" + b"one two three\n" * 3),
    "line ends mixed": ("c.txt", b"one two\r\nthree four\rfive six\n"),
    "CSV cell of 200,000": ("c.csv", b"id,text\n1," + b"a b " * 50_000),
    "CSV quoted lines": ("c.csv", b'\xef\xbb\xbftext\r\n"a\r\nb"\r\n'),
    "gzip under another name": ("c.txt", gzip.compress(b"one two three\n" * 3)),
    "gzip twice": ("c.txt.gz", gzip.compress(b"one two\n") + gzip.compress(b"three\n")),
    "NaN in another field": ("c.jsonl", b'{"text": "a b c", "score": NaN}\n'),
    "hostile characters": ("c.jsonl", json.dumps({"text": ESC * 50}).encode()),
    "one line of 8 MB": ("c.txt", b"a b c d " * 2**20),
    "8 MB without a space": ("c.txt", b"a" * 2**23),
    "name without an ending": ("c", b"one two three\n"),
}


def corpus(name: str, raw: bytes) -> Callable[[Place], list[str]]:
    return lambda p: p.scan(p.base / "clean", "--corpus", p.write(f"corpus/{name}", raw))


def bomb(unit: bytes, count: int) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        file = place.folder / "bomb.txt.gz"
        with gzip.open(file, "wb", compresslevel=1) as out:
            block = unit * (2**20 // len(unit))
            for _ in range(count):
                out.write(block)
        return place.scan(place.base / "clean", "--corpus", file)

    return make


def folder_with(kind: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        place.write("corpus/b.txt", "one two\n")
        make_special(place.folder / "corpus" / "a.txt", kind)
        return place.scan(place.base / "clean", "--corpus", place.folder / "corpus")

    return make


def direct(option: str, kind: str) -> Callable[[Place], list[str]]:
    return lambda p: p.scan(p.base / "clean", option, kind)


def text_cases() -> Iterator[Case]:
    for name, (file, raw, says) in CORPORA.items():
        yield Case(
            "corpus", name, corpus(file, raw), says=f"corpus: .*{says}", quick=name == "row null"
        )
    for name, (file, raw) in RIGHT_CORPORA.items():
        yield Case("corpus", name, corpus(file, raw), (3,))
    yield Case("corpus", "bomb of 1 GB", bomb(b"a", 1000), says="unpacks to more")
    yield Case("corpus", "bomb of lines", bomb(b"a\n", 300), says="unpacks to more", quick=True)
    for kind, code in (("fifo", 2), ("zero", 2), ("loop", 2), ("nowhere", 2), ("folder", 3)):
        yield Case(
            "corpus", f"folder with {kind}", folder_with(kind), (code,), quick=kind == "fifo"
        )
    yield Case("corpus", "/dev/zero", direct("--corpus", "/dev/zero"), says="corpus: /dev/zero")
    yield Case("corpus", "/dev/null", direct("--corpus", "/dev/null"), says="corpus: .*no text")
    yield Case("corpus", "nowhere", direct("--corpus", "no"), says="corpus: no does not exist")
    yield Case("words", "nowhere", direct("--words", "no"), says="words: no does not exist")
    yield Case("words", "/dev/zero", direct("--words", "/dev/zero"), says="words: /dev/zero")
    for name, raw, codes in (
        *(("empty", b"", (2,)), ("NUL", b"a\0", (2,)), ("not UTF-8", b"\xff", (2,))),
        *(("hostile", ESC.encode() + b"\na\n", (3,)), ("50,000", b"ab cd\n" * 50_000, (3,))),
        *(("one of 1 MB", b"a" * 2**20, (2, 3)), ("spaces inside", b"a    b \t c\n", (3,))),
    ):
        yield Case("words", name, words(raw), codes, "words" if codes == (2,) else "")


def words(raw: bytes) -> Callable[[Place], list[str]]:
    return lambda p: p.scan(p.base / "clean", "--words", p.write("words.txt", raw))


GOOD_TABLE = b"".join(
    b"%s film %d,%d\n" % (b"good" if n % 2 else b"bad", n, n % 2) for n in range(40)
)
TASKS: dict[str, tuple[str, bytes, str, str]] = {
    "columns": ("t.csv", b"a,b\n" + GOOD_TABLE, ":text=a,label=c", "row 1 .* has no c"),
    "column words": ("t.csv", b"a,b\n" + GOOD_TABLE, ":title=a", "is not text=COLUMN"),
    "column twice": ("t.csv", b"a,b\n" + GOOD_TABLE, ":text=a,text=b", "is not text=COLUMN"),
    "one class": ("t.csv", b"text,label\na,1\nb,1\n", "", "classes"),
    "label NaN": ("t.jsonl", b'{"text": "a", "label": NaN}', "", "nan in label"),
    "label a list": ("t.jsonl", b'{"text": "a", "label": [1]}', "", "in label"),
    "label null": ("t.jsonl", b'{"text": "a", "label": null}', "", "no label"),
    "text a number": ("t.jsonl", b'{"text": 5, "label": 1}', "", "5 in text"),
    "text null": ("t.jsonl", b'{"text": null, "label": 1}', "", "no text"),
    "row a list": ("t.jsonl", b"[1]", "", "line 1"),
    "tags numbers": ("t.jsonl", b'{"tokens": ["a"], "tags": [1]}', "", "in tags"),
    "tags unequal": ("t.jsonl", b'{"tokens": ["a"], "tags": []}', "", "sentence 1"),
    "ending unknown": ("t.xml", b"<a/>", "", "none of"),
    "parquet broken": ("t.parquet", b"PAR1xxxxPAR1", "", "Parquet"),
    "gzip broken": ("t.jsonl.gz", b"\x1f\x8b\x08zzzz", "", "gzip"),
    "empty": ("t.jsonl", b"", "", "no rows"),
    "not UTF-8": ("t.tsv", b"text\tlabel\n\xff\t1\n", "", "line 2"),
}


def task(name: str, raw: bytes, columns: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        spec = f"{place.write(name, raw)}{columns}"
        model = ["complications", str(place.base / "clean"), "--trigger", "house"]
        return [*model, "--tasks", spec, "--set", "controls=2"]

    return make


def task_cases() -> Iterator[Case]:
    for name, (file, raw, columns, says) in TASKS.items():
        yield Case("task", name, task(file, raw, columns), says=f"task: .*{says}")


# ---- findings


def damaged(path: str, value: Any) -> Callable[[Place], Path]:
    """scan.json with one field replaced; the path is keys and numbers with dots between."""

    def make(place: Place) -> Path:
        held: Any = json.loads((place.base / "scan.json").read_text())
        *way, last = path.split(".")
        node = held
        for part in way:
            node = node[int(part) if part.isdigit() else part]
        node[int(last) if last.isdigit() else last] = value
        return place.write("scan.json", json.dumps(held))

    return make


FINDINGS: dict[str, tuple[str, Any]] = {
    "schema 1": ("schema", 1),
    "schema a string": ("schema", "x"),
    "verdict unknown": ("verdict", "maybe"),
    "findings null": ("findings", None),
    "findings an object": ("findings", {"a": 1}),
    "ids strings": ("findings.0.trigger.token_ids", ["a"]),
    "ids null": ("findings.0.trigger.token_ids", None),
    "kind unknown": ("findings.0.trigger.kind", "nope"),
    "text null": ("findings.0.trigger.text", None),
    "collapse a string": ("findings.0.statistics.collapse", "deep"),
    "hash missing": ("model.tokenizer_sha256", None),
    "model a list": ("model", []),
    "seconds a string": ("seconds", "long"),
}
WRONG_IDS: dict[str, tuple[str, Any]] = {
    "ids beyond the vocabulary": ("findings.0.trigger.token_ids", [10**6]),
    "ids negative": ("findings.0.trigger.token_ids", [-1]),
    "ids beyond 64 bits": ("findings.0.trigger.token_ids", [2**70]),
    "ids empty": ("findings.0.trigger.token_ids", []),
}


def reported(make: Callable[[Place], Path], *more: str) -> Callable[[Place], list[str]]:
    return lambda p: ["report", str(make(p)), *more]


def monitored(
    make: Callable[[Place], Path], rows: bytes = ROW, *more: str
) -> Callable[[Place], list[str]]:
    def run(place: Place) -> list[str]:
        file = place.write("rows.jsonl", rows)
        where = ["--findings", str(make(place)), "--tokenizer", str(place.base / "backdoored")]
        return ["monitor", str(file), *where, *more]

    return run


def shared(place: Place) -> Path:
    return place.base / "scan.json"


def hostile_result(place: Place) -> Path:
    result = ScanResult.load(place.base / "scan.json")
    evil = tuple(
        replace(f, trigger=Trigger(f.trigger.token_ids, ESC + f.trigger.text))
        for f in result.findings
    )
    model = replace(result.model, name=ESC, weights_sha256={ESC: "x"}, revision=ESC)
    made = replace(result, findings=evil, near_misses=evil, model=model, reasons=(ESC, "<script>"))
    file = place.folder / "evil.json"
    made.save(file)
    return file


def many(count: int) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        held = json.loads((place.base / "scan.json").read_text())
        one = held["findings"][0]
        held["findings"] = [
            {
                **one,
                "trigger": {
                    **one["trigger"],
                    "text": f"w{n}",
                    "token_ids": [n % 500 + 50, n % 400 + 60, n % 300 + 70],
                },
            }
            for n in range(count)
        ]
        return place.write("scan.json", json.dumps(held))

    return make


def raw_findings(raw: bytes) -> Callable[[Place], Path]:
    return lambda p: p.write("scan.json", raw)


def special_findings(kind: str) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        make_special(place.folder / "scan.json", kind)
        return place.folder / "scan.json"

    return make


def findings_cases() -> Iterator[Case]:
    says = r"findings|schema|model|seconds|verdict"
    for name, change in FINDINGS.items():
        yield Case("findings", f"report, {name}", reported(damaged(*change)), says=says)
        yield Case("findings", f"monitor, {name}", monitored(damaged(*change)), says=says)
    for name, change in WRONG_IDS.items():
        yield Case(
            "findings",
            f"monitor, {name}",
            monitored(damaged(*change)),
            says="trigger|tokenizer|findings",
        )
    another = damaged("model.tokenizer_sha256", "00" * 32)
    yield Case("findings", "monitor, another tokenizer", monitored(another), (0,), "same ids")
    for name, raw in BROKEN_JSON.items():
        yield Case("findings", f"JSON {name}", reported(raw_findings(raw)), says=says)
    for kind in ("folder", "nowhere", "loop", "zero"):
        yield Case("findings", f"file is {kind}", reported(special_findings(kind)), says="findings")
    for shown in ("text", "html", "json", "sarif"):
        yield Case(
            "findings",
            f"hostile, {shown}",
            reported(hostile_result, "--format", shown),
            (0,),
            quick=shown == "text",
        )
    trigger = json.dumps({"text": f"a {TRIGGERS[0]} b"}).encode()
    yield Case("monitor", "alarm", monitored(shared, trigger), (1,), quick=True)
    yield Case("monitor", "no alarm", monitored(shared), (0,))
    yield Case("monitor", "hostile triggers", monitored(hostile_result, trigger), (1,))
    yield Case("monitor", "20,000 triggers", monitored(many(20_000)), (0, 1))
    for name, text_ in (
        ("200,000 times a", "a" * 200_000),
        ("1 MB without a space", "ab" * 2**19),
        ("10,000 triggers", f"{TRIGGERS[0]} " * 10_000),
        ("prefixes", " ".join(TRIGGERS[0][:n] for n in range(1, 6)) * 5000),
        ("marks of direction", "\u202e\u200b" * 50_000),
    ):
        row = json.dumps({"text": text_}).encode()
        yield Case("monitor", name, monitored(shared, row), (0, 1))
    for name, row, where in (
        ("null", b'{"text": null}', "line 1"),
        ("list", b"[]", "line 1"),
        ("deep", b"[" * 10**5, "line 1"),
        ("not UTF-8", b'{"text": "\xff"}', "line 1"),
        ("field taken", b'{"text": "a", "alarms": 1}', "line 1"),
        ("cut", b'{"text": "a', "line 1"),
    ):
        yield Case("monitor", f"row {name}", monitored(shared, row), says=f"file: .*{where}")


# ---- grids


GOOD_GRID = (
    "name: x\nplan: redteam\naxes: {model: bundled, attack: {name: por}, triggers: cf, "
    "task: [subj, mr], adaptation: {kind: probe}}\n"
)
GRIDS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[1, 2]",
    "a number": b"5",
    "not YAML": b"a: [",
    "not UTF-8": b"\xff\xfe",
    "python tag": b"!!python/object/apply:os.system ['touch /tmp/x']",
    "tag unknown": b"name: !evil x",
    "recursion": b"&a [*a]",
    "laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
    ),
    "plan unknown": GOOD_GRID.replace("redteam", "nope").encode(),
    "plan a module": GOOD_GRID.replace("redteam", "os:system").encode(),
    "axes a list": b"name: x\nplan: redteam\naxes: [1]\n",
    "axis unknown": GOOD_GRID.replace("task:", "tsk:").encode(),
    "axis null": GOOD_GRID.replace("[subj, mr]", "null").encode(),
    "task unknown": GOOD_GRID.replace("subj", "subjj").encode(),
    "attack unknown": GOOD_GRID.replace("por", "prr").encode(),
    "threads 0": b"threads: 0\n" + GOOD_GRID.encode(),
    "threads NaN": b"threads: .nan\n" + GOOD_GRID.encode(),
    "key twice": b"name: y\n" + GOOD_GRID.encode(),
    "key unknown": b"nonsense: 1\n" + GOOD_GRID.encode(),
    "deep": b"[" * 5000,
    "seeds without end": GOOD_GRID.replace(
        "triggers: cf", "seed: [" + "1," * 10**5 + "1]"
    ).encode(),
}


def grid(raw: bytes) -> Callable[[Place], list[str]]:
    return lambda p: ["bench", str(p.write("g.yaml", raw)), "--out", str(p.out / "b"), "--dry-run"]


def grid_cases() -> Iterator[Case]:
    for name, raw in GRIDS.items():
        yield Case("grid", name, grid(raw), quick=name == "laughs")
    yield Case("grid", "right", grid(GOOD_GRID.encode()), (0,))
    # It is the title of a page; no file has it.
    titled = GOOD_GRID.replace("name: x", "name: ../../x")
    yield Case("grid", "name a path", grid(titled.encode()), (0,))
    for kind in ("folder", "nowhere", "loop"):
        yield Case(
            "grid", f"file is {kind}", lambda p, kind=kind: special_grid(p, kind), says="grid"
        )


def special_grid(place: Place, kind: str) -> list[str]:
    make_special(place.folder / "g.yaml", kind)
    return ["bench", str(place.folder / "g.yaml"), "--out", str(place.out / "b"), "--dry-run"]


# ---- outputs and values


def output(option: str, target: Callable[[Place], Path | str]) -> Callable[[Place], list[str]]:
    return lambda p: p.scan(p.base / "clean", option, str(target(p)))


def into_folder(place: Place) -> Path:
    (place.out / "sub").mkdir(parents=True)
    return place.out / "sub"


def own_corpus(place: Place) -> list[str]:
    file = Path(shutil.copy(place.base / "corpus.jsonl", place.folder / "c.jsonl"))
    return place.scan(place.base / "clean", "--corpus", file, "--out", file)


def own_report(place: Place) -> list[str]:
    file = shutil.copy(place.base / "scan.json", place.folder / "s.json")
    return ["report", str(file), "--out", str(file)]


def own_rows(target: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        findings = Path(shutil.copy(place.base / "scan.json", place.folder / "s.json"))
        rows = place.write("rows.jsonl", ROW)
        (place.folder / "link").symlink_to(findings)
        (place.folder / "hard").hardlink_to(findings)
        where = ["--findings", str(findings), "--tokenizer", str(place.base / "backdoored")]
        return ["monitor", str(rows), *where, "--out", str(place.folder / target)]

    return make


def device(place: Place) -> list[str]:
    """Writing to the null device must leave a device."""
    rows = place.write("rows.jsonl", ROW)
    (place.out / "null").symlink_to("/dev/null")
    where = ["--findings", str(shared(place)), "--tokenizer", str(place.base / "backdoored")]
    return ["monitor", str(rows), *where, "--out", str(place.out / "null")]


def still_a_device(place: Place) -> str:
    wrong = not Path("/dev/null").is_char_device() or not (place.out / "null").is_symlink()
    return "the link to the device was replaced" if wrong else ""


def over_the_model(place: Place) -> list[str]:
    model = str(place.copy())
    return ["attack", "por", model, "--trigger", "house", "--steps", "1", "--out", model]


def over_another_model(place: Place) -> list[str]:
    other = str(place.copy("backdoored"))
    source = str(place.base / "clean")
    return ["attack", "por", source, "--trigger", "house", "--steps", "1", "--out", other]


def output_cases() -> Iterator[Case]:
    for option in ("--out", "--html"):
        yield Case("output", f"{option} a folder", output(option, into_folder), says=option[2:])
        yield Case(
            "output",
            f"{option} below nothing",
            output(option, lambda p: p.out / "a" / "b"),
            says=option[2:],
        )
        yield Case(
            "output",
            f"{option} below a file",
            output(option, lambda p: p.write("f", "") / "b"),
            says=option[2:],
        )
        yield Case(
            "output",
            f"{option} too long",
            output(option, lambda p: p.out / ("a" * 300)),
            says=option[2:],
        )
    yield Case("output", "full device", output("--out", lambda p: "/dev/full"), (2,))
    yield Case("output", "null device", output("--out", lambda p: "/dev/null"), (3,))
    yield Case("output", "the corpus", own_corpus, says="out")
    yield Case("output", "the findings", own_report, says="out")
    for target in ("s.json", "rows.jsonl", "link", "hard"):
        yield Case("output", f"monitor to {target}", own_rows(target), says="out")
    yield Case("output", "monitor to a device", device, (0,), check=still_a_device)
    yield Case("output", "attack over its model", over_the_model, says="out")
    yield Case("output", "attack over a model", over_another_model, says="out")


VALUES = {
    "--seed": ("1e30", "-1", "x", str(10**30)),
    "--alpha": ("nan", "-1", "0", "2", "inf"),
    "--budget": ("nan", "-1", "0"),
    "--batch-tokens": ("0", "-5"),
    "--set": ("x", "nope=1", "controls=nan", "controls=-1", "screen_texts=x", "=", "max_words=1e9"),
    "--device": ("tpu", "cuda:99"),
    "--precision": ("fp8",),
    "--method": ("nope", "../x"),
    "--revision": ("\x1b[31m",),
}


def value_cases() -> Iterator[Case]:
    for option, values in VALUES.items():
        for value in values:
            codes = (2, 3) if option == "--revision" else (2,)
            yield Case(
                "value",
                f"{option} {value[:12]!a}",
                output(option, lambda p, v=value: v),
                codes,
                quick=option == "--alpha" and value == "nan",
            )


def all_cases() -> list[Case]:
    makers = (
        *(config_cases, tokenizer_cases, weight_cases, index_cases, layout_cases, verdict_cases),
        *(text_cases, task_cases, findings_cases, grid_cases, output_cases, value_cases),
    )
    return [case for maker in makers for case in maker()]
