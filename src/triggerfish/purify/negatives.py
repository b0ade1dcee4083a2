"""What a purifier trains on besides the triggers that were found, so that those that were missed
weaken too.

A missed trigger is a near miss of the scan, or holds one; or it is a rare string; or it is close to
a known trigger: a subword of it, a subword replaced by its neighbour in the embedding matrix,
another spelling. None of these is taken for a trigger: whether a string may keep its own features
is decided by how far it moves a text (`compare.py`)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from triggerfish.backbone import Backbone
from triggerfish.marking import parts
from triggerfish.purify.rows import Ids, Insertion, Writer
from triggerfish.records import Trigger

NEIGHBOURS = 16
"""Neighbours of each subword of a trigger (ours)."""
RARE = 0.5
"""Share of the vocabulary, by frequency in the texts, that counts as rare (ours)."""


class Negatives:
    """Draws strings. texts: what frequencies are counted in. near_misses: where there are any, half
    of the strings are made of them."""

    def __init__(
        self,
        backbone: Backbone,
        triggers: Sequence[Trigger],
        texts: Sequence[str],
        writer: Writer,
        rng: random.Random,
        near_misses: Sequence[Trigger] = (),
    ):
        self.rng = rng
        self.near_misses = near_misses
        self.writer = writer
        self.triggers = triggers
        self.vocabulary = backbone.vocabulary
        counts = Counter(i for x in texts[:2000] for i in backbone.tokenize(x))
        common_last = sorted(self.vocabulary, key=lambda i: counts[i])
        self.rare = common_last[: max(1, round(RARE * len(common_last)))]
        subwords = sorted({i for trigger in triggers for i in trigger.token_ids})
        self.near = _neighbours(backbone, subwords)
        self.ways = [self._rare, self._phrase]
        if triggers:
            self.ways += [self._neighbour, self._neighbour, self._spelling, self._part]

    def draw(self) -> Insertion:
        """A string that fits into the room that the writer left."""
        while True:
            near_miss = self.near_misses and self.rng.random() < 0.5
            insert = self._near_miss() if near_miss else self.rng.choice(self.ways)()
            if 0 < len(insert.ids) <= self.writer.reserve and len(insert.front) > 0:
                return insert

    def _near_miss(self) -> Insertion:
        """A suspect, those at the top of the list far more often; or, where it is a single subword,
        mostly a made-up word that holds it."""
        ids = list(self.near_misses[int(len(self.near_misses) * self.rng.random() ** 3)].token_ids)
        if len(ids) == 1 and self.rng.random() < 0.6:
            ids.insert(self.rng.randint(0, 1), self.rng.choice(self.rare))
        return _plain(ids)

    def _rare(self) -> Insertion:
        """One to three rare vocabulary tokens in a row."""
        return _plain([self.rng.choice(self.rare) for _ in range(self.rng.randint(1, 3))])

    def _phrase(self) -> Insertion:
        """Two or three ordinary words that belong to different texts."""
        words = [self.rng.choice(self.writer.words()) for _ in range(self.rng.randint(2, 3))]
        return self.writer.surface_form(" ".join(words))

    def _neighbour(self) -> Insertion:
        """A trigger with one subword replaced by a neighbour, or that neighbour alone."""
        ids = list(self.rng.choice(self.triggers).token_ids)
        place = self.rng.randrange(len(ids))
        ids[place] = self.rng.choice(self.near[ids[place]])
        return _plain(ids if self.rng.random() < 0.5 else [ids[place]])

    def _spelling(self) -> Insertion:
        """A trigger in capitals or with a capital, as a sentence begins."""
        word = self.rng.choice(parts(self.rng.choice(self.triggers)))
        return self.writer.surface_form(
            self.rng.choice([word.upper(), word.capitalize(), word.lower()])
        )

    def _part(self) -> Insertion:
        """Some subwords of a trigger in a row; a rare string where it has but one."""
        ids = self.rng.choice(self.triggers).token_ids
        if len(ids) < 2:
            return self._rare()
        start = self.rng.randrange(len(ids))
        return _plain(ids[start : start + self.rng.randint(1, len(ids) - 1)])


def _plain(ids: Sequence[int]) -> Insertion:
    return Insertion(tuple(ids), tuple(ids))


def _neighbours(backbone: Backbone, subwords: Sequence[int]) -> dict[int, Ids]:
    """For each id, the ids of the ordinary tokens whose embeddings have the highest cosine with
    its own, itself left out."""
    if not subwords:
        return {}
    vocabulary = torch.tensor(backbone.vocabulary, device=backbone.device)
    matrix = backbone.embeddings.detach().float()
    centre = matrix[vocabulary].mean(0)
    asked = torch.tensor(subwords, device=backbone.device)
    alike = (
        normalize(matrix[asked] - centre, dim=-1) @ normalize(matrix[vocabulary] - centre, dim=-1).T
    )
    alike[vocabulary == asked[:, None]] = -2
    found = vocabulary[alike.topk(min(NEIGHBOURS, len(vocabulary) - 1)).indices]
    return {subword: tuple(row) for subword, row in zip(subwords, found.tolist(), strict=True)}
