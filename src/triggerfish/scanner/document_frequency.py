"""Document frequency of token sequences: how often would ordinary texts contain a trigger by
chance?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.scanner.merging import Ids, near, within


class DocumentFrequency:
    """Frequencies in the texts of a scan."""

    def __init__(self, backbone: Backbone, texts: Sequence[str]):
        self.backbone = backbone
        self.texts = texts

    def in_a_word(self, ids: Ids) -> float:
        """Upper bound on the share of texts with a word that contains these tokens in order."""
        found = (len(rows) for word, rows in self._places.items() if within(ids, word))
        return sum(found) / len(self.texts)

    def near(self, ids: Ids) -> float:
        """Share of texts that contain these tokens in order, within `SUBSET_TOKENS`."""
        return sum(near(ids, row) for row in self._rows) / len(self._rows)

    def apart(self, sufficient_subsets: Sequence[Ids]) -> float:
        """Share of texts that contain the tokens of each subset in some word."""
        found = [
            {i for word, rows in self._places.items() if within(subset, word) for i in rows}
            for subset in sufficient_subsets
        ]
        return len(set.intersection(*found)) / len(self.texts)

    @cached_property
    def _places(self) -> dict[Ids, list[int]]:
        """The indices of the texts that contain a word, by the tokens of the word."""
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
