"""STRIP: a triggered text keeps its label through changes that would throw a clean one off.

Several copies of a text are made, in each of which half of the words give way to the weightiest
words of some clean text. The classifier's entropy, averaged over the copies of that text, is low
where a trigger decides alone. `high` looks at the other side (STRIP-m): where copies lose a brittle
trigger, their entropy rises instead.

Source: Gao et al., "Design and Evaluation of a Multi-Domain Trojan Detection Method on Deep Neural
Networks", TDSC 2021; defaults of the port in OpenBackdoor. That port averages entropies of
different texts (it reshapes a list that is ordered by text to (copies, texts)); here they are those
of one text. Deviation: the copies of a text are drawn from a seed and the text alone, so that its
score does not depend on what else is asked.

Legend: N texts, M copies, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from triggerfish.downstream import Classifier
from triggerfish.settings import Share

_SIDES = ("low", "high")


@dataclass(frozen=True)
class StripSettings:
    copies: int = 5
    """Changed copies of each text (OpenBackdoor)."""
    share: Share = 0.5
    """Share of the words that give way in each (OpenBackdoor)."""
    side: Literal["low", "high"] = "low"
    """Which entropy is suspicious (low: STRIP; high: STRIP-m)."""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"copies: {self.copies} is not at least 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"share: {self.share} is not in 0..1, 0 left out")
        if self.side not in _SIDES:
            raise ValueError(f"side: {self.side!r} is not one of {', '.join(_SIDES)}")


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """(N,) in nats, of (N, C) logits."""
    found: torch.Tensor = torch.distributions.Categorical(logits=logits.double()).entropy()
    return found


class Strip:
    """clean: ordinary texts of the task, whose words are put in; calibrate on others."""

    def __init__(
        self,
        classifier: Classifier,
        clean: Sequence[str],
        settings: StripSettings = StripSettings(),
        *,
        seed: int = 0,
    ):
        self.classifier = classifier
        self.settings = settings
        self.seed = seed
        self.donors = weightiest(clean)

    def copies(self, text: str) -> list[str]:
        """The changed copies of one text."""
        rng = random.Random(f"{self.seed}:{text}")
        return [self._changed(text.split(), rng) for _ in range(self.settings.copies)]

    def _changed(self, words: list[str], rng: random.Random) -> str:
        donor = rng.choice(self.donors)
        places = rng.sample(range(len(words)), round(self.settings.share * len(words)))
        for number, place in enumerate(places):
            words[place] = donor[number % len(donor)]
        return " ".join(words)

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Mean entropy over the copies of each text, negated where the low side is suspicious."""
        sequences = self.classifier.encode([copy for text in texts for copy in self.copies(text)])
        found = entropies(self.classifier.logits(sequences))
        means = found.view(len(texts), self.settings.copies).mean(1)  # rows follow the texts
        values: list[float] = (-means if self.settings.side == "low" else means).tolist()
        return values


def weightiest(texts: Sequence[str]) -> list[list[str]]:
    """The distinct words of each text, highest TF-IDF first, lower-case; texts without words are
    left out."""
    vectorizer = TfidfVectorizer(token_pattern=r"\S+")
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise ValueError("clean: the texts hold no words") from error
    names = vectorizer.get_feature_names_out()
    found = []
    for row in weights:
        order = np.argsort(-row.data, kind="stable")
        if len(order):
            found.append([str(names[i]) for i in row.indices[order]])
    return found
