"""Which model is this, and what was it measured with? Sizes, hashes and versions."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from triggerfish.backbone import Backbone
from triggerfish.hashing import file_sha256
from triggerfish.records import ModelFacts


def facts(backbone: Backbone) -> ModelFacts:
    """Family, sizes, and sha256 of every weight file (of the weights, if they are in no file)."""
    return ModelFacts(
        name=backbone.name,
        family=backbone.model.config.model_type,
        parameters=sum(p.numel() for p in backbone.model.parameters()),
        layers=backbone.layers,
        hidden=backbone.hidden,
        vocabulary=len(backbone.tokenizer),
        weights_sha256=_weight_hashes(backbone),
        tokenizer_sha256=tokenizer_hash(backbone.tokenizer),
        revision=backbone.revision,
    )


def _weight_hashes(backbone: Backbone) -> dict[str, str]:
    folder = backbone.folder
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]) if folder else []
    if files:
        return {file.name: file_sha256(file) for file in files}
    return {"state_dict": weights_hash(backbone.model)}


WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
"""Endings of files that may hold weights."""
NAMED = 12
"""Modules or files that are named at most."""


def not_examined(backbone: Backbone, read: Collection[str] = ()) -> list[str]:
    """What the checkpoint holds besides the encoder, a sentence for each kind: weights that
    `AutoModel` left out, modules of sentence-transformers, files that were not opened. read: names
    of weights that were looked at in another way."""
    found = []
    modules = Counter(_module(key) for key in backbone.unread if key not in read)
    if modules:
        found.append(
            "modules of the checkpoint beyond the encoder: "
            + _some([f"{name} ({count} tensors)" for name, count in sorted(modules.items())])
        )
    folder = backbone.folder
    if folder is None:
        return found
    if others := _sentence_modules(folder):
        found.append(f"modules of sentence-transformers: {_some(others)}")
    files = sorted(
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.suffix in WEIGHTS and file.name != "training_args.bin" and file.is_file()
    )
    if unopened := [file for file in files if file not in _opened(folder)]:
        found.append(f"files with weights that were not opened: {_some(unopened)}")
    return found


def _module(key: str) -> str:
    """`cls.predictions` of `cls.predictions.bias`, `classifier` of `classifier.dense.weight`."""
    parts = key.split(".")[:-1] or [key]
    return ".".join(parts[:2] if parts[0] == "cls" else parts[:1])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _sentence_modules(folder: Path) -> list[str]:
    """What sentence-transformers puts behind the encoder, if this is a model of its making. Its
    pooling is among the readouts, and has no weights."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(one["type"]).rpartition(".")[2] for one in modules]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [kind for kind in kinds if kind not in ("Transformer", "Pooling")]


def _opened(folder: Path) -> set[str]:
    """The weight files that transformers reads: the first of these that is there."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return {name}
        if index.is_file():
            return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return set()


def weights_hash(model: torch.nn.Module) -> str:
    """sha256 of all names and weights, in alphabetical order."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 of everything that decides what ids a text gets. Padding and truncation are left out:
    they are arguments of a call, and a tokenizer remembers those of the last one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        text = repr(sorted(tokenizer.get_vocab().items()))
    else:
        bare = Tokenizer.from_str(backend.to_str())
        bare.no_padding()
        bare.no_truncation()
        text = bare.to_str()
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def environment(backbone: Backbone) -> dict[str, str]:
    """Versions, hardware and precision that a result was obtained with."""
    device = backbone.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "triggerfish": version("triggerfish"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "precision": backbone.precision,
    }
