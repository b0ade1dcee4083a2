"""The window of a text around a place, cut where the tokenizer cuts anyway: its tokens are those
that the whole text has there, so a long text need not be tokenised because of one word in it.

A cut stands before a single space between two ASCII letters or digits. There every pre-tokenizer
listed here ends a word, and the space, kept at the front of what follows, makes that word look as
it does in the middle of a text. With any other tokenizer the window is the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from triggerfish.monitor.tokenizer import Tokenizer

_CUT = re.compile(r"(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])")
_LETTER = re.compile(r"[A-Za-z0-9]")
_BY_CHARACTER = frozenset(
    {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
    | {"Nmt", "Precompiled"}
)
_REPLACED = frozenset([" {2,}", r"\s{2,}|[\n\r\t]", r"[\n\r\t]", r"\n"])
_CUTTING = frozenset(["BertPreTokenizer", "Whitespace", "WhitespaceSplit"])
_HARMLESS = frozenset(["Digits", "Punctuation"])
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = frozenset([_HEAD + r"\p{N}" + _TAIL, _HEAD + r"\p{N}{1,3}" + _TAIL])
"""Regular expressions of Qwen2 and Llama 3."""


def cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a text can be cut there and its parts tokenised each for itself."""
    return (
        all(_allows(part, tokenizer) for part in tokenizer.normalizers)
        and all(map(_keeps_to_itself, tokenizer.added.values()))
        and all(_cuts(part) is not None for part in tokenizer.pre_tokenizers)
        and any(_cuts(part) for part in tokenizer.pre_tokenizers)
    )


def _allows(part: dict[str, Any], tokenizer: Tokenizer) -> bool:
    if part["type"] == "Strip":  # the space that a window begins with is put back
        return any(cut.get("prepend_scheme") == "always" for cut in tokenizer.pre_tokenizers)
    if part["type"] == "Replace":
        plain = part["pattern"].get("String", " ")
        return (plain == " " or " " not in plain) and (
            "String" in part["pattern"] or part["pattern"]["Regex"] in _REPLACED
        )
    return part["type"] in _BY_CHARACTER


def _keeps_to_itself(token: dict[str, Any]) -> bool:
    """Whether an added token leaves the spaces of a cut alone."""
    edges = token["content"][:1] + token["content"][-1:]
    reaches = (token["lstrip"] or token["rstrip"]) and _LETTER.search(edges)
    return not reaches and " " not in token["content"]


def _cuts(part: dict[str, Any]) -> bool | None:
    """Whether a pre-tokenizer ends a word at a cut; None where it might do anything."""
    kind = part["type"]
    if kind == "Split":
        return True if part["pattern"].get("Regex") in _SPLITS else None
    if kind == "ByteLevel":
        return bool(part["use_regex"])
    if kind == "Metaspace":
        return bool(part.get("split", True))
    return True if kind in _CUTTING else False if kind in _HARMLESS else None


def windows(
    text: str, places: Iterable[tuple[int, int]], before: int, after: int
) -> list[tuple[int, int]]:
    """(start, end) of windows around places, (start, end) in ascending order, each with at least
    `before` tokens ahead of a place and `after` behind it, or the end of the text; merged where
    they overlap."""
    found: list[tuple[int, int]] = []
    core_end = -1
    for start, end in places:
        if end <= core_end:  # the same run between two cuts as the place before
            continue
        left = start
        for _ in range(before + 1):
            left = _cut_before(text, left)
        core_end = right = _cut_after(text, end)
        for _ in range(after):
            right = _cut_after(text, right + 1) if right < len(text) else right
        if found and left <= found[-1][1]:
            found[-1] = (min(left, found[-1][0]), max(right, found[-1][1]))
        else:
            found.append((left, right))
    return found


def _cut_before(text: str, position: int) -> int:
    """The last cut before `position`, or 0."""
    while (position := text.rfind(" ", 0, position)) > 0:
        if _CUT.match(text, position):
            return position
    return 0


def _cut_after(text: str, position: int) -> int:
    """The first cut at or after `position`, or the end."""
    cut = _CUT.search(text, position)
    return cut.start() if cut else len(text)
