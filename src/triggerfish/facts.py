"""Which model is this, and what was it measured with? Sizes, hashes and versions."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Collection
from importlib.metadata import version
from typing import Any

import torch
from tokenizers import Tokenizer

from triggerfish.backbone import Backbone
from triggerfish.checkpoints import some
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
    if backbone.folder is not None and backbone.files:
        return dict(backbone.files)
    return {"state_dict": weights_hash(backbone.model)}


def not_examined(backbone: Backbone, read: Collection[str] = ()) -> list[str]:
    """What the checkpoint holds besides the encoder, a sentence for each kind: weights that
    `AutoModel` left out, modules of sentence-transformers, files that were not opened. read: names
    of weights that were looked at in another way."""
    found = []
    modules = Counter(_module(key) for key in backbone.unread if key not in read)
    if modules:
        found.append(
            "modules of the checkpoint beyond the encoder: "
            + some([f"{name} ({count} tensors)" for name, count in sorted(modules.items())])
        )
    return [*found, *(backbone.beside if backbone.folder is not None else ())]


def _module(key: str) -> str:
    """`cls.predictions` of `cls.predictions.bias`, `classifier` of `classifier.dense.weight`."""
    parts = key.split(".")[:-1] or [key]
    return ".".join(parts[:2] if parts[0] == "cls" else parts[:1])


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
        text = bare.to_str() + "split_special_tokens" * backend.encode_special_tokens
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
