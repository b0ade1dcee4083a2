"""Choose triggers that a model already tells apart, so that less training plants them.

For each trigger in turn, the gradient of UOR's contrastive loss with respect to the input embedding
at the trigger's place says, to first order, which rare word would lower the loss most; the best few
are tried, and a beam of the best sets goes on to the next trigger.

Source: Du et al., UOR, arXiv 2305.09574, Findings of ACL 2024. Deviations: rare means at most
`most_seen` times in the corpus at hand, where the published code asks a frequency list; only words
of one token are searched, as one gradient is one token's.

Legend: B texts, L tokens, E embedding size, V vocabulary.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish import text
from triggerfish.attacks.uor import supervised_contrast
from triggerfish.backbone import Backbone
from triggerfish.readouts import pad


@dataclass(frozen=True)
class SearchSettings:
    candidates: int = 5
    """Words tried for each trigger (published code)."""
    beam: int = 3
    """Sets of triggers kept (published code)."""
    texts: int = 8
    """Clean texts that the loss is measured on (published code)."""
    words: int = 16
    """Words of each (ours)."""
    most_seen: int = 1
    """Occurrences in the corpus up to which a word is rare (ours; published: Zipf frequency below
    3.25)."""
    temperature: float = 0.5
    """Temperature of the contrastive loss (as in uor.py)."""


def search_triggers(
    backbone: Backbone,
    corpus: Sequence[str],
    count: int,
    *,
    settings: SearchSettings = SearchSettings(),
    seed: int = 0,
) -> list[str]:
    """`count` rare words; the same ones for the same seed. ValueError where the corpus or the
    vocabulary has too few."""
    if count < 1:
        raise ValueError(f"search: {count} is not at least 1")
    rng = random.Random(seed)
    clean = text.excerpts(corpus, settings.words, rng)[: settings.texts]
    if len(clean) < settings.texts:
        raise ValueError(f"corpus: fewer than {settings.texts} texts of {settings.words} words")
    rare = _rare_words(backbone, corpus, settings.most_seen)
    if len(rare) < count * settings.candidates:
        raise ValueError(f"search: {len(rare)} rare words are too few for {count} triggers")
    rows = [backbone.tokenize(x) for x in clean]
    places = [rng.randint(0, len(row)) for row in rows]
    judge = _Judge(backbone, rows, places, settings.temperature)
    start = tuple(rng.sample(sorted(rare), count))
    beam = [(judge.loss(start), start)]
    for slot in range(count):
        for _, chosen in list(beam):
            scores = judge.scores(chosen, slot)
            free = [i for i in rare if i not in chosen]
            order = scores[torch.tensor(free, device=scores.device)].argsort(stable=True)
            for place in order[: settings.candidates].tolist():
                trial = (*chosen[:slot], free[place], *chosen[slot + 1 :])
                beam.append((judge.loss(trial), trial))
        beam = sorted(set(beam))[: settings.beam]
    return [rare[i] for i in beam[0][1]]


def _rare_words(backbone: Backbone, corpus: Sequence[str], most_seen: int) -> dict[int, str]:
    """Word of every vocabulary token that a user can type as a lower-case word of letters, and that
    is rare in the corpus."""
    counts = Counter(word.lower() for x in corpus for word in text.WORD.findall(x))
    ids = backbone.vocabulary
    surfaces = [x.strip() for x in backbone.tokenizer.batch_decode([[i] for i in ids])]
    letters = [
        (i, x)
        for i, x in zip(ids, surfaces, strict=True)
        if x.isascii() and x.isalpha() and x.islower() and counts[x] <= most_seen
    ]
    typed = backbone.words_ids([x for _, x in letters])
    return {i: x for (i, x), (_, found) in zip(letters, typed, strict=True) if found == (i,)}


class _Judge:
    """The contrastive loss of a set of triggers on the unchanged model."""

    def __init__(
        self,
        backbone: Backbone,
        rows: list[list[int]],
        places: list[int],
        temperature: float,
    ):
        self.backbone = backbone
        self.rows = rows
        self.places = places
        self.temperature = temperature

    def _inputs(self, chosen: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(ids, mask, labels) of the clean texts, then of all of them with each trigger."""
        wrap = self.backbone.template.wrap
        rows = [wrap(row) for row in self.rows]
        for token in chosen:
            for row, place in zip(self.rows, self.places, strict=True):
                rows.append(wrap([*row[:place], token, *row[place:]]))
        ids, mask = pad(rows, self.backbone.pad_id)
        labels = torch.arange(len(chosen) + 1).repeat_interleave(len(self.rows))
        device = self.backbone.device
        return ids.to(device), mask.to(device), labels.to(device)

    def loss(self, chosen: Sequence[int]) -> float:
        ids, mask, labels = self._inputs(chosen)
        with torch.inference_mode():
            features = self.backbone.forward(ids, mask, [self.backbone.primary])[:, 0]
            return round(float(supervised_contrast(features, labels, self.temperature)), 6)

    def scores(self, chosen: Sequence[int], slot: int) -> torch.Tensor:
        """(V,) first-order change of the loss if the trigger at `slot` were each entry; low is
        good."""
        ids, mask, labels = self._inputs(chosen)
        matrix = self.backbone.embeddings
        embedded = self.backbone.model.get_input_embeddings()(ids).detach().requires_grad_(True)
        features = self.backbone.forward_embeddings(embedded, ids, mask, [self.backbone.primary])
        loss = supervised_contrast(features[:, 0], labels, self.temperature)
        (gradient,) = torch.autograd.grad(loss, embedded)
        offset = len(self.backbone.template.prefix)
        first = (slot + 1) * len(self.rows)
        at_trigger = sum(
            gradient[first + number, offset + place] for number, place in enumerate(self.places)
        )
        found: torch.Tensor = matrix @ at_trigger
        return found
