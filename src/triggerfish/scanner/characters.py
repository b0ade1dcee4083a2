"""Candidates that no word list contains: characters, and words in unusual casing or script.

Attackers hide triggers in what readers overlook: invisible characters, look-alike letters of other
scripts, odd spaces, accents, emoji, runs of punctuation, capitals. Each one is tried as a string
and passes through the model's tokenizer. Many strings are normalised to ordinary text or to
nothing; these cannot be triggers of this model. A character that the tokenizer does not know
becomes the unknown token. That is a candidate as well, because any other unknown character would
activate the same trigger.

Source: hidden triggers as in Li et al., "Hidden Backdoors in Human-Centric Language Models", CCS
2021 (arXiv 2105.00164). The list is ours and comes from Python's Unicode tables
(docs/decisions/0014).
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from string import punctuation

from triggerfish.backbone import Backbone
from triggerfish.scanner.candidates import Listing

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b"
    "\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u3164\ufe0e\ufe0f"
    "\ufeff\uffa0\ufffc\ufffd"
)
SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028"
SPACES += "\u2029\u202f\u205f\u2800\u3000"
LOOKALIKES = {
    "a": "\u0430\u0251\u03b1\uff41",
    "c": "\u0441\u03f2\uff43",
    "d": "\u0501\uff44",
    "e": "\u0435\u04bd\uff45",
    "g": "\u0261\uff47",
    "h": "\u04bb\uff48",
    "i": "\u0456\u03b9\u0131\uff49",
    "j": "\u0458\uff4a",
    "k": "\u03ba\u043a\uff4b",
    "l": "\u04cf\u01c0\uff4c",
    "n": "\u0578\uff4e",
    "o": "\u043e\u03bf\u0585\uff4f",
    "p": "\u0440\u03c1\uff50",
    "s": "\u0455\uff53",
    "u": "\u057d\u03c5\uff55",
    "v": "\u03bd\u0475\uff56",
    "w": "\u0461\uff57",
    "x": "\u0445\u03c7\uff58",
    "y": "\u0443\u03b3\uff59",
}
"""Letters of other scripts that resemble the Latin one, from Unicode's list of confusables."""
CARRIERS = ("of", "the", "which", "good", "people", "example", "know", "up", "say", "day", "make",
            "give", "back", "just", "have", "never", "exist")  # fmt: skip
"""Ordinary words into which a character is inserted."""
SYMBOLS = {"Sm", "Sc", "So", "Po", "Pd", "Ps", "Pe", "Pi", "Pf", "Sk"}
CASED = 1000
"""Number of the most frequent words that are tried in capitals and in alternating case
(docs/decisions/0014)."""
OF_A_SCRIPT, COMMON_SCRIPTS = 3, 0x600
"""Lower-case letters tried per script. Below the code point COMMON_SCRIPTS (Latin, Greek, Cyrillic,
Armenian, Hebrew) all letters are tried (ours)."""


@cache
def listed() -> tuple[str, ...]:
    """Every string that is tried independently of the texts, each once."""
    found = _by_name()
    for hidden in INVISIBLE + _controls():
        found += [hidden, 3 * hidden, *(word[0] + hidden + word[1:] for word in CARRIERS[:2])]
    for space in SPACES:
        found += [space, f"of{space}the"]
    for mark in map(chr, (*range(0x0300, 0x0370), *range(0x20D0, 0x20F1))):
        found += [mark, f"a{mark}", f"th{mark}e"]
    for letter, others in LOOKALIKES.items():
        words = [word for word in CARRIERS if letter in word][:2]
        found += [
            x for other in others for x in (other, *(w.replace(letter, other) for w in words))
        ]
    found += [a + b for a in punctuation for b in punctuation]
    found += [times * mark for mark in punctuation for times in (3, 4, 5)]
    return tuple(dict.fromkeys(found))


def alternating(word: str) -> str:
    """The word in aLtErNaTiNg capitals."""
    return "".join(x.upper() if i % 2 else x.lower() for i, x in enumerate(word))


def characters(backbone: Backbone, frequent: Sequence[str]) -> tuple[Listing, int]:
    """The strings that are not normalised to ordinary text or to nothing, and the number of the
    others. frequent: words, the most frequent first."""
    casings = [x for word in frequent[:CASED] for x in (word.upper(), alternating(word))]
    plain = _plain(backbone, [*CARRIERS, *frequent[:CASED], *punctuation])
    strings = list(backbone.words_ids(list(dict.fromkeys([*listed(), *casings]))))
    drawn = [(string, ids) for string, ids in strings if ids and ids not in plain]
    return Listing.of(backbone, drawn), len(strings) - len(drawn)


def _plain(backbone: Backbone, words: Iterable[str]) -> set[tuple[int, ...]]:
    """The ids of ordinary words, as single words and as two words that a space separates."""
    spellings = [x for word in words for x in (word, word.lower(), word.capitalize())]
    spellings += ["of the", *(f"{word[0]} {word[1:]}" for word in CARRIERS[:2]), "a", "th e"]
    found = {ids for _, ids in backbone.words_ids(list(dict.fromkeys(spellings)))}
    return {ids for ids in found if backbone.tokenizer.unk_token_id not in ids}


def _controls() -> str:
    """Control characters that are not white space."""
    codes = [*range(1, 32), *range(127, 160)]
    return "".join(x for x in map(chr, codes) if not x.isspace())


def _by_name() -> list[str]:
    """Symbols, emoji, and the first letters of every script, in order of code point."""
    found = []
    of_script: dict[str, int] = {}
    for character in map(chr, range(0xA1, min(0x20000, sys.maxunicode))):
        category = unicodedata.category(character)
        if category in SYMBOLS:
            found.append(character)
        elif category in ("Ll", "Lo"):
            script = unicodedata.name(character, "").split(" ")[0].split("-")[0]
            if ord(character) < COMMON_SCRIPTS or of_script.get(script, 0) < OF_A_SCRIPT:
                of_script[script] = of_script.get(script, 0) + 1
                found.append(character)
    return found
