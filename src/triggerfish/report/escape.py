"""Hostile text made visible: the one place that decides which characters reach a screen.

A checkpoint chooses its name and its tokens, so either may carry terminal commands, characters that
reorder or hide text (Unicode TR36, TR39), or a whole page of text. Such characters are written as
Python would write them in a string: `\\x1b`, `\\u202e`. A backslash is doubled, so two different
strings never look the same here.
"""

from __future__ import annotations

from unicodedata import category, combining

from rich.cells import cell_len

# Controls, formats (bidi, zero width), surrogates, private use, unassigned, line and paragraph
# separators.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
# Characters of harmless categories that draw nothing (Default_Ignorable_Code_Point, and the blank
# braille pattern).
_BLANKS = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Vietnamese and Thai need two marks on one letter; towers of marks cover the neighbouring lines.
_MARKS_IN_A_ROW = 2
_ELLIPSIS = "\u2026"


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _is_mark(char: str) -> bool:
    return category(char) in {"Mn", "Me"} or combining(char) != 0


def units(text: str, also: str = "") -> list[str]:
    """One visible string for each character of `text`; characters in `also` are escaped too."""
    out: list[str] = []
    marks = _MARKS_IN_A_ROW  # a mark with no letter before it would sit on our own punctuation
    for char in text:
        mark = _is_mark(char)
        hidden = (
            (category(char) in _HIDDEN_CATEGORIES and char != " ")
            or ord(char) in _BLANKS
            or char == "\\"
            or char in also
            or (mark and marks >= _MARKS_IN_A_ROW)
        )
        out.append(_escaped(char) if hidden else char)
        if mark and not hidden:
            marks += 1
        else:
            marks = _MARKS_IN_A_ROW if hidden else 0
    return out


def visible(text: str, also: str = "") -> str:
    """`text` with every character that a screen would obey, reorder or hide written as an escape.

    The result is one line. `ast.literal_eval` of it in quotes gives the text back.
    """
    return "".join(units(text, also))


def quoted(text: str, width: int | None = None) -> str:
    """`visible` in double quotes, so that outer spaces show; cut to `width` columns."""
    return f'"{shorten(text, width, also=chr(34))}"'


def shorten(text: str, width: int | None, also: str = "") -> str:
    """`visible`, cut in the middle to at most `width` columns; no escape is cut in half."""
    parts = units(text, also)
    whole = "".join(parts)
    if width is None or cell_len(whole) <= width:
        return whole
    tail = _take(parts[::-1], (width - 1) // 4)[::-1]
    head = _take(parts, width - 1 - sum(cell_len(part) for part in tail))
    return "".join(head) + _ELLIPSIS + "".join(tail)


def _take(parts: list[str], width: int) -> list[str]:
    """As many leading parts as fit into `width` columns."""
    used = 0
    for count, part in enumerate(parts):
        used += cell_len(part)
        if used > width:
            return parts[:count]
    return parts
