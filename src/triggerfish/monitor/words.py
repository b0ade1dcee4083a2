"""A trigger as a reader would recognise it: its words, in their order, in a normalised text.

With the model's tokenizer beside it, it is for evasions only, so it wants whole words. Without, it
is all there is: then it matches inside words too, because the tokenizer might cut there.

Two words of a phrase are next to each other when there are at most `window` other words between
them. The first match is the one that ends first; the next one begins after it. One pass over the
places of a phrase's words, near its rarest word, finds them: at each place, the parts of the phrase
that may end there are known with their earliest beginning. Time is linear in these places and in
the words of the phrase.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from triggerfish.monitor.normalise import FOLD, SPACE_MARK
from triggerfish.monitor.windows import merged

Span = tuple[int, int]
_PIECE = re.compile(r"^(##|\u0120|\u2581)|(</w>|@@)$")
_WORD = re.compile(r"[^\W_]+")


def words(part: str, *, edges: bool = False) -> tuple[str, ...]:
    """The words of a trigger, or of a part of a combination, with or without the punctuation at
    their edges; none where nothing of it is visible."""
    shown = part.replace(SPACE_MARK, " ").translate(FOLD).split()
    return tuple(shown if edges else (_bare(word) or word for word in shown))


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while start < end and not word[end - 1].isalnum():
        end -= 1
    return word[start:end]


def piece(token: str) -> str:
    """What a vocabulary entry stands for, without its mark of a word's start or inside."""
    return _PIECE.sub("", token)


class Phrases:
    """Phrases by number, to be found in normalised texts. window: other words that may stand
    between two words. whole: match whole words only."""

    def __init__(self, phrases: Mapping[int, Sequence[str]], *, window: int, whole: bool):
        self._phrases = {number: tuple(phrase) for number, phrase in phrases.items()}
        self._window = window
        self._whole = whole
        self._alone: dict[str, list[int]] = defaultdict(list)
        # By the word that the fewest phrases have: one word in a text brings up few of them.
        self._by_rarest: dict[str, list[int]] = defaultdict(list)
        several = {n: frozenset(x) for n, x in self._phrases.items() if len(x) > 1}
        count = Counter(word for phrase in several.values() for word in phrase)
        for number, phrase in self._phrases.items():
            if number in several:
                self._by_rarest[min(phrase, key=count.__getitem__)].append(number)
            else:
                self._alone[phrase[0]].append(number)
        self._in_several = frozenset(count)

    def find(self, text: str, places: Iterable[tuple[int, int, str]]) -> dict[int, list[Span]]:
        """Spans of each phrase that is in the text. places: (start, end, word), by start, of every
        word of a phrase."""
        alone: dict[str, list[Span]] = {}
        seen: dict[str, list[int]] = defaultdict(list)
        for start, end, word in places:
            if self._whole and not _is_whole(text, start, end):
                continue
            if word in self._alone:
                spans = alone.setdefault(word, [])
                if not spans or start >= spans[-1][1]:
                    spans.append((start, end))
            if word in self._in_several:
                seen[word].append(start)
        found = {number: spans for word, spans in alone.items() for number in self._alone[word]}
        candidates = [n for word in seen for n in self._by_rarest.get(word, ())]
        candidates = [n for n in candidates if all(word in seen for word in self._phrases[n])]
        if candidates:
            begins = [match.start() for match in _WORD.finditer(text)]
            for number in candidates:
                if spans := self._matches(text, self._phrases[number], seen, begins):
                    found[number] = spans
        return found

    def _matches(
        self,
        text: str,
        phrase: tuple[str, ...],
        seen: Mapping[str, Sequence[int]],
        begins: Sequence[int],
    ) -> list[Span]:
        spans: list[Span] = []
        # Where a part of the phrase may go on: the number of the word, and where the phrase began.
        waiting: dict[int, dict[int, int]] = {}
        done = 0
        near = self._near(text, phrase, seen, begins)
        places = {
            word: {
                x
                for a, b in near
                for x in seen[word][bisect_left(seen[word], a) : bisect_left(seen[word], b)]
            }
            for word in set(phrase)
        }
        for at in sorted(set().union(*places.values())):
            here = waiting.pop(at, {})
            if at >= done:
                here[0] = at
            for number, start in here.items():
                if at not in places[phrase[number]]:
                    continue
                end = at + len(phrase[number])
                if number + 1 == len(phrase):
                    spans.append((start, end))
                    done = end
                    waiting.clear()
                    break
                for place in self._next(text, end, begins):
                    there = waiting.setdefault(place, {})
                    there[number + 1] = min(start, there.get(number + 1, start))
        return spans

    def _near(
        self,
        text: str,
        phrase: tuple[str, ...],
        seen: Mapping[str, Sequence[int]],
        begins: Sequence[int],
    ) -> list[Span]:
        """Where the phrase can be at all: around the places of its rarest word in this text."""
        reach = sum(map(len, phrase)) + len(phrase) * self._window  # letters or digits in a row
        found = []
        for place in min((seen[word] for word in phrase), key=len):
            here = bisect_left(begins, place)
            after = here + reach
            low = begins[here - reach] if here > reach else 0
            found.append((low, begins[after] if after < len(begins) else len(text)))
        return merged(found, touching=True)

    def _next(self, text: str, end: int, begins: Sequence[int]) -> Sequence[int]:
        """Where the word after one that ends here may begin."""
        if end < len(text) and text[end].isalnum():
            return () if self._whole else (end,)
        first = bisect_left(begins, end)
        return begins[first : first + self._window + 1]


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no letter or digit goes on across the edges of a word."""
    return not (
        (start > 0 and text[start].isalnum() and text[start - 1].isalnum())
        or (end < len(text) and text[end].isalnum() and text[end - 1].isalnum())
    )
