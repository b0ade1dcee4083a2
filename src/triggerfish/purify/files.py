"""A purified checkpoint on disk, in the layout of its source: the same weight files, and in them
the same tensors by name, shape and type.

A checkpoint holds more than the base model that was purified: heads, weights under other names,
copies of tied ones. So the source's weight files are read tensor by tensor, and what belongs to the
base model, by its name and its values, is replaced. Config, tokenizer and licence are copied; the
model card is written anew. Nothing else is copied: other weights may carry the backdoor, code is a
stranger's, and a file may be a link to a private one.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from triggerfish.backbone import Backbone
from triggerfish.checkpoints import (
    ADAPTER,
    CONFIG,
    MODEL,
    MODULES,
    SAFETENSORS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    read_json,
    sentence_modules,
)
from triggerfish.paths import below, leaves, walk
from triggerfish.writing import write_tensors, write_text

INDEX, CARD = f"{MODEL[SAFETENSORS]}.index.json", "README.md"
COPIED = (
    CONFIG, "generation_config.json", MODULES, "config_sentence_transformers.json",
    "sentence_bert_config.json", *TOKENIZER,
)  # fmt: skip
"""What is copied of the top folder, beside licences and the configs of modules in modules.json."""
LICENCE = re.compile(r"(licen[cs]e|notice|copying)[\w-]*(\.txt|\.md)?", re.IGNORECASE)
CODE = "auto_map"
"""Where both configs name a stranger's code, which is not copied."""


@dataclass(frozen=True)
class Written:
    """kept: whether the weight files have the source's layout. left_out: files of the source that
    were not copied. notes: what is otherwise than in the source, in sentences."""

    kept: bool
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def check_out(backbone: Backbone, out: Path, record: str) -> None:
    """ValueError where a checkpoint must not be written: over its source, or over something that no
    purification wrote (no file named `record`)."""
    source = backbone.folder
    if source is not None and source.resolve() == out.resolve():
        raise ValueError(f"out: {out} is the model itself; expected another folder")
    if (out / CONFIG).is_file() and not (out / record).is_file():
        raise ValueError(f"out: {out} holds another checkpoint; expected a new or empty folder")


def write(given: Backbone, purified: Backbone, out: Path, mark: dict[str, Any]) -> Written:
    """Write the checkpoint of `purified`, made of `given`, to `out`; `mark` goes into config.json
    as `triggerfish`, with the mark of the source, if it has one, as `was`."""
    out.mkdir(parents=True, exist_ok=True)
    source = given.folder
    names = [
        name
        for name in (given.files if source else ())
        if name.endswith(SAFETENSORS) and not name.startswith(ADAPTER)
    ]
    left_out = _copy_rest(source, out, names) if source else []
    why = "it was changed in memory" if source is None else "its weights are no safetensors"
    if source and names:
        replaced = _Replacement(given, purified)
        for name in names:
            tensors, metadata = replaced.of(below(source, name))
            write_tensors(below(out, name, "out"), tensors, metadata)
        missing = replaced.unplaced()
        why = f"{len(missing)} weights are not in it under their names ({', '.join(missing[:1])})"
        if not missing:
            _mark(out, mark)
            return Written(True, tuple(left_out), ())
        for name in names:
            below(out, name, "out").unlink()
        (out / INDEX).unlink(missing_ok=True)
    purified.save(out)
    _mark(out, mark)
    return Written(False, tuple(left_out), (f"the layout of the source was not kept, since {why}",))


def _copy_rest(source: Path, out: Path, weights: list[str]) -> list[str]:
    """Copy what goes with the weights; returns the names of the files that were left out."""
    paths = {module.path for module in sentence_modules(source)}
    wanted = {f"{path}/{CONFIG}" for path in paths if path}
    if weights != [MODEL[SAFETENSORS]]:
        wanted.add(INDEX)
    left_out = []
    for name in walk(source):
        if name in weights or name == CARD or name.startswith("."):
            continue
        listed = name in wanted or name in COPIED or LICENCE.fullmatch(name)
        if not listed or leaves(source, source / name) or not (source / name).is_file():
            left_out.append(name)
            continue
        target = below(out, name, "out")
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in (CONFIG, TOKENIZER_CONFIG):
            content = read_json(source, name)
            content.pop(CODE, None)
            _write_json(target, content)
        else:
            shutil.copyfile(source / name, target)
    return left_out


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _mark(out: Path, mark: dict[str, Any]) -> None:
    content = read_json(out, CONFIG)
    was = content.get("triggerfish")
    content["triggerfish"] = mark | ({"was": was} if was else {})
    _write_json(out / CONFIG, content)


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
