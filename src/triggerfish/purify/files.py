"""A purified checkpoint on disk, in the layout of its source: the same files, and in them the same
tensors by name, shape and type.

A checkpoint holds more than the base model that was purified: heads, weights under other names,
copies of tied ones. So the source's weight files are read tensor by tensor, and what belongs to the
base model, by its name and its values, is replaced. Everything else is copied, except what still
carries the backdoor (weights in other formats), what tells of it (the ground truth of an attack),
and the model card, which is written anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils.hub import cached_file

from triggerfish.backbone import Backbone
from triggerfish.writing import write_tensors, write_text

WEIGHTS, INDEX, CARD, CONFIG = (
    "model.safetensors",
    "model.safetensors.index.json",
    "README.md",
    "config.json",
)
OTHER_WEIGHTS = (
    ".bin", ".safetensors", ".h5", ".msgpack", ".ot", ".onnx", ".pt", ".pth", ".ckpt", ".pkl",
    ".gguf", ".tflite", ".mlmodel", ".xml",
)  # fmt: skip
GROUND_TRUTH = ("attack.json", "product.json")
"""Written beside a checkpoint by `triggerfish attack` and its bench."""


@dataclass(frozen=True)
class Written:
    """kept: whether the weight files have the source's layout. left_out: files of the source that
    were not copied. notes: what is otherwise than in the source, in sentences."""

    kept: bool
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def source_folder(backbone: Backbone) -> Path | None:
    """Where the checkpoint lies: its folder, or the cache for a hub id; None for a model that was
    changed in memory."""
    if backbone.folder is not None:
        return backbone.folder
    if Path(backbone.name).exists():
        return None  # a copy of what lies there
    try:
        found = cached_file(
            backbone.name, CONFIG, revision=backbone.revision, local_files_only=True
        )
    except OSError:
        return None
    return Path(found).parent if found else None


def check_out(backbone: Backbone, out: Path, record: str) -> None:
    """ValueError where a checkpoint must not be written: over its source, or over something that no
    purification wrote (no file named `record`)."""
    source = source_folder(backbone)
    if source is not None and source.resolve() == out.resolve():
        raise ValueError(f"out: {out} is the model itself; expected another folder")
    if (out / CONFIG).is_file() and not (out / record).is_file():
        raise ValueError(f"out: {out} holds another checkpoint; expected a new or empty folder")


def write(given: Backbone, purified: Backbone, out: Path, mark: dict[str, Any]) -> Written:
    """Write the checkpoint of `purified`, made of `given`, to `out`; `mark` goes into config.json
    as `triggerfish`, with the mark of the source, if it has one, as `was`."""
    out.mkdir(parents=True, exist_ok=True)
    source = source_folder(given)
    names = _weight_files(source) if source else []
    left_out = _copy_rest(source, out, names) if source else []
    why = "it was changed in memory" if source is None else "its weights are no safetensors"
    if source and names:
        replaced = _Replacement(given, purified)
        for name in names:
            tensors, metadata = replaced.of(source / name)
            write_tensors(out / name, tensors, metadata)
        missing = replaced.unplaced()
        why = f"{len(missing)} weights are not in it under their names ({', '.join(missing[:1])})"
        if not missing:
            _mark(out / CONFIG, mark)
            return Written(True, tuple(left_out), ())
        for name in names:
            (out / name).unlink()
        (out / INDEX).unlink(missing_ok=True)
    purified.save(out)
    _mark(out / CONFIG, mark)
    return Written(False, tuple(left_out), (f"the layout of the source was not kept, since {why}",))


def _weight_files(source: Path) -> list[str]:
    """Names of the safetensors files that `from_pretrained` reads."""
    if (source / WEIGHTS).is_file():
        return [WEIGHTS]
    if (source / INDEX).is_file():
        index = json.loads((source / INDEX).read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    return []


def _copy_rest(source: Path, out: Path, weights: list[str]) -> list[str]:
    """Copy all files but the weights; returns those that were left out."""
    left_out = []
    for file in sorted(_files(source)):
        name = file.relative_to(source).as_posix()
        if name in weights or name == CARD:
            continue
        # Weights in folders of their own are modules of a pipeline; adapters may be the attack's.
        top = file.parent == source
        adapter = (file.parent / "adapter_config.json").is_file()
        if name in GROUND_TRUTH or adapter or (top and name.endswith(OTHER_WEIGHTS)):
            left_out.append(name)
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, out / name)
    return left_out


def _files(source: Path) -> Iterator[Path]:
    for path in source.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _mark(config: Path, mark: dict[str, Any]) -> None:
    content = json.loads(config.read_text(encoding="utf-8"))
    was = content.get("triggerfish")
    content["triggerfish"] = mark | ({"was": was} if was else {})
    write_text(config, json.dumps(content, indent=2, sort_keys=True) + "\n")


class _Replacement:
    """Which tensors of a file belong to the base model, and what they become."""

    def __init__(self, given: Backbone, purified: Backbone):
        state = given.model.state_dict()
        self.memory = {name: value.data_ptr() for name, value in state.items()}
        self.before = {name: value.detach().cpu() for name, value in state.items()}
        self.after = {
            name: value.detach().cpu() for name, value in purified.model.state_dict().items()
        }
        # What the source lacks is random, and no part of the model.
        self.changed = [
            name
            for name, value in self.before.items()
            if name not in given.untrained and not torch.equal(value, self.after[name])
        ]
        self.placed: set[int] = set()

    def of(self, file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
        """The tensors of a weight file, in their own types, and its metadata."""
        found = {}
        with safe_open(file, "pt") as stored:
            for key in stored.keys():  # noqa: SIM118  # it is no dict
                tensor = stored.get_tensor(key)
                name = self._counterpart(key, tensor)
                if name is None:
                    found[key] = tensor
                    continue
                self.placed.add(self.memory[name])
                found[key] = self.after[name].to(tensor.dtype).contiguous().clone()
            return found, stored.metadata()

    def _counterpart(self, key: str, tensor: torch.Tensor) -> str | None:
        """The weight that is stored as `key`: of the same name, apart from a prefix, and the same
        values; or of another name but the same values, for tied copies."""
        plain = key.replace(".gamma", ".weight").replace(".beta", ".bias")  # as BERT of 2018
        ends = [n for n in self.changed if plain == n or plain.endswith(f".{n}")]
        exact: str | None = max(ends, key=len, default=None)
        if exact is not None and _equal(tensor, self.before[exact]):
            return exact
        if tensor.ndim < 2:
            return None  # many vectors are alike: all ones, all zeros
        return next((n for n in self.changed if _equal(tensor, self.before[n])), None)

    def unplaced(self) -> list[str]:
        """Changed weights that no file holds, nor one that shares their memory."""
        return [n for n in self.changed if self.memory[n] not in self.placed]


def _equal(stored: torch.Tensor, loaded: torch.Tensor) -> bool:
    return stored.shape == loaded.shape and torch.equal(stored.to(loaded.dtype), loaded)
