"""What lies in a checkpoint folder: which files a loader opens, what they hold, and what is left.

Everything in the folder was written by a stranger. Its names go through `paths`, its JSON is read
here, and libraries get copies of the files that they need and see nothing else of the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from triggerfish.foreign import ForeignError, foreign
from triggerfish.hashing import file_sha256
from triggerfish.paths import below, walk

CONFIG, MODULES = "config.json", "modules.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model", "adapter_config.json"
SAFETENSORS, PICKLE = ".safetensors", ".bin"
MODEL = {SAFETENSORS: "model.safetensors", PICKLE: "pytorch_model.bin"}
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCABULARY = (
    "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt",
    "spiece.model", "spm.model", "spm_char.model", "sentencepiece.model",
    "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm", "target_vocab.json",
    "vocab-src.json", "vocab-tgt.json", "prophetnet.tokenizer", "byte_maps.json", "emoji.json",
    "normalizer.json", "entity_vocab.json", "word_shape.json", "word_pronunciation.json",
)  # fmt: skip
"""Files that tokenizers of transformers 5 read their tokens from."""
TOKENIZER = (
    TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    *VOCABULARY,
)  # fmt: skip
TEXT = (
    ".json", ".jsonl", ".txt", ".md", ".rst", ".jinja", ".yaml", ".yml", ".toml", ".cfg", ".ini",
    ".csv", ".tsv", ".py", ".ipynb", ".html", ".log", ".pdf", ".png", ".jpg", ".jpeg", ".gif",
    ".svg", ".gitattributes", ".gitignore", ".sha256", ".sig", ".lock", ".metadata",
)  # fmt: skip
"""Endings of files that hold no weights in any format. Every other file may hold some."""
PROSE = ("license", "licence", "notice", "copying", "readme", "citation", "authors")
"""Beginnings of names of files that people read."""
NAMED = 100
"""Modules or files that a sentence names at most."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types that are read as they are. All others are quantised weights, masks or positions."""


@dataclass(frozen=True)
class Weights:
    """Weight files and what they hold. files: names in the folder; tensors: by their names in the
    files; a safetensors file is mapped, so a tensor is read when it is used."""

    files: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]

    @property
    def elements(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())


def fetch(name: str, revision: str | None, allow_pickle: bool) -> Path:
    """The folder in the hub's cache with what a loader needs of a checkpoint of that id, which is
    downloaded where it is not there yet."""
    small = [CONFIG, MODULES, ADAPTER_CONFIG, *TOKENIZER]
    kinds = [SAFETENSORS, *([PICKLE] if allow_pickle else [])]
    for kind in kinds:
        small += [MODEL[kind], f"{MODEL[kind]}.index.json", f"{ADAPTER}{kind}"]
    with foreign(
        f"model: cannot load {name}: it is no folder here, and from the hub",
        "expected a model's id",
    ):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=small))
        names = weight_files(folder, allow_pickle)
        if names:
            snapshot_download(name, revision=folder.name, allow_patterns=names)
    return folder


def check(folder: Path, allow_pickle: bool) -> None:
    """ValueError where a folder is no checkpoint with weights that may be opened."""
    if not _there(folder, CONFIG):
        raise ForeignError(f"model: {folder} {_no_config(folder)}")
    others = unopened(folder, ())  # also refuses what must not be opened
    if weight_files(folder, allow_pickle):
        return
    if weight_files(folder, True):
        raise ForeignError(
            f"model: {folder} has only pickle weights, and loading a pickle can run a stranger's "
            "code; convert them to safetensors, or pass --allow-pickle if you trust their source"
        )
    raise ForeignError(
        f"model: {folder} has no weights under a name that is read (expected {MODEL[SAFETENSORS]} "
        f"or {MODEL[SAFETENSORS]}.index.json{f'; found {others[0]}' if others else ''})"
    )


def _no_config(folder: Path) -> str:
    """What a folder without config.json is, and the way on."""
    if _there(folder, ADAPTER_CONFIG):
        base = read_json(folder, ADAPTER_CONFIG).get("base_model_name_or_path")
        return (
            f"is an adapter without its base model ({base!r}): it has {ADAPTER_CONFIG} and no "
            f"{CONFIG}; merge it into the base with peft (merge_and_unload) and give the result"
        )
    for module in sentence_modules(folder):
        if module.path and (below(folder, module.path) / CONFIG).is_file():
            return (
                f"has no {CONFIG}: its {MODULES} puts the encoder into {module.path}; "
                f"give {folder / module.path}"
            )
    return f"has no {CONFIG}, so it is not a Hugging Face checkpoint"


def weight_files(folder: Path, allow_pickle: bool) -> list[str]:
    """Names of the weight files that are opened, in order; an index may name files of this folder
    only. Empty where there are none."""
    for kind in (SAFETENSORS, PICKLE)[: 2 if allow_pickle else 1]:
        name = MODEL[kind]
        if _there(folder, name):
            return [name]
        if _there(folder, f"{name}.index.json"):
            return _shards(folder, f"{name}.index.json", kind)
    return []


def _shards(folder: Path, index: str, kind: str) -> list[str]:
    content = read_json(folder, index).get("weight_map")
    if not isinstance(content, dict) or not content:
        raise ForeignError(
            f"model: {folder / index}: weight_map: expected a table of tensors and their files"
        )
    names = set(content.values()) if all(isinstance(x, str) for x in content.values()) else {None}
    for name in names:
        below(folder, name)
        if not str(name).endswith(kind):
            raise ForeignError(f"model: {folder / index} names {name!r}; expected *{kind}")
    return sorted(map(str, names))


def _there(folder: Path, name: str) -> bool:
    return below(folder, name).is_file()


def read_weights(folder: Path, names: Sequence[str]) -> Weights:
    """Open weight files; a tensor may be in one of them only."""
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        file = below(folder, name)
        if not file.is_file():
            raise ForeignError(
                f"model: {folder} has no file {name}, which its index names; download it again"
            )
        with foreign(
            f"model: cannot load {file}",
            f"expected weights in the form of {PurePosixPath(name).suffix}; download it again",
        ):
            found = _safetensors(file) if name.endswith(SAFETENSORS) else _pickle(file)
        if twice := sorted(tensors.keys() & found.keys()):
            raise ForeignError(f"model: {folder}: tensor {twice[0]} is in two of its weight files")
        tensors |= found
    return Weights(tuple(names), tensors)


def hashes(folder: Path, weights: Weights) -> dict[str, str]:
    """sha256 of the files of `weights`, by name."""
    return {name: file_sha256(below(folder, name)) for name in weights.files}


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, "pt") as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  # no dict


def _pickle(file: Path) -> dict[str, torch.Tensor]:
    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__} and no table of tensors")
    return {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the folder, with or without a byte-order mark."""
    file = below(folder, name)
    content = _json(file, "expected JSON in UTF-8")
    if not isinstance(content, dict):
        raise ForeignError(f"model: {file} holds no JSON object, but a {type(content).__name__}")
    return content


def _json(file: Path, expected: str) -> Any:
    with foreign(f"model: cannot read {file}", expected):
        if not file.is_file():  # a pipe would never end
            raise ValueError("it is no file")
        return json.loads(file.read_text(encoding="utf-8-sig"))


@contextmanager
def staged(folder: Path, changed: Mapping[str, Mapping[str, Any]]) -> Iterator[Path]:
    """A folder with copies of the files for config and tokenizer, and nothing else, for as long as
    the context lasts. changed: JSON that takes the place of files, by name."""
    with TemporaryDirectory(prefix="triggerfish-") as made:
        stage = Path(made)
        for name in (CONFIG, *TOKENIZER):
            if name in changed:
                (stage / name).write_text(json.dumps(changed[name]), encoding="utf-8")
            elif _there(folder, name) and name.endswith(".json"):
                content = (folder / name).read_bytes()
                (stage / name).write_bytes(content.removeprefix(b"\xef\xbb\xbf"))
            elif _there(folder, name):
                shutil.copyfile(folder / name, stage / name)
        yield stage


@dataclass(frozen=True)
class Module:
    """A step of a sentence-transformers pipeline: its kind, and its folder, "" for the top one."""

    kind: str
    path: str


def sentence_modules(folder: Path) -> list[Module]:
    """The pipeline in modules.json, in order; empty where there is none."""
    if not _there(folder, MODULES):
        return []
    expected = "expected a list of modules of sentence-transformers, each with type and path"
    content = _json(folder / MODULES, expected)
    with foreign(f"model: cannot read {folder / MODULES}", expected):
        found = [Module(str(x["type"]).rpartition(".")[2], str(x.get("path", ""))) for x in content]
    for module in found:
        if module.path:
            below(folder, module.path)
    return found


def beside(folder: Path, opened: Iterable[str], name: str) -> list[str]:
    """What belongs to the checkpoint in a folder and is not opened by a loader that opens `opened`,
    a sentence for each kind. name: what the user calls the checkpoint."""
    found = []
    top = _pipeline(folder)
    kinds = [module.kind for module in sentence_modules(top)]
    if others := [kind for kind in kinds if kind not in ("Transformer", "Pooling")]:
        found.append(f"modules of sentence-transformers: {some(others)}")
    inside = "" if top == folder else f"{folder.absolute().name}/"
    if name != "bundled" and Path(name) != folder:
        found.append("files of the repository on the hub that a loader does not need")
    if files := unopened(top, [f"{inside}{one}" for one in opened]):
        found.append(f"files that were not opened and may hold weights: {some(files)}")
    return found


def some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _pipeline(folder: Path) -> Path:
    """The folder of the sentence-transformers pipeline that this checkpoint is a module of, or the
    checkpoint itself."""
    above = folder.absolute().parent
    try:
        paths = [module.path for module in sentence_modules(above)]
    except ForeignError:
        return folder
    return above if folder.absolute().name in paths else folder


def unopened(folder: Path, opened: Iterable[str]) -> list[str]:
    """Names of all files in a folder and below it that may hold weights, but those opened."""
    known = {*opened, *TOKENIZER}
    return [name for name in walk(folder) if name not in known and _may_hold_weights(folder, name)]


def _may_hold_weights(folder: Path, name: str) -> bool:
    path = PurePosixPath(name.lower())
    if (folder / name).is_dir():  # a link to a folder
        return True
    prose = path.name.startswith(PROSE) and not path.suffix
    return not (prose or path.name.endswith(TEXT))
