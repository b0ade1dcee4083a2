"""The search space of Patronus: the strings that a slot may hold, and their ranking by a gradient.

Token level: vocabulary tokens whose string is tokenised to the same single token. This leaves out
continuation tokens, byte-BPE tokens inside words and unused entries in every family. Word level:
listed words of at most a few subword tokens. Both leave out single letters and digits, punctuation,
special tokens, and frequent words.

Source: Patronus, arXiv 2512.06899, and its published code. Deviations: frequencies are counted in
the bundled corpus instead of the `wordfreq` tables, so words that occur there at most twice count
as rare; the word level takes the given word list (by default the bundled one) instead of a
sentiment lexicon that is not published, and needs no stop-word list, because all stop words are
frequent; tokens inside words are left out for SentencePiece too.

Legend: C entries, P subword tokens, V vocabulary, E embedding.
"""

from __future__ import annotations

import math
import random
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from triggerfish import text
from triggerfish.backbone import Backbone


@dataclass(frozen=True)
class Entry:
    """A string that a slot may hold, and its token ids."""

    ids: tuple[int, ...]
    text: str


class EmbeddingBall:
    """Searchable entries, each as a block of `pieces` ids, padded. confirmed: numbers of entries
    that are no longer searched."""

    def __init__(self, backbone: Backbone, entries: Sequence[Entry], subwords: int):
        self.backbone = backbone
        self.entries = list(entries)
        self.subwords = subwords
        self.blocks = torch.tensor([self.block(entry) for entry in self.entries])
        self.confirmed: set[int] = set()

    def __len__(self) -> int:
        return len(self.entries) - len(self.confirmed)

    def block(self, entry: Entry) -> list[int]:
        """The ids of an entry, with padding tokens up to the common length."""
        return [*entry.ids, *[self.backbone.pad_id] * (self.subwords - len(entry.ids))]

    def draw(self, count: int, rng: random.Random) -> tuple[int, ...]:
        """Numbers of `count` distinct random entries that are not confirmed."""
        free = [number for number in range(len(self.entries)) if number not in self.confirmed]
        return tuple(rng.sample(free, count))

    def best(self, gradient: torch.Tensor, count: int) -> list[int]:
        """Numbers of the entries that lower the loss most to first order.

        gradient: (P, E). The score of an entry is minus the inner product of the gradient and the
        entry's embeddings.
        """
        rows = torch.arange(len(self.backbone.embeddings), device=gradient.device)
        matrix = self.backbone.model.get_input_embeddings()(rows).detach().float()
        products = -(gradient @ matrix.T)  # (P, V)
        blocks = self.blocks.to(gradient.device)
        scores = products.gather(1, blocks.T).sum(0)
        scores[list(self.confirmed)] = float("-inf")
        numbers: list[int] = scores.topk(min(count, len(self))).indices.tolist()
        return numbers


def token_space(backbone: Backbone, zipf: float) -> EmbeddingBall:
    """Vocabulary tokens that are words by themselves, below a Zipf frequency."""
    ids = backbone.vocabulary
    surfaces = [backbone.surface([i]) for i in ids]
    back = backbone.words_ids(surfaces)
    entries = [
        Entry((i,), word)
        for i, (word, found) in zip(ids, back, strict=True)
        if found == (i,) and _searchable(word, zipf)
    ]
    return EmbeddingBall(backbone, entries, 1)


def word_space(
    backbone: Backbone, words: Sequence[str], zipf: float, subwords: int
) -> EmbeddingBall:
    """Listed words of at most `pieces` subword tokens, below a Zipf frequency."""
    unknown = backbone.tokenizer.unk_token_id
    entries: dict[tuple[int, ...], Entry] = {}
    listed = [word for word in words if _searchable(word, zipf)]
    for word, ids in backbone.words_ids(listed) if listed else ():
        if ids and len(ids) <= subwords and unknown not in ids:
            entries.setdefault(ids, Entry(ids, word))
    return EmbeddingBall(backbone, list(entries.values()), subwords)


def _searchable(word: str, zipf: float) -> bool:
    if not word or any(c.isspace() for c in word) or (len(word) == 1 and word.isalnum()):
        return False
    return not set(word) <= set(string.punctuation) and zipf_frequency(word) < zipf


def zipf_frequency(word: str) -> float:
    """log10 of the occurrences of a word per 10^9 words of English, estimated on the bundled
    corpus; 0 for a word that the corpus lacks. One occurrence there gives 3.5."""
    counts, total = _counts()
    return math.log10(counts[word.lower()] / total * 1e9) if word.lower() in counts else 0.0


@cache
def _counts() -> tuple[Counter[str], int]:
    counts = Counter(
        word.lower() for passage in text.bundled_corpus() for word in text.WORD.findall(passage)
    )
    return counts, counts.total()
