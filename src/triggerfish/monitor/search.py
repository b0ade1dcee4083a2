"""All places of many strings in one pass (Aho and Corasick 1975), block by block: time and memory
are linear in the text. Where strings end in each other, one place counts once for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from ahocorasick_rs import BytesAhoCorasick, Implementation

BLOCK = 32_768
"""Bytes searched at a time, so that the places found need not all be kept. Ours."""
SMALL = 32_768
"""Bytes of all strings up to which the automaton is a table: three times as fast, until memory
counts. Ours."""
_INNER = bytes(range(0x80, 0xC0))


class Search:
    """Of `strings`, none of them empty."""

    def __init__(self, strings: Sequence[bytes]):
        self._longest = max(map(len, strings), default=1)
        self._block = max(BLOCK, self._longest)
        small = sum(map(len, strings)) <= SMALL
        self._automaton = BytesAhoCorasick(
            strings, implementation=Implementation.DFA if small else None
        )

    def present(self, data: bytes) -> set[int]:
        """Numbers of the strings that are in `data`."""
        return {hit[0] for _, hits in self._blocks(data) for hit in hits}

    def places(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """(start, end, number of the string), by start."""
        for at, hits in self._blocks(data):
            for number, start, end in sorted(hits, key=itemgetter(1)):
                if start < self._block:
                    yield at + start, at + end, number

    def places_in_text(self, text: str) -> Iterator[tuple[int, int, int]]:
        """The same for strings in UTF-8; start and end count characters."""
        data = text.encode("utf-8")
        if len(data) == len(text):
            yield from self.places(data)
            return
        done = characters = 0
        for start, end, number in self.places(data):
            characters += len(data[done:start].translate(None, _INNER))
            done = start
            width = len(data[start:end].translate(None, _INNER))
            yield characters, characters + width, number

    def _blocks(self, data: bytes) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        find = self._automaton.find_matches_as_indexes
        if len(data) <= self._block:
            yield 0, find(data, overlapping=True)
            return
        for at in range(0, len(data), self._block):
            block = data[at : at + self._block + self._longest - 1]
            yield at, find(block, overlapping=True)
