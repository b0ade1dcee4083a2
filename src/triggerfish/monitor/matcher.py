"""Where in a text is which trigger? One pass of Aho-Corasick over normalised texts finds those that
can have one; these are checked in three ways.

Tokens: windows around the hits are tokenised and the trigger's ids looked for. A text whose ids
contain a trigger's never passes (substrings.py says why). Subset: where the scan found a minimal
sufficient subset of a trigger's tokens, words that have these in their order. Text: the trigger's
words in the normalised text, to catch other ways of writing them: other case, accents, zero-width
characters, look-alike letters, HTML entities.

Time and memory are linear in the text, whatever it is made of: strings and ids are found in one
pass for all triggers together (search.py), subsets and phrases in one pass over the places of their
tokens and words. Triggers that are not in a text cost nothing. tests/hostile/monitor_load.py
measures it.

Sources: Aho and Corasick 1975; Patronus (arXiv 2512.06899) for the idea of guarding inputs with
what a scan found.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from triggerfish.foreign import foreign
from triggerfish.monitor.normalise import NormalisedText, folded, is_ambiguous, resolved
from triggerfish.monitor.search import Search
from triggerfish.monitor.settings import MonitorSettings
from triggerfish.monitor.substrings import (
    RequiredSubstring,
    required_substring,
    unmapped_characters,
    unsafe_characters,
)
from triggerfish.monitor.tokenizer import EXPECTED, Tokenizer
from triggerfish.monitor.windows import Windows, cuts, cuts_at_spaces, merged
from triggerfish.monitor.words import Phrases, Span, piece, words
from triggerfish.records import SEPARATOR, SUBSET_TOKENS, TOKEN_PREFIX, Trigger, by_word

_SPACE = re.compile(r"\s")
_ID = array("I").itemsize


@dataclass(frozen=True)
class Match:
    """A trigger in a text; spans and seen_by as in `records.Alarm`."""

    trigger: Trigger
    spans: tuple[Span, ...]
    seen_by: Literal["tokens", "text"]


@dataclass(frozen=True)
class Part:
    """What must be in a text: a whole trigger, one of the words of a combination, or a sufficient
    subset. ids: empty where there is no tokenizer; of a subset, in their order within
    `SUBSET_TOKENS` tokens, and otherwise in a row. substring: None where every text must be
    tokenised to know. words: as a reader sees them, or none. order: of a subset, strings that a
    normalised text must have in this order. across: whether a subset may lie in several words."""

    ids: tuple[int, ...]
    substring: RequiredSubstring | None
    words: tuple[str, ...] = ()
    subset: bool = False
    order: tuple[str, ...] = ()
    across: bool = False


class Matcher:
    """slow: triggers for which every text must be tokenised."""

    def __init__(
        self,
        triggers: Sequence[Trigger],
        tokenizer: Tokenizer | None,
        settings: MonitorSettings = MonitorSettings(),
        subsets: Mapping[Trigger, Sequence[Sequence[int]]] | None = None,
    ):
        self.tokenizer = tokenizer
        self._cuts, unmapped = False, frozenset[str]()
        if tokenizer is not None:
            with foreign(f"tokenizer: cannot use {tokenizer.file}", EXPECTED):
                self._cuts = cuts_at_spaces(tokenizer)
                unmapped = unmapped_characters(tokenizer)
                unsafe_characters(tokenizer)
                tokenizer.pieces("a")
        self._parts: list[Part] = []
        self._owner: list[int] = []
        self._triggers: list[tuple[Trigger, list[int], list[list[int]]]] = []
        subset_parts = _subset_parts(subsets or {}, tokenizer) if settings.cores else {}
        for trigger in dict.fromkeys(triggers):
            own = [
                _part(*part, trigger, tokenizer, settings) for part in _parts(trigger, tokenizer)
            ]
            numbers = [self._number(part) for part in own]
            below = [[self._number(part) for part in x] for x in subset_parts.get(trigger, ())]
            self._triggers.append((trigger, numbers, below))
        always = [n for n, part in enumerate(self._parts) if part.ids and part.substring is None]
        self._always = bool(always)
        self.slow = [self._triggers[n][0] for n in dict.fromkeys(self._owner[n] for n in always)]
        self._index_tokens()
        self._index_strings(settings)
        self._unmapped = (
            re.compile(f"[{re.escape(''.join(sorted(unmapped)))}]") if unmapped else None
        )
        self._in_ascii = any(map(str.isascii, unmapped))

    def _number(self, part: Part) -> int:
        self._parts.append(part)
        self._owner.append(len(self._triggers))
        return len(self._parts) - 1

    def _index_tokens(self) -> None:
        """Rows of ids, with the parts that are such a row; subsets by their rarest id."""
        rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        scattered: list[int] = []
        for number, part in enumerate(self._parts):
            if part.subset and len(part.ids) < SUBSET_TOKENS:
                scattered.append(number)
            elif part.ids:  # a subset that fills its reach is a row too
                rows[part.ids].append(number)
        known = {ids: own for ids, own in rows.items() if 0 <= min(ids) <= max(ids) < 1 << 32}
        self._rows = list(known.values())
        self._row_search = Search([array("I", ids).tobytes() for ids in known])
        count = Counter(i for number in scattered for i in set(self._parts[number].ids))
        self._scattered: dict[int, list[int]] = defaultdict(list)
        for number in scattered:
            if ids := self._parts[number].ids:
                self._scattered[min(ids, key=count.__getitem__)].append(number)

    def _index_strings(self, settings: MonitorSettings) -> None:
        """Strings to look for in normalised texts; `_needed` are those without which a text has no
        trigger."""
        phrases = {n: part.words for n, part in enumerate(self._parts) if part.words}
        self._phrases = Phrases(phrases, window=settings.window, whole=self.tokenizer is not None)
        needed = {max(phrase, key=len) for phrase in phrases.values()}
        self._words = frozenset(word for phrase in phrases.values() for word in phrase)
        # Ids before and after a string of a row; strings in order, by the one that is looked for.
        self._around: dict[str, tuple[int, int]] = {}
        self._orders: dict[tuple[str, bool], dict[tuple[str, ...], None]] = defaultdict(dict)
        for part in self._parts:
            if part.substring is None:
                continue
            text, before, after = part.substring.text, part.substring.before, part.substring.after
            needed.add(text)
            if part.subset:
                self._orders[text, part.across][part.order] = None
            else:
                known = self._around.get(text, (0, 0))
                self._around[text] = max(before, known[0]), max(after, known[1])
        self._of_tokens = frozenset(self._around) | {text for text, _ in self._orders}
        self._strings = list(dict.fromkeys([*needed, *self._words]))
        self._needed = frozenset(n for n, text in enumerate(self._strings) if text in needed)
        self._search = Search([text.encode("utf-8") for text in self._strings])

    def matches(self, text: str) -> list[Match]:
        """Every trigger that is in the text."""
        present = self._present(folded(text))
        hidden = self._present(folded(resolved(text))) if is_ambiguous(text) else frozenset()
        unmapped = self._has_unmapped(text)
        if not (present or hidden or unmapped or self._always):
            return []
        normalised = NormalisedText(text)
        by_tokens = self._by_tokens(text, normalised, present & self._of_tokens, unmapped)
        by_text: dict[int, list[Span]] = defaultdict(list)
        second = NormalisedText(text, second=True) if hidden else normalised
        for shown, strings in ((normalised, present), (second, hidden)):
            if strings & self._words:
                places = (x for x in self._places(shown.text) if x[2] in self._words)
                for number, spans in self._phrases.find(shown.text, places).items():
                    by_text[number] += [shown.span(*span) for span in spans]
        return list(self._verdicts(by_tokens, by_text))

    def _present(self, data: bytes) -> frozenset[str]:
        return frozenset(self._strings[n] for n in self._search.present(data) & self._needed)

    def _places(self, text: str) -> Iterator[tuple[int, int, str]]:
        for start, end, number in self._search.places_in_text(text):
            yield start, end, self._strings[number]

    def _has_unmapped(self, text: str) -> bool:
        if self._unmapped is None or (text.isascii() and not self._in_ascii):
            return False
        return self._unmapped.search(text) is not None

    def _verdicts(
        self, by_tokens: Mapping[int, list[Span]], by_text: Mapping[int, list[Span]]
    ) -> Iterator[Match]:
        for index in sorted({self._owner[number] for number in (*by_tokens, *by_text)}):
            trigger, own, subsets = self._triggers[index]
            spans = [[*by_tokens.get(n, ()), *by_text.get(n, ())] for n in own]
            found = [[by_tokens.get(n, ()) for n in subset] for subset in subsets]
            subset = [span for one in found if all(one) for part in one for span in part]
            if all(spans) or subset:
                exact = subset or all(by_tokens.get(n) for n in own)
                whole = [span for one in spans for span in one] if all(spans) else []
                every = tuple(merged([*whole, *subset], touching=False))
                yield Match(trigger, every, "tokens" if exact else "text")

    def _by_tokens(
        self, text: str, normalised: NormalisedText, present: frozenset[str], unmapped: bool
    ) -> dict[int, list[Span]]:
        """Spans, by part, of what the tokenizer makes a trigger's ids of. present: strings of
        tokens that are there; unmapped: the normalised form says nothing about this text."""
        found: dict[int, list[Span]] = defaultdict(list)
        everywhere = unmapped or self._always
        if self.tokenizer is None or not (present or everywhere):
            return found
        if everywhere or not self._cuts:
            windows = [(0, len(text))]
        else:
            windows = self._windows(text, normalised, present)
        for start, end in windows:
            tokens = self.tokenizer.pieces(text[start:end])
            spans = [(start + first, start + last) for first, last in tokens.spans]
            spaces = [start + match.start() for match in _SPACE.finditer(text[start:end])]
            for number, first, last in self._runs(tokens.ids):
                part, own = self._parts[number], found[number]
                begin, finish = _tight(text, spans[first][0], spans[last][1])
                if not part.subset:
                    _add(own, begin, finish)
                elif part.across or bisect_left(spaces, begin) == bisect_left(spaces, finish):
                    _add(own, *_word(text, begin, finish, own))
        return {number: own for number, own in found.items() if own}

    def _runs(self, ids: list[int]) -> Iterator[tuple[int, int, int]]:
        """(part, first, last) places of parts among ids, by part in ascending order."""
        for start, end, number in self._row_search.places(array("I", ids).tobytes()):
            if start % _ID == 0:
                for part in self._rows[number]:
                    yield part, start // _ID, end // _ID - 1
        if not self._scattered:
            return
        places: dict[int, list[int]] = defaultdict(list)
        for place, token_id in enumerate(ids):
            places[token_id].append(place)
        for token_id in [i for i in places if i in self._scattered]:
            for part in self._scattered[token_id]:
                wanted = self._parts[part].ids
                if all(i in places for i in wanted):
                    for first, last in _in_order(places, wanted):
                        yield part, first, last

    def _windows(
        self, text: str, normalised: NormalisedText, present: frozenset[str]
    ) -> list[Span]:
        around = [(0, 0), *(self._around[x] for x in present if x in self._around)]
        where = cuts(text)
        rows = Windows(text, where, *map(max, zip(*around, strict=True)))
        orders = {
            (string, across): Windows(text, where, reach, reach)
            for string in present
            for across, reach in ((False, 0), (True, SUBSET_TOKENS))
            if (string, across) in self._orders
        }
        for start, end, string in self._places(normalised.text):
            if string not in present:
                continue
            span = normalised.span(start, end)
            if string in self._around:
                rows.add(*span)
            for across in (False, True):
                if windows := orders.get((string, across)):
                    windows.add(*span)
        found = list(rows.found)
        for key, windows in orders.items():
            for start, end in windows.found:
                shown = folded(text[start:end]).decode("utf-8")
                if any(_has_in_order(shown, order) for order in self._orders[key]):
                    found.append((start, end))
        return merged(found, touching=True)


def _parts(trigger: Trigger, tokenizer: Tokenizer | None) -> list[tuple[str, tuple[int, ...]]]:
    """(text, ids) of what must be there of a trigger; ValueError where its ids do not fit the
    tokenizer."""
    for token_id in trigger.token_ids if tokenizer else ():
        if tokenizer and not tokenizer.piece(token_id):
            raise ValueError(
                f"tokenizer: it has no entry {token_id}, which trigger {trigger.text!r} needs; "
                "expected the tokenizer of the scanned model"
            )
    if tokenizer and not trigger.token_ids:
        raise ValueError(f"trigger: {trigger.text!r} has no token ids")
    if trigger.kind != "combination":
        return [(trigger.text, trigger.token_ids)]
    names = trigger.text.split(SEPARATOR)
    if tokenizer is None:
        return [(name, ()) for name in names]
    parts = [(name, tokenizer.word_ids(name)) for name in names]
    if not all(ids for _, ids in parts):
        raise ValueError(f"trigger: {trigger.text!r} has a word without token ids")
    if tuple(i for _, ids in parts for i in ids) != trigger.token_ids:
        raise ValueError(
            f"tokenizer: it gives the words of {trigger.text!r} other ids than the findings; "
            "expected the tokenizer of the scanned model"
        )
    return parts


def _part(
    text: str,
    ids: tuple[int, ...],
    trigger: Trigger,
    tokenizer: Tokenizer | None,
    settings: MonitorSettings,
) -> Part:
    bare = trigger.kind == "token"
    shown = piece(text.removeprefix(TOKEN_PREFIX)) if bare else text
    if tokenizer is None:
        sought = words(shown)
        if not sought:
            raise ValueError(
                f"trigger: {trigger.text!r} has no visible characters, so it can only be found "
                "with the tokenizer of the scanned model"
            )
        return Part((), None, sought)
    # A token trigger listens to one id wherever it stands; its letters as a word are nothing to it.
    hardened = settings.hardened and not bare
    # The tokenizer reads an added token as it is written, so its punctuation belongs to it.
    edges = all(i in tokenizer.added for i in ids)
    sought = words(shown, edges=edges) if hardened else ()
    return Part(tuple(ids), required_substring(tokenizer, ids), sought)


def _subset_parts(
    subsets: Mapping[Trigger, Sequence[Sequence[int]]], tokenizer: Tokenizer | None
) -> dict[Trigger, list[list[Part]]]:
    """What is sought of the subsets that say more than their triggers do: for each, parts that must
    all be there."""
    if tokenizer is None:
        return {}

    @cache
    def single(token_id: int) -> RequiredSubstring | None:
        return required_substring(tokenizer, [token_id])

    def part(ids: Sequence[int], across: bool) -> Part:
        order = [one for one in map(single, ids) if one]
        longest = max(order, key=lambda one: len(one.text), default=None)
        texts = tuple(one.text for one in order)
        return Part(tuple(ids), longest, subset=True, order=texts, across=across)

    def split(ids: tuple[int, ...], trigger: Trigger) -> list[Part]:
        if trigger.kind != "combination":
            return [part(ids, trigger.kind == "phrase")]
        words = [word for _, word in _parts(trigger, tokenizer)]
        return [part(own, False) for own in by_word(ids, words)]

    return {
        trigger: [split(tuple(ids), trigger) for ids in own
                  if not tuple(ids) == trigger.token_ids == tokenizer.word_ids(trigger.text)]
        for trigger, own in subsets.items()
    }  # fmt: skip


def _has_in_order(text: str, strings: Iterable[str]) -> bool:
    at = 0
    for string in strings:
        found = text.find(string, at)
        if found < 0:
            return False
        at = found + len(string)
    return True


def _in_order(
    places: Mapping[int, Sequence[int]], wanted: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """(first, last) places of ids in their order within `SUBSET_TOKENS`: from each place of the
    first one, the nearest of the others. Only places near the rarest id are looked at."""
    opening, rows = places[wanted[0]], [places[token_id] for token_id in wanted[1:]]
    rarest = min((opening, *rows), key=len)
    near = merged([(at - SUBSET_TOKENS + 1, at + 1) for at in rarest], touching=True)
    heads = [0] * len(rows)
    for low, high in near:
        for first in opening[bisect_left(opening, low) : bisect_left(opening, high)]:
            last = first
            for number, row in enumerate(rows):
                heads[number] = bisect_right(row, last, heads[number])
                if heads[number] == len(row):
                    return
                last = row[heads[number]]
            if last < first + SUBSET_TOKENS:
                yield first, last


def _add(spans: list[Span], start: int, end: int) -> None:
    """Add a span, joined with the last one where they overlap."""
    if spans and start < spans[-1][1] and end > spans[-1][0]:
        start, end = min(start, spans[-1][0]), max(end, spans.pop()[1])
    spans.append((start, end))


def _tight(text: str, start: int, end: int) -> Span:
    """A span without the spaces at its ends, and never empty."""
    first, last = start, end
    while first < last and text[first].isspace():
        first += 1
    while last > first and text[last - 1].isspace():
        last -= 1
    if first < last:
        return first, last
    if start < end:
        return start, end
    return (start, start + 1) if start < len(text) else (max(0, start - 1), start)


def _word(text: str, start: int, end: int, done: Sequence[Span]) -> Span:
    """A span with the letters and digits beside it, in scripts that have spaces between words.
    done: spans before; what begins or ends in the last of them is joined with it."""

    def inside(char: str) -> bool:
        return char.isdigit() or char.lower() != char.upper()

    low, high = done[-1] if done else (0, 0)
    if low <= start < high:
        start = low
    while start > 0 and not low < start < high and inside(text[start - 1]):
        start -= 1
    if low < end < high:
        end = high
    while end < len(text) and inside(text[end]):
        end += 1
    return start, end
