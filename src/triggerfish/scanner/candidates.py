"""Candidates of the screening: every token that the model can read, and every listed word of
several tokens.

What a text can contain is decided by what the tokenizer does with strings, never by what the
checkpoint calls a token: users can type special and added tokens too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass
class Listing:
    """What the tokenizer makes of strings.

    words: strings of 2 to `LONGEST_WORD` tokens, the first one for each sequence of ids. single:
    the first string for each token that one gives by itself. seen: all tokens that came out.
    too_long, unknown, empty, unreadable: numbers of strings that are no candidates, because they
    have too many tokens, only unknown tokens, no token, or a token without an embedding.
    """

    words: dict[tuple[int, ...], str] = field(default_factory=dict)
    single: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    too_long: int = 0
    unknown: int = 0
    empty: int = 0
    unreadable: int = 0

    @classmethod
    def of(cls, backbone: Backbone, strings: Iterable[tuple[str, tuple[int, ...]]]) -> Listing:
        """strings: with their ids, as of `Backbone.words_ids`."""
        listing = cls()
        rows, unknown = len(backbone.embeddings), backbone.tokenizer.unk_token_id
        for string, ids in strings:
            listing.seen.update(ids)
            if not ids:
                listing.empty += 1
            elif max(ids) >= rows:
                listing.unreadable += 1
            elif len(ids) > LONGEST_WORD:
                listing.too_long += 1
            elif len(ids) == 1:
                listing.single.setdefault(ids[0], string)
                listing.unknown += ids[0] == unknown
            else:
                listing.words.setdefault(ids, string)
        return listing

    def candidates(self) -> list[Candidate]:
        """The words, in their order."""
        return [Candidate(ids, word, "word") for ids, word in self.words.items()]


def entries(
    backbone: Backbone, listings: Sequence[Listing] = ()
) -> tuple[list[Candidate], list[Candidate]]:
    """One candidate for each token that the model can read, in order of id, and those of them that
    no string gives. Tokens that a string gives count whether or not the vocabulary lists them.

    The text of a candidate is its surface form. If this form has other tokens, the text is the
    first string of the listings that gives the token.
    """
    typed = {i: string for x in reversed(listings) for i, string in x.single.items()}
    surfaces = {i: backbone.surface((i,)) for i in sorted({*backbone.readable, *typed})}
    own = dict(backbone.words_ids(list(dict.fromkeys(surfaces.values()))))
    seen = {i for ids in own.values() for i in ids}.union(*(x.seen for x in listings))
    found = [
        Candidate((i,), x if own[x] == (i,) else typed.get(i, x), "entry")
        for i, x in surfaces.items()
    ]
    return found, [x for x in found if x.token_ids[0] not in seen]


def spellings(backbone: Backbone, words: Sequence[str]) -> list[str]:
    """The words in the forms that are tried, each form once.

    The forms are the word as listed, the word in lower case, and the surface form of every subword
    token of ASCII letters: such a string may be tokenized differently when it stands alone
    (docs/decisions/0011). Strings that the tokenizer's normaliser replaces come first: a token
    may be reached through these only.
    """
    surfaces = (backbone.surface((i,)).removeprefix("##") for i in backbone.readable)
    subwords = [x for x in surfaces if x.isascii() and x.isalpha()]
    replaced = _replaced(backbone)
    return list(dict.fromkeys([*replaced, *words, *(word.lower() for word in words), *subwords]))


def _replaced(backbone: Backbone) -> list[str]:
    """Strings that the normaliser of the tokenizer replaces by others."""
    backend = getattr(backbone.tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return []
    return list(_patterns(json.loads(backend.normalizer.__getstate__())))


def _patterns(part: dict[str, Any]) -> Iterator[str]:
    for inner in part.get("normalizers", ()):
        yield from _patterns(inner)
    yield from (string.strip() for string in part.get("pattern", {}).values() if string.strip())
