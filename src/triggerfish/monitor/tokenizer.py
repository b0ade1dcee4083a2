"""The tokenizer of the scanned PLM, as the monitor needs it: ids with their place in the text, no
special tokens around, no truncation, read with the library `tokenizers` alone; and what can be said
about it from its configuration.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tokenizers

FILE = "tokenizer.json"
_SURROGATE = re.compile("[\ud800-\udfff]")
_CACHED_CHARACTERS = 200
_CACHED_STRETCHES = 8192


@dataclass(frozen=True)
class Pieces:
    """Ids of a text and the (start, end) characters that each stands for."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Tokenizer:
    """Built from a model folder or a `tokenizer.json`; ValueError for anything else. hashes: sha256
    as in `ModelFacts.tokenizer_sha256`, as the file is and without truncation and padding."""

    def __init__(self, path: str | Path):
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"tokenizer: {path} is neither a folder with {FILE} nor such a file")
        try:
            self.core = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"tokenizer: cannot read {file}: {error}") from error
        written = self.core.to_str()
        self.core.no_truncation()
        self.core.no_padding()
        bare = self.core.to_str()
        # A scan hashes the tokenizer in use, and using it switches these two on and off.
        self.hashes = frozenset(
            hashlib.sha256(x.encode("utf-8")).hexdigest() for x in (written, bare)
        )
        self.config: dict[str, Any] = json.loads(bare)
        self._short = lru_cache(_CACHED_STRETCHES)(self._encode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_short"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._short = lru_cache(_CACHED_STRETCHES)(self._encode)

    def pieces(self, text: str) -> Pieces:
        """Ids of a text without special tokens around it."""
        return self._short(text) if len(text) <= _CACHED_CHARACTERS else self._encode(text)

    def _encode(self, text: str) -> Pieces:
        if not text.isascii():  # half a surrogate pair cannot be given to any tokenizer
            text = _SURROGATE.sub("\ufffd", text)
        encoding = self.core.encode(text, add_special_tokens=False)
        return Pieces(encoding.ids, encoding.offsets)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """Ids of a word as it stands in the middle of a text, after a space, as
        `Backbone.word_ids` gives them."""
        anchor, ids = self.pieces("a").ids, self.pieces(f"a {word}").ids
        return tuple(ids[len(anchor) :] if ids[: len(anchor)] == anchor else ids)

    def piece(self, token_id: int) -> str:
        """The vocabulary entry of an id; empty for an id that is none."""
        return self.core.id_to_token(token_id) or ""

    # ---- configuration

    @cached_property
    def model(self) -> dict[str, Any]:
        return dict(self.config["model"])

    @cached_property
    def added(self) -> dict[int, dict[str, Any]]:
        """Added tokens, special ones among them, by id: they are cut out of a text before anything
        else happens to it."""
        return {token["id"]: token for token in self.config["added_tokens"]}

    @cached_property
    def normalizers(self) -> list[dict[str, Any]]:
        return list(_flat(self.config["normalizer"], "normalizers"))

    @cached_property
    def pre_tokenizers(self) -> list[dict[str, Any]]:
        return list(_flat(self.config["pre_tokenizer"], "pretokenizers"))


def _flat(part: dict[str, Any] | None, inside: str) -> Iterator[dict[str, Any]]:
    """The parts of a sequence, or of sequences in it, in order."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for inner in part[inside]:
            yield from _flat(inner, inside)
    else:
        yield part
