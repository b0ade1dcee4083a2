"""A trigger as a reader would recognise it: a regular expression for normalised texts, and the
longest string that a text must contain for it to match.

With the model's tokenizer beside it, it is for evasions only, so it wants whole words. Without, it
is all there is: then it matches inside words too, because the tokenizer might cut there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from triggerfish.monitor.normalise import FOLD, SPACE_MARK

_PIECE = re.compile(r"^(##|\u0120|\u2581)|(</w>|@@)$")
_EDGE = re.compile(r"^[\W_]+|[\W_]+$")


@dataclass(frozen=True)
class Words:
    required: str
    pattern: re.Pattern[str]


def words(part: str, *, window: int, whole: bool) -> Words | None:
    """The words of a trigger, or of a part of a combination; None where nothing of it is visible.

    window: other words that may stand between two of them. whole: match whole words only.
    """
    shown = part.replace(SPACE_MARK, " ").translate(FOLD).split()
    wanted = [_EDGE.sub("", word) or word for word in shown]
    if not wanted:
        return None
    between = rf"[\W_]++(?:[^\W_]++[\W_]++){{0,{window}}}?"
    if not whole:
        between = rf"(?:{between}|[\W_]*+)"
    pattern = between.join(map(re.escape, wanted))
    if whole:
        start = r"(?<![^\W_])" if wanted[0][0].isalnum() else ""
        end = r"(?![^\W_])" if wanted[-1][-1].isalnum() else ""
        pattern = start + pattern + end
    return Words(max(wanted, key=len), re.compile(pattern))


def piece(token: str) -> str:
    """What a vocabulary entry stands for, without its mark of a word's start or inside."""
    return _PIECE.sub("", token)
