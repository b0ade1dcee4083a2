"""The window of a text around a place, cut where the tokenizer cuts anyway: its tokens are those
that the whole text has there, so a long text need not be tokenised because of one word in it.

A cut stands before a single space between two ASCII letters or digits. There every pre-tokenizer
listed here ends a word, and the space, kept at the front of what follows, makes that word look as
it does in the middle of a text. With any other tokenizer the window is the whole text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
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


class Windows:
    """(start, end) of windows around places of `text`, each with at least `before` tokens ahead of
    a place and `after` behind it, or the end of the text; merged where they overlap. cuts: of the
    text, as `cuts` gives them."""

    def __init__(self, text: str, cuts: Sequence[int], before: int, after: int):
        self._cuts = cuts
        self._length = len(text)
        self._before, self._after = before, after
        self._done = -1
        self.found: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Of a place that begins no earlier than the last one."""
        if end <= self._done:  # the same run between two cuts as a place before
            return
        first = bisect_left(self._cuts, start) - 1 - self._before
        last = bisect_left(self._cuts, end)
        left = self._cuts[first] if first >= 0 else 0
        right = self._cut(last + self._after)
        self._done = self._cut(last)
        if self.found and left <= self.found[-1][1]:
            self.found[-1] = (self.found[-1][0], max(right, self.found[-1][1]))
        else:
            self.found.append((left, right))

    def _cut(self, number: int) -> int:
        return self._cuts[number] if number < len(self._cuts) else self._length


def cuts(text: str) -> list[int]:
    """Where a text may be cut."""
    return [match.start() for match in _CUT.finditer(text)]


def merged(spans: Iterable[tuple[int, int]], *, touching: bool) -> list[tuple[int, int]]:
    """Spans in ascending order, joined where they overlap, and where they touch if `touching`."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and (start < out[-1][1] or (touching and start == out[-1][1])):
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out
