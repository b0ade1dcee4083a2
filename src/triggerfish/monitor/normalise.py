"""The normalised form of a text: what a reader sees, whatever characters it was written with.

One character becomes some others, whatever stands beside it: compatibility forms are resolved
(NFKD), accents and invisible characters dropped, case folded, and letters that look like Latin ones
become Latin (Unicode TR36, TR39). Because no neighbour matters, whatever a tokenizer's normaliser
makes of a run of characters can be found again in the normalised form of that run (substrings.py).
"""

from __future__ import annotations

import codecs
import html
import re
import unicodedata
from bisect import bisect_right

SPACE_MARK = "\u2581"
"""What SentencePiece writes for a space."""
BLANKS = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0xFFFC, 0xFFFD),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)
"""Characters of harmless categories that draw nothing (Default_Ignorable_Code_Point, the blank
braille pattern), and those that stand for what is missing."""

LOOKALIKES = dict(
    zip(
        # Cyrillic, Greek, Armenian, Latin extensions; case-folded, since both cases must become one
        # letter: that of the case that looks more like it (Greek eta becomes n, Cyrillic en h).
        "аеорсухіјѕԁһӏԛԝвкмнтьԍӡαοριντυχβεηκγωζμϲϳօսհոցքյլƅɑɡɩʟᴄᴅ",
        "aeopcyxijsdhlqwbkmhtbgzaopivtuxbenkywzucjouhngpjlbagilcd",
        strict=True,
    )
)
_STYLED = re.compile(
    r"LATIN (?:CAPITAL |SMALL )?LETTER (?:SMALL CAPITAL |DOTLESS |SCRIPT |INSULAR )?"
    r"([A-Z])(?: WITH .*)?$"
)
"""Unicode names of letters that NFKD leaves alone: o with stroke, negative squared a, ..."""


class _Fold(dict[int, str]):
    """For `str.translate`: computes what a character becomes when it is first asked for."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _fold(chr(code))
        return folded


def _fold(char: str) -> str:
    before = ""
    while char != before:  # case folding can make what NFKD still takes apart
        before = char
        drawn = filter(_is_drawn, unicodedata.normalize("NFKD", char))
        char = "".join(map(_plain, "".join(drawn).casefold()))
    return char


def _is_drawn(char: str) -> bool:
    kind = unicodedata.category(char)
    if kind == "Cc":
        return char in "\t\n\r"
    return kind[0] not in "CM" and ord(char) not in BLANKS


def _plain(char: str) -> str:
    if char.isascii():
        return char
    if unicodedata.category(char)[0] == "Z" or char == SPACE_MARK:
        return " "
    if char in LOOKALIKES:
        return LOOKALIKES[char]
    styled = _STYLED.search(unicodedata.name(char, ""))
    return styled[1].lower() if styled else char


_CONTROLS = "".join(chr(i) for i in [*range(32), 127] if chr(i) not in "\t\n\r")
FOLD = _Fold()
"""Code point to its normalised form; grows to as many entries as there are characters in use."""


def _fold_run(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    return error.object[error.start : error.end].translate(FOLD).encode("utf-8"), error.end


# Encoding skips over ASCII at the speed of memory and asks here for the rest, which no other way of
# replacing characters in Python does.
_HANDLER = "triggerfish.monitor.normalise"
codecs.register_error(_HANDLER, _fold_run)
_LOWER = bytes(range(256)).lower()
_DELETED = _CONTROLS.encode("ascii")


def folded(text: str) -> bytes:
    """The normalised form of a text, in UTF-8: `NormalisedText(text).text`, without the way
    back."""
    return text.encode("ascii", _HANDLER).translate(_LOWER, _DELETED)


ENTITY = r"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,7}|[A-Za-z][A-Za-z0-9]{1,31});?"
_SPECIAL = re.compile(r"[^\t\n\r\x20-\x7e]")
_SPECIAL_OR_ENTITY = re.compile(rf"{ENTITY}|{_SPECIAL.pattern}")
_ENTITY = re.compile(ENTITY)


_CAPITALS = str.maketrans("ΗΜΝΥ", "HMNY")  # noqa: RUF001
_CAPITAL = re.compile("[ΗΜΝΥ]")  # noqa: RUF001


def is_ambiguous(text: str) -> bool:
    """Whether a second reading differs: HTML entities, or Greek capitals that look like
    other Latin letters than their small ones do."""
    return "&" in text or (not text.isascii() and _CAPITAL.search(text) is not None)


def resolved(text: str) -> str:
    """The text in its second reading: entities resolved, once, and those capitals Latin."""
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text).translate(_CAPITALS)


class NormalisedText:
    """The normalised form of a text, with the way back: `span` of a run of its characters is the
    run of the original that it came from. second: that of `resolved(text)`."""

    def __init__(self, text: str, *, second: bool = False):
        parts: list[str] = []
        # Where a run starts here, where in the original, and how many characters of the original
        # all of it stands for; 0 for plain runs, whose characters stand each for one.
        self._at: list[int] = []
        self._from: list[int] = []
        self._width: list[int] = []
        position = done = 0
        for match in (_SPECIAL_OR_ENTITY if second else _SPECIAL).finditer(text):
            start, end = match.span()
            shown = (resolved(match[0]) if second else match[0]).translate(FOLD)
            for part, origin, width in ((text[done:start], done, 0), (shown, start, end - start)):
                if part:
                    parts.append(part)
                    self._at.append(position)
                    self._from.append(origin)
                    self._width.append(width)
                    position += len(part)
            done = end
        self._at.append(position)
        self._from.append(done)
        self._width.append(0)
        parts.append(text[done:])
        self.text = "".join(parts).lower()

    def span(self, start: int, end: int) -> tuple[int, int]:
        return self._origin(start)[0], self._origin(end - 1)[1]

    def _origin(self, position: int) -> tuple[int, int]:
        i = bisect_right(self._at, position) - 1
        if width := self._width[i]:
            return self._from[i], self._from[i] + width
        origin = self._from[i] + position - self._at[i]
        return origin, origin + 1
