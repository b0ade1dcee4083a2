"""The tokenizer of the scanned PLM for the monitor: ids with their positions in the text, without
the template or truncation. It needs only the library `tokenizers`. The module also gives access to
the tokenizer's configuration.

`tokenizer_config.json` can name further tokens that transformers adds to those of `tokenizer.json`,
and say that special tokens are split like other text. Both decide what ids a text has, so both are
followed here.
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

from triggerfish.foreign import OURS, ForeignError, foreign

EXPECTED = "expected the tokenizer.json of the scanned model, as the library `tokenizers` writes it"
FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
SPLIT = "split_special_tokens"
NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Fields of the configuration that each name a special token, in the order of transformers."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CACHED_CHARACTERS = 200
_CACHED_STRETCHES = 8192


@dataclass(frozen=True)
class Pieces:
    """Token ids of a text, and the (start, end) characters that each one covers."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Tokenizer:
    """Built from a model folder or a `tokenizer.json`; ValueError for anything else. hashes: sha256
    as in `ModelFacts.tokenizer_sha256`, of the file as it is, and without truncation and
    padding."""

    def __init__(self, path: str | Path):
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"tokenizer: {path} is neither a folder with {FILE} nor such a file")
        self.file = file
        with foreign(f"tokenizer: cannot read {file}", EXPECTED):
            self.core = tokenizers.Tokenizer.from_file(str(file))
            _configure(self.core, file.with_name(CONFIG))
            written = self.core.to_str()
            self.core.no_truncation()
            self.core.no_padding()
            bare = self.core.to_str()
            self.config: dict[str, Any] = json.loads(bare)
        # A scan hashes the tokenizer in use; use switches truncation and padding on and off.
        split = SPLIT * self.core.encode_special_tokens
        self.hashes = frozenset(
            hashlib.sha256((x + split).encode("utf-8")).hexdigest() for x in (written, bare)
        )
        self._short = lru_cache(_CACHED_STRETCHES)(self._encode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_short"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._short = lru_cache(_CACHED_STRETCHES)(self._encode)

    def pieces(self, text: str) -> Pieces:
        """Token ids and spans of a text, without special tokens."""
        return self._short(text) if len(text) <= _CACHED_CHARACTERS else self._encode(text)

    def _encode(self, text: str) -> Pieces:
        if not text.isascii():  # no tokenizer accepts half a surrogate pair
            text = _SURROGATE.sub("\ufffd", text)
        try:
            encoding = self.core.encode(text, add_special_tokens=False)
        except OURS:
            raise
        except BaseException as error:  # also panics; what they say may quote the text
            raise ForeignError(
                f"tokenizer: {self.file} fails on a text ({type(error).__name__}); {EXPECTED}"
            ) from error
        return Pieces(encoding.ids, encoding.offsets)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """Token ids of a word within a text, after a space, the same as those of
        `Backbone.word_ids`."""
        anchor, ids = self.pieces("a").ids, self.pieces(f"a {word}").ids
        return tuple(ids[len(anchor) :] if ids[: len(anchor)] == anchor else ids)

    def piece(self, token_id: int) -> str:
        """The vocabulary entry of an id; empty for an invalid id."""
        return (self.core.id_to_token(token_id) or "") if 0 <= token_id < 1 << 32 else ""

    # ---- configuration

    @cached_property
    def model(self) -> dict[str, Any]:
        return dict(self.config["model"])

    @cached_property
    def added(self) -> dict[int, dict[str, Any]]:
        """Added tokens by id, including special tokens. The tokenizer splits them off before any
        other step."""
        return {token["id"]: token for token in self.config["added_tokens"]}

    @cached_property
    def normalizers(self) -> list[dict[str, Any]]:
        return list(_flat(self.config["normalizer"], "normalizers"))

    @cached_property
    def pre_tokenizers(self) -> list[dict[str, Any]]:
        return list(_flat(self.config["pre_tokenizer"], "pretokenizers"))


def _configure(core: tokenizers.Tokenizer, file: Path) -> None:
    """Follow a `tokenizer_config.json`, where there is one, as transformers does."""
    if not file.is_file():
        return
    with foreign(f"tokenizer: cannot read {file}", "expected that of the scanned model"):
        config = json.loads(file.read_text(encoding="utf-8-sig"))
        further = list(_further_tokens(config))
    known = set(core.get_added_tokens_decoder().values())
    contents = {token.content for token in known}
    for token, whole in further:
        if token not in known if whole else token.content not in contents:
            core.add_tokens([token])
            contents.add(token.content)
    core.encode_special_tokens = config.get(SPLIT, False) is True


def _further_tokens(config: dict[str, Any]) -> Iterator[tuple[tokenizers.AddedToken, bool]]:
    """Yields the tokens that a configuration names, and whether it describes them in full."""
    listed = config.get("added_tokens_decoder") or {}
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        yield tokenizers.AddedToken(**token), True
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    named = [config[key] for key in (*NAMED, *config) if key.endswith("_token") and key in config]
    for token in (*named, *(extra.values() if isinstance(extra, dict) else extra)):
        if isinstance(token, str):
            yield tokenizers.AddedToken(token, special=True), False
        elif isinstance(token, dict):
            described = {key: value for key, value in token.items() if key != "__type"}
            yield tokenizers.AddedToken(**{**described, "special": True}), False


def _flat(part: dict[str, Any] | None, inside: str) -> Iterator[dict[str, Any]]:
    """Yields the parts of a sequence in order, including those of nested sequences."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for inner in part[inside]:
            yield from _flat(inner, inside)
    else:
        yield part
