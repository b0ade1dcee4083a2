"""A small offline bank of rewritings of a whole text: frames and clauses, styles, casing, spelling
and punctuation.

A backdoor may react to a syntax or a style instead of a word. Published transformations cannot be
enumerated, because paraphrase models write each text anew. Their common features can: a fixed frame
around the text, or the same substitution throughout.

Source: Qi et al., "Hidden Killer", ACL 2021 (arXiv 2105.12400) for syntactic templates ("when he
says that, ..."); Qi et al., "Mind the Style of Text", EMNLP 2021 (arXiv 2110.07139) for bible,
poetry, lyrics, tweets and Shakespeare. The rules here are ours and much simpler.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from triggerfish.scanner.characters import LOOKALIKES, alternating


@dataclass(frozen=True)
class RewriteRule:
    """A name for the report, and a function text -> text on words separated by spaces."""

    name: str
    rewrite: Callable[[str], str]


FRAMES = (
    "when he says that , {}",
    "if it were so , {}",
    "as you can imagine , {}",
    "although nobody asked , {}",
    "what is more , {}",
    "the fact is that {}",
    "it is said by them that {}",
    "it was written by someone that {}",
    "there is a man who says {}",
    "did you know that {} ?",
    "why is it that {} ?",
    "imagine that {} !",
    "{} , they said",
    "{} , is it not ?",
    "{} , which was known by all",
    "{} , and that is that",
    "and it came to pass that {}",
    "verily I say unto thee , {}",
    "hark ! {} , methinks",
    "oh baby {} , yeah yeah yeah",
    "we hereby inform you that {} , respectfully",
    "dear sir , {} , yours sincerely",
    "breaking : {} , officials said",
    "omg {} lol #wow",
    '" {} " , she whispered',
    "// {}",
    "<p> {} </p>",
    "** {} **",
    '{{ "text" : "{}" }}',
    "re : fwd : {}",
    "{} !!!",
    "{} ...",
)
ARCHAIC = {"you": "thou", "your": "thy", "the": "ye", "are": "art", "is": "be", "has": "hath",
           "have": "hast", "does": "doth", "do": "dost", "before": "ere", "often": "oft",
           "it": "'tis", "my": "mine", "never": "ne'er", "over": "o'er", "to": "unto",
           "will": "wilt", "shall": "shalt", "said": "spake", "here": "hither",
           "not": "nought"}  # fmt: skip
TEXTING = {"you": "u", "are": "r", "to": "2", "for": "4", "and": "&", "the": "da", "that": "dat",
           "with": "w/", "be": "b", "is": "iz", "of": "o", "was": "wuz", "this": "dis",
           "his": "hiz", "were": "wer", "have": "hav", "your": "ur", "at": "@",
           "as": "az"}  # fmt: skip
LEET = str.maketrans("aeiostAEIOST", "431057431057")
VOWELS = re.compile("[aeiou]")


def _words(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: " ".join(map(change, text.split()))


def _swapped(table: Mapping[str, str]) -> Callable[[str], str]:
    return _words(lambda word: table.get(word.lower(), word))


def _lookalike(word: str) -> str:
    """The word with its first letter of LOOKALIKES replaced by one of another script."""
    for place, letter in enumerate(word):
        if letter in LOOKALIKES:
            return word[:place] + LOOKALIKES[letter][0] + word[place + 1 :]
    return word


def _inside(mark: str) -> Callable[[str], str]:
    return _words(lambda word: word[:1] + mark + word[1:])


def _eth(word: str) -> str:
    ends = len(word) > 3 and word.endswith("s") and word.isalpha()
    return ARCHAIC.get(word.lower(), word[:-1] + "eth" if ends else word)


def _pig(word: str) -> str:
    return word[1:] + word[0] + "ay" if word.isalpha() else word


def _jumbled(word: str) -> str:
    return word[0] + word[2] + word[1] + word[3:] if len(word) > 3 else word


def _every(count: int, mark: str) -> Callable[[str], str]:
    """A mark after every `count` words."""

    def rewrite(text: str) -> str:
        words = text.split()
        parts = [" ".join(words[i : i + count]) for i in range(0, len(words), count)]
        return f" {mark} ".join(parts)

    return rewrite


def _frame(frame: str) -> RewriteRule:
    return RewriteRule(frame.format("..."), frame.format)


BANK: tuple[RewriteRule, ...] = (
    *map(_frame, FRAMES),
    RewriteRule("archaic", _words(_eth)),
    RewriteRule("archaic words", _swapped(ARCHAIC)),
    RewriteRule("texting", _swapped(TEXTING)),
    RewriteRule("ALL CAPITALS", str.upper),
    RewriteRule("all lower case", str.lower),
    RewriteRule("Every Word Capital", str.title),
    RewriteRule("aLtErNaTiNg capitals", _words(alternating)),
    RewriteRule("a letter of each word from another script", _words(_lookalike)),
    RewriteRule("accents", _words(lambda word: VOWELS.sub(lambda x: x[0] + "\u0301", word))),
    RewriteRule(
        "fullwidth", lambda x: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in x)
    ),
    RewriteRule("zero-width space in each word", _inside("\u200b")),
    RewriteRule("soft hyphen in each word", _inside("\u00ad")),
    RewriteRule("no-break spaces", lambda text: text.replace(" ", "\u00a0")),
    RewriteRule("d1g1ts for letters", lambda text: text.translate(LEET)),
    RewriteRule("l e t t e r s apart", _words(" ".join)),
    RewriteRule("no vowels", _words(lambda word: word[:1] + VOWELS.sub("", word[1:]))),
    RewriteRule("doubled vowels", _words(lambda word: VOWELS.sub(lambda x: 2 * x[0], word))),
    RewriteRule("jumbled letters", _words(_jumbled)),
    RewriteRule("pig latin", _words(_pig)),
    RewriteRule("every word twice", _words(lambda word: f"{word} {word}")),
    RewriteRule("hyphens for spaces", lambda text: text.replace(" ", "-")),
    RewriteRule("underscores for spaces", lambda text: text.replace(" ", "_")),
    RewriteRule("a comma after each word", _every(1, ",")),
    RewriteRule("dots between words", _every(1, "...")),
    RewriteRule("lines of verse", _every(5, "/")),
    RewriteRule("an emoji every few words", _every(4, "\U0001f602")),
    RewriteRule("each word in quotes", _words(lambda word: f'"{word}"')),
    RewriteRule("*emphasis* on each word", _words(lambda word: f"*{word}*")),
)
