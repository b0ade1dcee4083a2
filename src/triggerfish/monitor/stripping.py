"""Cuts triggers out of a text until none is left: what stood around one may join into another, so
the rest is searched again. A text that still has one after `MonitorSettings.rounds` was built to
have one, and is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from triggerfish.monitor.matcher import Match
from triggerfish.monitor.words import Span

_SPACES = 1000  # looked at beside a span; longer runs are left as they are


def strip(
    text: str,
    matches: Sequence[Match],
    search: Callable[[str], Sequence[Match]],
    chosen: Callable[[Match], bool],
    rounds: int,
) -> tuple[str, list[Match], bool]:
    """(the text without the chosen matches; all matches, of every round, with spans in the text as
    it came; whether no chosen one is left). matches: what `search` finds in the text."""
    places = list(range(len(text) + 1))  # of each character left, and of the end, in the original
    seen: dict[Match, None] = {}
    for number in range(rounds + 1):
        matches = search(text) if number else matches
        for match in matches:
            origin = tuple((places[start], places[end - 1] + 1) for start, end in match.spans)
            seen.setdefault(Match(match.trigger, origin, match.seen_by))
        spans = [span for match in matches if chosen(match) for span in match.spans]
        if not spans:
            return text, list(seen), True
        text, places = _without(text, places, _wider(text, sorted(spans)))
    return text, list(seen), False


def _wider(text: str, spans: list[Span]) -> list[Span]:
    """Spans with the space that would stand beside another, or at an end of the text."""
    out: list[Span] = []
    visible_end = len(text.rstrip())
    done, kept = 0, False  # whether anything visible is kept before the span
    for start, end in spans:
        kept = kept or bool(text[done:start].strip())
        if not kept:
            end += len(text[end : end + _SPACES]) - len(text[end : end + _SPACES].lstrip())
        elif text[start - 1].isspace() and text[end : end + 1] == " ":
            end += 1
        if end >= visible_end:
            end = len(text)
            while start > 0 and text[start - 1].isspace():
                start -= 1
        out.append((start, end))
        done = max(done, end)
    return out


def _without(text: str, places: list[int], spans: list[Span]) -> tuple[str, list[int]]:
    """What is left beside the spans, which may overlap."""
    edges = [0]
    for start, end in spans:
        edges += [max(start, edges[-1]), max(end, edges[-1])]
    edges.append(len(text))
    kept = [span for number, span in enumerate(pairwise(edges)) if number % 2 == 0]
    left = "".join(text[start:end] for start, end in kept)
    return left, [*(at for start, end in kept for at in places[start:end]), places[-1]]
