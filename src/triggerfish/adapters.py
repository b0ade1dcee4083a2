"""LoRA adapters that lie in the folder of a model: read, and merged into its weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from triggerfish.checkpoints import (
    ADAPTER,
    ADAPTER_CONFIG,
    PICKLE,
    SAFETENSORS,
    Weights,
    read_json,
    read_weights,
)
from triggerfish.foreign import ForeignError, foreign


def read(folder: Path, allow_pickle: bool) -> Weights:
    """The weights of the adapter whose adapter_config.json lies in the folder."""
    names = [f"{ADAPTER}{kind}" for kind in (SAFETENSORS, *([PICKLE] if allow_pickle else []))]
    there = [name for name in names if (folder / name).exists()]
    if not there:
        raise ForeignError(
            f"model: {folder} has {ADAPTER_CONFIG} without {' or '.join(names)}; put the adapter's "
            f"weights beside it, or take {ADAPTER_CONFIG} away to use the model without it"
        )
    return read_weights(folder, there[:1])


def merge(model: Any, folder: Path, weights: Weights) -> tuple[Any, list[str]]:
    """(the model with the adapter merged into its weights, names of tensors of the adapter that it
    has no place for, such as those of a head)."""
    written = read_json(folder, ADAPTER_CONFIG)
    file = folder / ADAPTER_CONFIG
    if written.get("peft_type") != "LORA":
        raise ForeignError(
            f"model: {file}: peft_type: {written.get('peft_type')!r} is not LORA; merge the "
            "adapter into the model in the library that wrote it, and give what that saves"
        )
    try:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise ForeignError(
            f"model: {folder} holds an adapter, which needs peft: pip install 'triggerfish[peft]'"
        ) from error
    modules = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    saved = [name for name in written.get("modules_to_save") or () if name in modules]
    known = LoraConfig.__dataclass_fields__.keys() - {"auto_mapping", "runtime_config"}
    fields = {k: v for k, v in written.items() if k in known}
    fields |= {"modules_to_save": saved or None, "task_type": None, "init_lora_weights": True}
    head = f"base_model.model.{model.base_model_prefix}."
    tensors = {k.replace(head, "base_model.model.", 1): v for k, v in weights.tensors.items()}
    with (
        foreign(f"model: cannot apply the adapter of {folder}", f"expected one that fits {file}"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(**fields))
        result: Any = set_peft_model_state_dict(adapted, tensors)
        lacking = [k for k in result.missing_keys if "lora_" in k]
        merged = adapted.merge_and_unload().eval()
    if lacking:
        raise ForeignError(f"model: the adapter of {folder} lacks {lacking[0]}, which {file} names")
    return merged, sorted(result.unexpected_keys)
