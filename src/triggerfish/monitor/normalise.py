"""The hardened view of a text: what a reader sees, whatever characters it was written with.

One character becomes a few others, whatever stands beside it: compatibility forms are resolved
(NFKD), accents and invisible characters dropped, case folded, and letters that look like Latin ones
become Latin (Unicode TR36, TR39). Because no neighbour matters, whatever a tokenizer's normaliser
leaves of a piece of text can also be found in its hardened view.
"""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0xFFFD),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)
"""Characters of harmless categories that draw nothing, and the replacement character."""

LOOKALIKES = dict(
    zip(
        # Cyrillic, Greek, Armenian and others, case-folded. A pair of cases gets one letter, that
        # of the more alike case: Cyrillic en looks like h, Greek eta like n.
        "аеорсухіјѕԁһӏԛԝвкмнтьԍӡαοριντυχβεηκγωζμϲϳօսհոցքյլƅɑɡɩʟᴄᴅ",
        "aeopcyxijsdhlqwbkmhtbgzaopivtuxbenkywzucjouhngpjlbagilcd",
        strict=True,
    )
)

_NAMED = re.compile(
    r"LATIN (?:SMALL |CAPITAL |LETTER SMALL )*(?:LETTER )?(?:SMALL CAPITAL )?"
    r"(?:DOTLESS |BARRED |INSULAR |CAPITAL )?([A-Z])(?: WITH .*)?$"
)


class _Fold(dict[int, str]):
    """For `str.translate`: computes what a character becomes when it is first asked for."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _fold(chr(code))
        return folded


def _fold(char: str) -> str:
    seen = ""
    while char != seen:  # casefold may give what NFKD still takes apart, and the other way round
        seen = char
        char = unicodedata.normalize("NFKD", char).casefold()
        char = "".join(_simplify(c) for c in char)
    return char


def _simplify(char: str) -> str:
    if char.isascii():
        return char if char.isprintable() or char in "\t\n\r" else ""
    kind = unicodedata.category(char)
    if (kind[0] in "CM" and kind != "Mc") or ord(char) in INVISIBLE:
        return ""
    if kind[0] == "Z":
        return " "
    if char in LOOKALIKES:
        return LOOKALIKES[char]
    named = _NAMED.search(unicodedata.name(char, ""))
    return named[1].lower() if named else char


FOLD = _Fold()
