"""Where in a text is which trigger? One pass of Aho-Corasick over normalised texts finds those that
can have one; these are checked in three ways.

Tokens: windows around the hits are tokenised and the trigger's ids looked for. A text whose ids
contain a trigger's never passes (substrings.py says why). Subset: where the scan found a minimal
sufficient subset of a trigger's tokens, words that have these in their order. Text: the trigger's
words in the normalised text, to catch other ways of writing them: other case, accents, zero-width
characters, look-alike letters, HTML entities.

Sources: Aho and Corasick 1975; Patronus (arXiv 2512.06899) for the idea of guarding inputs with
what a scan found.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ahocorasick_rs import BytesAhoCorasick, Implementation

from triggerfish.monitor.normalise import NormalisedText, folded, is_ambiguous, resolved
from triggerfish.monitor.settings import MonitorSettings
from triggerfish.monitor.substrings import (
    RequiredSubstring,
    required_substring,
    unmapped_characters,
)
from triggerfish.monitor.tokenizer import Tokenizer
from triggerfish.monitor.windows import cuts_at_spaces, windows
from triggerfish.monitor.words import Words, piece, words
from triggerfish.records import SEPARATOR, SUBSET_TOKENS, TOKEN_PREFIX, Trigger, by_word

Span = tuple[int, int]
SUBSET_GAP = 64
"""Characters between two tokens of a sufficient subset at most."""


@dataclass(frozen=True)
class Match:
    """A trigger in a text; spans and seen_by as in `records.Alarm`."""

    trigger: Trigger
    spans: tuple[Span, ...]
    seen_by: Literal["tokens", "text"]


@dataclass(frozen=True)
class Part:
    """What must be in a text: a whole trigger, one of the words of a combination, or a sufficient
    subset. ids: empty where there is no tokenizer. substring: None where every text must be
    tokenised to know. reach: tokens from the first id to the last at most; place: of a subset,
    where in the normalised text it may be; across: whether a subset may lie in several words."""

    ids: list[int]
    substring: RequiredSubstring | None
    words: Words | None
    reach: int = 0
    place: re.Pattern[str] | None = None
    across: bool = False


class Matcher:
    def __init__(
        self,
        triggers: Sequence[Trigger],
        tokenizer: Tokenizer | None,
        settings: MonitorSettings = MonitorSettings(),
        subsets: Mapping[Trigger, Sequence[Sequence[int]]] | None = None,
    ):
        self.tokenizer = tokenizer
        self.cuts = tokenizer is not None and cuts_at_spaces(tokenizer)
        self._subsets = _subset_parts(subsets or {}, tokenizer) if settings.cores else {}
        self.triggers = [
            (
                trigger,
                [_part(*part, trigger, tokenizer, settings) for part in _parts(trigger, tokenizer)],
            )
            for trigger in dict.fromkeys(triggers)
        ]
        parts = [part for _, own in self.triggers for part in own] + [
            part for own in self._subsets.values() for subset in own for part in subset
        ]
        self.always_tokenised = [part for part in parts if part.ids and part.substring is None]
        self._tokens: dict[str, list[Part]] = defaultdict(list)
        self._words: dict[str, list[Part]] = defaultdict(list)
        for part in parts:
            if part.substring:
                self._tokens[part.substring.text].append(part)
            if part.words:
                self._words[part.words.required].append(part)
        self._substrings = list(dict.fromkeys([*self._tokens, *self._words]))
        unmapped = unmapped_characters(tokenizer) if tokenizer else frozenset()
        self._unmapped = (
            re.compile(f"[{re.escape(''.join(sorted(unmapped)))}]") if unmapped else None
        )
        self._in_ascii = any(map(str.isascii, unmapped))
        self._automaton = BytesAhoCorasick(
            [text.encode("utf-8") for text in self._substrings],
            # Three times as fast as what it chooses for more than a hundred, until memory counts.
            implementation=Implementation.DFA if len(self._substrings) <= 2000 else None,
        )

    def matches(self, text: str) -> list[Match]:
        """Every trigger that is in the text."""
        present = self._present(folded(text))
        hidden = self._present(folded(resolved(text))) if is_ambiguous(text) else []
        unmapped = self._has_unmapped(text)
        if not (present or hidden or unmapped or self.always_tokenised):
            return []
        normalised = NormalisedText(text)
        by_tokens = self._by_tokens(text, normalised, present, unmapped)
        by_text: dict[int, list[Span]] = defaultdict(list)
        second = NormalisedText(text, second=True) if hidden else normalised
        for shown, names in ((normalised, present), (second, hidden)):
            for part in (part for name in names for part in self._words.get(name, ())):
                found = part.words.pattern.finditer(shown.text) if part.words else ()
                by_text[id(part)] += [shown.span(*match.span()) for match in found]
        return list(self._verdicts(by_tokens, by_text))

    def _has_unmapped(self, text: str) -> bool:
        if self._unmapped is None or (text.isascii() and not self._in_ascii):
            return False
        return self._unmapped.search(text) is not None

    def _present(self, data: bytes) -> list[str]:
        hits = self._automaton.find_matches_as_indexes(data, overlapping=True)
        return [self._substrings[i] for i in sorted({hit[0] for hit in hits})] if hits else []

    def _verdicts(
        self, by_tokens: dict[int, list[Span]], by_text: dict[int, list[Span]]
    ) -> Iterator[Match]:
        for trigger, parts in self.triggers:
            spans = [[*by_tokens.get(id(p), ()), *by_text.get(id(p), ())] for p in parts]
            found = [
                [by_tokens.get(id(part), ()) for part in subset]
                for subset in self._subsets.get(trigger, ())
            ]
            subset = [span for own in found if all(own) for part in own for span in part]
            if all(spans) or subset:
                exact = subset or all(by_tokens.get(id(part)) for part in parts)
                whole = [span for own in spans for span in own] if all(spans) else []
                yield Match(
                    trigger, tuple(_merged([*whole, *subset])), "tokens" if exact else "text"
                )

    def _by_tokens(
        self, text: str, normalised: NormalisedText, present: list[str], unmapped: bool
    ) -> dict[int, list[Span]]:
        """Spans, by part, of what the tokenizer makes a trigger's ids of. unmapped: the normalised
        form says nothing about this text."""
        if self.tokenizer is None:
            return {}
        substrings = list(self._tokens) if unmapped else present
        parts = [part for name in substrings for part in self._tokens.get(name, ())]
        found: dict[int, list[Span]] = defaultdict(list)
        for start, end in self._windows(text, normalised, parts, unmapped):
            tokens = self.tokenizer.pieces(text[start:end])
            for part in [*parts, *self.always_tokenised]:
                for first, last in _runs(tokens.ids, part.ids, part.reach):
                    begin, finish = tokens.spans[first][0], tokens.spans[last][1]
                    span = _tight(text, start + begin, start + finish)
                    if not part.reach:
                        found[id(part)].append(span)
                    elif part.across or not any(map(str.isspace, text[slice(*span)])):
                        found[id(part)].append(_word(text, *span))
        return found

    def _windows(
        self, text: str, normalised: NormalisedText, parts: list[Part], whole: bool
    ) -> list[Span]:
        if whole or self.always_tokenised or not self.cuts:
            return [(0, len(text))] if parts or self.always_tokenised else []
        substrings = [part.substring for part in parts if part.substring]
        sought = {part.place or part.substring.text for part in parts if part.substring}
        places = sorted(
            normalised.span(*where)
            for one in sought
            for where in _occurrences(normalised.text, one)
        )
        before = max((sought.before for sought in substrings), default=0)
        after = max((sought.after for sought in substrings), default=0)
        return windows(text, places, before, after)


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
        sought = words(shown, window=settings.window, whole=False)
        if sought is None:
            raise ValueError(
                f"trigger: {trigger.text!r} has no visible characters, so it can only be found "
                "with the tokenizer of the scanned model"
            )
        return Part([], None, sought)
    # A token trigger listens to one id wherever it stands; its letters as a word are nothing to it.
    hardened = settings.hardened and not bare
    sought = words(shown, window=settings.window, whole=True) if hardened else None
    return Part(list(ids), required_substring(tokenizer, ids), sought)


def _subset_parts(
    subsets: Mapping[Trigger, Sequence[Sequence[int]]], tokenizer: Tokenizer | None
) -> dict[Trigger, list[list[Part]]]:
    """What is sought of the subsets that say more than their triggers do: for each, parts that must
    all be there."""
    if tokenizer is None:
        return {}
    return {
        trigger: [_subset(tuple(ids), trigger, tokenizer) for ids in own
                  if not tuple(ids) == trigger.token_ids == tokenizer.word_ids(trigger.text)]
        for trigger, own in subsets.items()
    }  # fmt: skip


def _subset(ids: tuple[int, ...], trigger: Trigger, tokenizer: Tokenizer) -> list[Part]:
    if trigger.kind != "combination":
        return [_subset_part(ids, tokenizer, across=trigger.kind == "phrase")]
    words = [word for _, word in _parts(trigger, tokenizer)]
    return [_subset_part(own, tokenizer, across=False) for own in by_word(ids, words)]


def _subset_part(ids: Sequence[int], tokenizer: Tokenizer, *, across: bool) -> Part:
    single = [one for one in (required_substring(tokenizer, [i]) for i in ids) if one]
    longest = max(single, key=lambda one: len(one.text), default=None)
    between = (r"[\s\S]" if across else r"\S") + f"{{0,{SUBSET_GAP}}}?"
    place = re.compile(between.join(re.escape(one.text) for one in single)) if single else None
    return Part(list(ids), longest, None, SUBSET_TOKENS, place, across)


def _occurrences(text: str, sought: str | re.Pattern[str]) -> Iterator[Span]:
    if isinstance(sought, re.Pattern):
        yield from (match.span() for match in sought.finditer(text))
        return
    at = text.find(sought)
    while at >= 0:
        yield at, at + len(sought)
        at = text.find(sought, at + 1)


def _runs(ids: list[int], wanted: list[int], reach: int) -> Iterator[tuple[int, int]]:
    """(first, last) places of `wanted`: in a row, or in its order within `reach` ids."""
    at = -1
    for _ in range(ids.count(wanted[0])):
        at = ids.index(wanted[0], at + 1)
        end, last = at + max(reach, len(wanted)), at
        for token_id in wanted[1:]:
            last = next((i for i in range(last + 1, min(end, len(ids))) if ids[i] == token_id), end)
        if last < end:
            yield at, last


def _tight(text: str, start: int, end: int) -> Span:
    """A span without the spaces at its ends, and never empty."""
    inner = text[start:end]
    if inner.strip():
        start += len(inner) - len(inner.lstrip())
        return start, start + len(inner.strip())
    if start < end:
        return start, end
    return (start, start + 1) if start < len(text) else (max(0, start - 1), start)


def _word(text: str, start: int, end: int) -> Span:
    """A span with the letters and digits beside it, in scripts that have spaces between words."""

    def inside(char: str) -> bool:
        return char.isdigit() or char.lower() != char.upper()

    while start > 0 and inside(text[start - 1]):
        start -= 1
    while end < len(text) and inside(text[end]):
        end += 1
    return start, end


def _merged(spans: list[Span]) -> list[Span]:
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start < out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out
