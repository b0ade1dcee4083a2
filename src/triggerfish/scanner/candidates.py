"""Candidates of the screening: every vocabulary token, and every listed word of several tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from triggerfish.backbone import Backbone

LONGEST_WORD = 8
"""Subword tokens per word at most. Longer words are counted as not examined."""


@dataclass(frozen=True)
class Candidate:
    """Token ids that may be inserted into a text, with their surface form. `kind` is the source: a
    vocabulary token, a listed word, or an extended candidate."""

    token_ids: tuple[int, ...]
    text: str
    kind: Literal["entry", "word", "grown"]


def entries(backbone: Backbone) -> list[Candidate]:
    """One candidate for each vocabulary token that is not special, in order of id."""
    ids = backbone.vocabulary
    return [
        Candidate((i,), surface, "entry")
        for i, surface in zip(ids, backbone.tokenizer.batch_decode([[i] for i in ids]), strict=True)
    ]


def spellings(backbone: Backbone, words: Sequence[str]) -> list[str]:
    """The words in the forms that are tried, each form once.

    The forms are the word as listed, the word in lower case, and the surface form of every subword
    token of ASCII letters: such a string may be tokenized differently when it stands alone
    (docs/decisions/0011).
    """
    surfaces = (x.text.removeprefix("##").strip() for x in entries(backbone))
    pieces = [x for x in surfaces if x.isascii() and x.isalpha()]
    return list(dict.fromkeys([*words, *(word.lower() for word in words), *pieces]))


def several_pieces(backbone: Backbone, words: Iterable[str]) -> tuple[list[Candidate], int]:
    """Candidates for the words of 2 to `LONGEST_WORD` subword tokens, in order and without repeats,
    and the number of longer words that were left out."""
    unknown = backbone.tokenizer.unk_token_id
    found: dict[tuple[int, ...], str] = {}
    too_long = 0
    for word, ids in backbone.words_ids(list(words)):
        if unknown in ids or len(ids) < 2:
            continue
        if len(ids) > LONGEST_WORD:
            too_long += 1
            continue
        found.setdefault(ids, word)
    return [Candidate(ids, word, "word") for ids, word in found.items()], too_long
