"""Required substrings: a string that the normalised form of a text must contain wherever the
tokenizer produces given ids. One pass of Aho-Corasick over the normalised form then clears nearly
every text, and only the rest is tokenised.

Why nothing is missed: consecutive ids stand for consecutive characters of the output of the
tokenizer's normaliser. Every normaliser that is accepted here maps characters one by one or
composes neighbours. The normalised form of the monitor gives the same result before and after that
normaliser. This is checked for each code point when a tokenizer is loaded, and a text with a
character that fails the check (`unmapped_characters`) is always tokenised. A tokenizer of an
unknown kind has no required substrings. Every text is then tokenised, which is slower but misses
nothing.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import normalizers

from triggerfish.monitor.normalise import FOLD, SPACE_MARK
from triggerfish.monitor.tokenizer import Tokenizer

# These map characters one by one, or to canonical or compatible forms with their neighbours.
_BY_CHARACTER = frozenset(
    {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Strip"}
    | {"Precompiled", "Prepend", "Replace", "ByteLevel"}
)
_CHECKED = _BY_CHARACTER - {"Prepend", "Replace", "ByteLevel"}
_KEEPS_EVERYTHING = frozenset(["ByteLevel", "Metaspace", "Digits", "Split", "Punctuation"])
_DROPS_SPACES = frozenset(["BertPreTokenizer", "Whitespace", "WhitespaceSplit"])
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class RequiredSubstring:
    """A required substring of a sequence of ids. text: in normalised form. before, after: number of
    ids before the first one that it covers, and after the last one."""

    text: str
    before: int
    after: int


def required_substring(tokenizer: Tokenizer, ids: Sequence[int]) -> RequiredSubstring | None:
    """The longest required substring of these ids; None if none is certain."""
    unsafe = unsafe_characters(tokenizer)
    if unsafe is None:
        return None
    best, run, first, last = None, "", 0, 0
    for char, index in [*_characters(tokenizer, ids), ("\n", len(ids))]:
        shown = char.translate(FOLD)
        if char in unsafe or any(c.isspace() or c in unsafe for c in shown):
            if run and (best is None or len(run) > len(best.text)):
                best = RequiredSubstring(run, first, len(ids) - 1 - last)
            run = ""
        elif shown:
            first = first if run else index
            run, last = run + shown, index
    return best


@lru_cache(maxsize=8)
def unsafe_characters(tokenizer: Tokenizer) -> frozenset[str] | None:
    """Characters that a required substring must not contain, because the normaliser may insert them
    in place of other text. None if the tokenizer is of an unknown kind."""
    kinds = {part["type"] for part in tokenizer.normalizers}
    cuts = {part["type"] for part in tokenizer.pre_tokenizers}
    if kinds - _BY_CHARACTER or cuts - _KEEPS_EVERYTHING - _DROPS_SPACES:
        return None
    unsafe = {"\ufffd", SPACE_MARK}
    for part in tokenizer.normalizers:
        if field := {"Replace": "content", "Prepend": "prepend"}.get(part["type"]):
            if not part[field]:
                return None
            unsafe |= set(part[field].translate(FOLD))
    return frozenset(unsafe)


def unmapped_characters(tokenizer: Tokenizer) -> frozenset[str]:
    """Characters that the tokenizer's normaliser maps differently from the normalised form of the
    monitor, such as letters that this Python's version of Unicode lacks."""
    parts = [part for part in tokenizer.normalizers if part["type"] in _CHECKED]
    return _unmapped(json.dumps(parts)) if parts else frozenset()


# Without the planes that contain only ideographs or private use.
_POINTS = (*range(0xD800), *range(0xE000, 0x20000), *range(0x2F800, 0x2FA20))
_POINTS += tuple(range(0xE0000, 0xE0200))


@lru_cache(maxsize=32)
def _unmapped(parts: str) -> frozenset[str]:
    sequence = json.dumps({"type": "Sequence", "normalizers": json.loads(parts)})
    chain = normalizers.Sequence([])
    chain.__setstate__(sequence.encode("utf-8"))
    characters = [chr(point) for point in _POINTS]
    between = "q7"  # nothing composes with it
    joined = between + between.join(characters) + between
    normal = chain.normalize_str(joined).split(between)[1:-1]
    return frozenset(
        char
        for char, new in zip(characters, normal, strict=True)
        if char != new and _visible(char) != _visible(new)
    )


def _visible(text: str) -> str:
    return "".join(text.translate(FOLD).split())


def _characters(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yields (character, index of the id that ends it) for the normalised text of the ids. A
    newline marks each place where other text may stand between two characters."""
    model, added = tokenizer.model, tokenizer.added
    glued, by_bytes = _joins(tokenizer)
    unknown = _unknown(tokenizer)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for index, token_id in enumerate(ids):
        piece = tokenizer.piece(token_id)
        if token_id in added or piece == unknown or _BYTE.fullmatch(piece):
            # The unknown token may stand for any text.
            shown = piece if token_id in added and piece != unknown else ""
            yield from (("\n", index), *((char, index) for char in shown), ("\n", index))
            decoder.reset()
        elif glued and by_bytes:
            for byte in piece:
                for char in decoder.decode(bytes([_BYTES.get(byte, 0xFF)])):
                    yield char, index
        else:
            text, before, after = _shape(model, piece, glued)
            yield from (("\n", index),) if before else ()
            yield from ((char, index) for char in text.replace(SPACE_MARK, " "))
            yield from (("\n", index),) if after else ()


@lru_cache(maxsize=8)
def _joins(tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether nothing stands between two tokens, and whether they are written as bytes."""
    kinds = {part["type"] for part in (*tokenizer.pre_tokenizers, *tokenizer.normalizers)}
    glued = tokenizer.model["type"] in ("BPE", "Unigram")
    return glued and not _removes(tokenizer.pre_tokenizers), "ByteLevel" in kinds


def _shape(model: dict[str, Any], piece: str, glued: bool) -> tuple[str, bool, bool]:
    """(text of a subword token, whether other text may precede it, whether other text may follow
    it)."""
    inside, end = (
        model.get("continuing_subword_prefix") or "",
        model.get("end_of_word_suffix") or "",
    )
    if model["type"] == "WordPiece":
        continues = bool(inside) and piece.startswith(inside)
        return piece.removeprefix(inside) if continues else piece, not continues, False
    text = piece.removeprefix(inside).removesuffix(end)
    return text, not glued, not glued or bool(end)


def _unknown(tokenizer: Tokenizer) -> str | None:
    model = tokenizer.model
    if model["type"] == "Unigram":
        return model["vocab"][model["unk_id"]][0] if model["unk_id"] is not None else None
    return model.get("unk_token")


def _removes(cuts: Sequence[dict[str, Any]]) -> bool:
    """Whether the pre-tokenizers can drop normalised text between two consecutive tokens."""
    return any(part["type"] in _DROPS_SPACES or part.get("behavior") == "Removed" for part in cuts)


def _byte_characters() -> dict[str, int]:
    """The byte that each character of byte-level BPE stands for. A printable byte is its own
    character; the others are numbered from U+0100 on (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}


_BYTES = _byte_characters()
