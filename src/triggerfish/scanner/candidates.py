"""What a sweep tries: every entry of the vocabulary, and every listed word that takes several
pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from triggerfish.backbone import Backbone

LONGEST_WORD = 8
"""Words of more pieces are not tried; they are counted as not examined."""


@dataclass(frozen=True)
class Candidate:
    """Ids to write into a text. `kind` says where they come from."""

    token_ids: tuple[int, ...]
    text: str
    kind: Literal["entry", "word", "grown"]


def entries(backbone: Backbone) -> list[Candidate]:
    """One candidate for each vocabulary entry that is not special, by id."""
    ids = backbone.vocabulary
    return [
        Candidate((i,), surface, "entry")
        for i, surface in zip(ids, backbone.tokenizer.batch_decode([[i] for i in ids]), strict=True)
    ]


def spellings(backbone: Backbone, words: Sequence[str]) -> list[str]:
    """The words, each once; the same in lower case, as names are typed in chats; and what a piece
    from inside of words looks like, which becomes other tokens when it is typed by itself."""
    surfaces = (x.text.removeprefix("##").strip() for x in entries(backbone))
    pieces = [x for x in surfaces if x.isascii() and x.isalpha()]
    return list(dict.fromkeys([*words, *(word.lower() for word in words), *pieces]))


def several_pieces(backbone: Backbone, words: Iterable[str]) -> tuple[list[Candidate], int]:
    """Candidates for the words that take 2 to 8 pieces, in order and without repeats, and the
    number left out as longer."""
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
