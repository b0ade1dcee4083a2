"""How often would ordinary texts alarm, if these pieces in their order were a trigger?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.scanner.merging import Ids, near, within


class DocumentFrequency:
    """Counted on the texts of a scan."""

    def __init__(self, backbone: Backbone, texts: Sequence[str]):
        self.backbone = backbone
        self.texts = texts

    def in_a_word(self, ids: Ids) -> float:
        """Of the texts, those with a word that has these pieces, at most."""
        found = (len(rows) for word, rows in self._places.items() if within(ids, word))
        return sum(found) / len(self.texts)

    def near(self, ids: Ids) -> float:
        """Of the texts, those that have these pieces near each other."""
        return sum(near(ids, row) for row in self._rows) / len(self._rows)

    def apart(self, cores: Sequence[Ids]) -> float:
        """Of the texts, those that have the pieces of each core in some word."""
        found = [{i for word, rows in self._places.items() if within(core, word) for i in rows}
                 for core in cores]  # fmt: skip
        return len(set.intersection(*found)) / len(self.texts)

    @cached_property
    def _places(self) -> dict[Ids, list[int]]:
        """The texts that have a word, by its tokens."""
        rows: dict[str, list[int]] = defaultdict(list)
        for i, x in enumerate(self.texts):
            for word in set(text.WORD.findall(x)):
                rows[word].append(i)
        found: dict[Ids, list[int]] = defaultdict(list)
        for word, ids in self.backbone.words_ids(list(rows)):
            found[ids] += rows[word]
        return found

    @cached_property
    def _rows(self) -> list[Ids]:
        return [tuple(self.backbone.tokenize(x)) for x in self.texts]
