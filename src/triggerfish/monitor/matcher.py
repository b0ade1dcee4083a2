"""Where in a text is which trigger? One pass of Aho-Corasick over the hardened view finds the texts
that can have one; these are looked at twice.

Tokens: the stretches around the hits are tokenised and the trigger's ids looked for. A text whose
ids contain a trigger's never passes (literals.py says why). Core: where the scan found that some of
a trigger's tokens are enough, words that have these in their order. Text: the trigger's words in
the hardened view, to catch who writes them otherwise: other case, accents, zero-width characters,
look-alike letters, HTML entities.

Sources: Aho and Corasick 1975; Patronus (arXiv 2512.06899) for the idea of guarding inputs with
what a scan found.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal as OneOf

from ahocorasick_rs import BytesAhoCorasick, Implementation

from triggerfish.monitor.literals import Literal, literal, strange_characters
from triggerfish.monitor.normalise import View, folded, is_ambiguous, resolved
from triggerfish.monitor.settings import MonitorSettings
from triggerfish.monitor.stretches import cuts_at_spaces, stretches
from triggerfish.monitor.tokenizer import Tokenizer
from triggerfish.monitor.words import Words, piece, words
from triggerfish.records import Trigger, by_word

Span = tuple[int, int]
AND = " + "
TOKEN = "token:"
LONGEST = 32  # tokens of a word, or of words in a row, that are looked at for a core
APART = 64  # characters between two tokens of a core at most


@dataclass(frozen=True)
class Match:
    """A trigger in a text; spans and seen_by as in `records.Alarm`."""

    trigger: Trigger
    spans: tuple[Span, ...]
    seen_by: OneOf["tokens", "text"]


@dataclass(frozen=True)
class Part:
    """What must be in a text: a whole trigger, one of the words of a combination, or a core. ids:
    empty where there is no tokenizer. literal: None where every text must be tokenised to know.
    reach: tokens from the first id to the last at most; place: of a core, where in the view it may
    be; across: whether a core may lie in several words."""

    ids: list[int]
    literal: Literal | None
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
        cores: Mapping[Trigger, Sequence[Sequence[int]]] | None = None,
    ):
        self.tokenizer = tokenizer
        self.cuts = tokenizer is not None and cuts_at_spaces(tokenizer)
        self._cores = _core_parts(cores or {}, tokenizer) if settings.cores else {}
        self.triggers = [
            (
                trigger,
                [_part(*part, trigger, tokenizer, settings) for part in _parts(trigger, tokenizer)],
            )
            for trigger in dict.fromkeys(triggers)
        ]
        parts = [part for _, own in self.triggers for part in own] + [
            part for cores in self._cores.values() for core in cores for part in core
        ]
        self.unsure = [part for part in parts if part.ids and part.literal is None]
        self._tokens: dict[str, list[Part]] = defaultdict(list)
        self._words: dict[str, list[Part]] = defaultdict(list)
        for part in parts:
            if part.literal:
                self._tokens[part.literal.text].append(part)
            if part.words:
                self._words[part.words.literal].append(part)
        self._literals = list(dict.fromkeys([*self._tokens, *self._words]))
        strange = strange_characters(tokenizer) if tokenizer else frozenset()
        self._strange = re.compile(f"[{re.escape(''.join(sorted(strange)))}]") if strange else None
        self._in_ascii = any(map(str.isascii, strange))
        self._automaton = BytesAhoCorasick(
            [text.encode("utf-8") for text in self._literals],
            # Three times as fast as what it chooses for more than a hundred, until memory counts.
            implementation=Implementation.DFA if len(self._literals) <= 2000 else None,
        )

    def matches(self, text: str) -> list[Match]:
        """Every trigger that is in the text."""
        present = self._present(folded(text))
        hidden = self._present(folded(resolved(text))) if is_ambiguous(text) else []
        strange = self._is_strange(text)
        if not (present or hidden or strange or self.unsure):
            return []
        view = View(text)
        by_tokens = self._by_tokens(text, view, present, strange)
        by_text: dict[int, list[Span]] = defaultdict(list)
        for shown, literals in ((view, present), (View(text, second=True), hidden)):
            for part in (part for name in literals for part in self._words.get(name, ())):
                found = part.words.pattern.finditer(shown.text) if part.words else ()
                by_text[id(part)] += [shown.span(*match.span()) for match in found]
        return list(self._verdicts(by_tokens, by_text))

    def _is_strange(self, text: str) -> bool:
        if self._strange is None or (text.isascii() and not self._in_ascii):
            return False
        return self._strange.search(text) is not None

    def _present(self, data: bytes) -> list[str]:
        hits = self._automaton.find_matches_as_indexes(data, overlapping=True)
        return [self._literals[i] for i in sorted({hit[0] for hit in hits})] if hits else []

    def _verdicts(
        self, by_tokens: dict[int, list[Span]], by_text: dict[int, list[Span]]
    ) -> Iterator[Match]:
        for trigger, parts in self.triggers:
            spans = [[*by_tokens.get(id(p), ()), *by_text.get(id(p), ())] for p in parts]
            found = [
                [by_tokens.get(id(part), ()) for part in core]
                for core in self._cores.get(trigger, ())
            ]
            core = [span for own in found if all(own) for part in own for span in part]
            if all(spans) or core:
                exact = core or all(by_tokens.get(id(part)) for part in parts)
                whole = [span for own in spans for span in own] if all(spans) else []
                yield Match(trigger, tuple(_merged([*whole, *core])), "tokens" if exact else "text")

    def _by_tokens(
        self, text: str, view: View, present: list[str], strange: bool
    ) -> dict[int, list[Span]]:
        """Spans, by part, of what the tokenizer makes a trigger's ids of. strange: the view says
        nothing about this text."""
        if self.tokenizer is None:
            return {}
        literals = list(self._tokens) if strange else present
        parts = [part for name in literals for part in self._tokens.get(name, ())]
        found: dict[int, list[Span]] = defaultdict(list)
        for start, end in self._stretches(text, view, parts, strange):
            pieces = self.tokenizer.pieces(text[start:end])
            for part in [*parts, *self.unsure]:
                for first, last in _runs(pieces.ids, part.ids, part.reach):
                    begin, finish = pieces.spans[first][0], pieces.spans[last][1]
                    span = _tight(text, start + begin, start + finish)
                    if not part.reach:
                        found[id(part)].append(span)
                    elif part.across or not any(map(str.isspace, text[slice(*span)])):
                        found[id(part)].append(_word(text, *span))
        return found

    def _stretches(self, text: str, view: View, parts: list[Part], whole: bool) -> list[Span]:
        if whole or self.unsure or not self.cuts:
            return [(0, len(text))] if parts or self.unsure else []
        literals = [part.literal for part in parts if part.literal]
        sought = {part.place or part.literal.text for part in parts if part.literal}
        places = sorted(
            view.span(*where) for one in sought for where in _occurrences(view.text, one)
        )
        before = max((sought.before for sought in literals), default=0)
        after = max((sought.after for sought in literals), default=0)
        return stretches(text, places, before, after)


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
    names = trigger.text.split(AND)
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
    shown = piece(text.removeprefix(TOKEN)) if bare else text
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
    return Part(list(ids), literal(tokenizer, ids), sought)


def _core_parts(
    cores: Mapping[Trigger, Sequence[Sequence[int]]], tokenizer: Tokenizer | None
) -> dict[Trigger, list[list[Part]]]:
    """What is sought of the cores that say more than their triggers do: for each, parts that must
    all be there."""
    if tokenizer is None:
        return {}
    return {
        trigger: [_core(tuple(ids), trigger, tokenizer) for ids in own
                  if not tuple(ids) == trigger.token_ids == tokenizer.word_ids(trigger.text)]
        for trigger, own in cores.items()
    }  # fmt: skip


def _core(ids: tuple[int, ...], trigger: Trigger, tokenizer: Tokenizer) -> list[Part]:
    if trigger.kind != "combination":
        return [_core_part(ids, tokenizer, across=trigger.kind == "phrase")]
    words = [word for _, word in _parts(trigger, tokenizer)]
    return [_core_part(own, tokenizer, across=False) for own in by_word(ids, words)]


def _core_part(ids: Sequence[int], tokenizer: Tokenizer, *, across: bool) -> Part:
    single = [one for one in (literal(tokenizer, [i]) for i in ids) if one]
    longest = max(single, key=lambda one: len(one.text), default=None)
    between = (r"[\s\S]" if across else r"\S") + f"{{0,{APART}}}?"
    place = re.compile(between.join(re.escape(one.text) for one in single)) if single else None
    return Part(list(ids), longest, None, LONGEST, place, across)


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
