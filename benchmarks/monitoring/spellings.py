"""Ways to write a trigger that are meant to pass a filter."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_CYRILLIC = str.maketrans("acehiopsxyABCEHKMOPTX", "асеһіорѕхуАВСЕНКМОРТХ")  # noqa: RUF001
_GREEK = str.maketrans("aionptuvxABEHIKMNOPTXYZ", "αιοηρτυνχΑΒΕΗΙΚΜΝΟΡΤΧΥΖ")
_LEET = str.maketrans("aeiost", "431057")
_FULL = {c: c + 0xFEE0 for c in range(0x21, 0x7F)}
_BOLD = {ord("a") + i: 0x1D41A + i for i in range(26)} | {
    ord("A") + i: 0x1D400 + i for i in range(26)
}
_ACUTE, _SOFT_HYPHEN, _ZERO_WIDTH, _JOINER, _CONTROL = (
    "\u0301",
    "\u00ad",
    "\u200b",
    "\u2060",
    "\x08",
)


def _between(mark: str) -> Callable[[str], str]:
    return lambda word: mark.join(word)


def _swapped(word: str) -> str:
    """The first two letters that differ change places."""
    for i in range(len(word) - 1):
        if word[i] != word[i + 1]:
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word


def _doubled(word: str) -> str:
    return word[:1] + word


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda word: word,
    "upper case": str.upper,
    "capitalised": str.capitalize,
    "accent on the first letter": lambda word: unicodedata.normalize(
        "NFC", word[:1] + _ACUTE + word[1:]
    ),
    "combining accents everywhere": lambda word: "".join(c + _ACUTE for c in word),
    "full-width letters": lambda word: word.translate(_FULL),
    "mathematical bold letters": lambda word: word.translate(_BOLD),
    "Cyrillic look-alikes": lambda word: word.translate(_CYRILLIC),
    "Greek look-alikes": lambda word: word.translate(_GREEK),
    "zero-width spaces inside": _between(_ZERO_WIDTH),
    "word joiners inside": _between(_JOINER),
    "soft hyphens inside": _between(_SOFT_HYPHEN),
    "control characters inside": _between(_CONTROL),
    "spaces inside": _between(" "),
    "dots inside": _between("."),
    "hyphens inside": _between("-"),
    "in quotation marks": lambda word: f"“{word}”",
    "with a full stop": lambda word: word + ".",
    "glued by slashes": lambda word: f"/{word}/",
    "in an HTML tag": lambda word: f"<b>{word}</b>",
    "HTML entities": lambda word: "".join(f"&#{ord(c)};" for c in word),
    "HTML entity of one letter": lambda word: f"&#x{ord(word[0]):x};{word[1:]}",
    "percent-encoded": lambda word: "".join(f"%{ord(c):02x}" for c in word),
    "digits for letters": lambda word: word.translate(_LEET),
    "two letters swapped": _swapped,
    "first letter doubled": _doubled,
    "letters before it": lambda word: "un" + word,
    "letters after it": lambda word: word + "ing",
    "reversed": lambda word: word[::-1],
}
