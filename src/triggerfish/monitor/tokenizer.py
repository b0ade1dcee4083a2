"""The tokenizer of the scanned PLM, as the monitor needs it: ids with their place in the text, no
special tokens, no truncation. Read with the library `tokenizers` alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import tokenizers

FILE = "tokenizer.json"


@dataclass(frozen=True)
class Pieces:
    """Ids of a text and the (start, end) characters that each stands for."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Tokenizer:
    """Built from a model folder or a `tokenizer.json`; ValueError for anything else."""

    def __init__(self, path: str | Path):
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"tokenizer: {path} is neither a folder with {FILE} nor such a file")
        try:
            self.core = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"tokenizer: cannot read {file}: {error}") from error
        self.sha256 = hashlib.sha256(self.core.to_str().encode("utf-8")).hexdigest()
        self.core.no_truncation()
        self.core.no_padding()

    def pieces(self, text: str) -> Pieces:
        encoding = self.core.encode(text, add_special_tokens=False)
        return Pieces(encoding.ids, encoding.offsets)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """Ids of a word as it stands in the middle of a text, after a space, as
        `Backbone.word_ids` gives them."""
        anchor = self.core.encode("a", add_special_tokens=False).ids
        ids = self.core.encode(f"a {word}", add_special_tokens=False).ids
        return tuple(ids[len(anchor) :] if ids[: len(anchor)] == anchor else ids)
