"""RAP: a rare word, trained to lower the probability of clean texts a little, cannot lower that of
triggered ones.

Only the input embedding of the rare word is trained, on clean texts, so that putting it in front of
a text of label y takes 0.1 to 0.3 off the probability of y. A trigger makes its label robust: texts
that lose less than clean ones do are suspicious.

Source: Yang et al., "RAP: Robustness-Aware Perturbations", EMNLP 2021 (arXiv 2110.07831).
Deviations: nobody knows which label a trigger reaches, so each label that the classifier predicts
gets a vector of its own (RAP-m), each trained from the same start and never written into the model;
Adam, whose gradients are cleared, takes the place of bare gradient steps; a text and its perturbed
twin come from one batch, never from two shuffles.

Legend: B batch, L tokens, E embedding, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.downstream import Classifier
from triggerfish.readouts import pad


@dataclass(frozen=True)
class RapSettings:
    word: str = "mb"
    """The rare word; one token of the model. Published code takes cf, a usual trigger."""
    least: float = 0.1
    """Loss of probability that is wanted at least (published code)."""
    most: float = 0.3
    """Loss of probability that is wanted at most (published code)."""
    epochs: int = 5
    """Passes over the clean texts of a label (published code)."""
    batch: int = 32
    """Texts per step (published code)."""
    learning_rate: float = 1e-2
    """Of the one embedding (published code)."""

    def __post_init__(self) -> None:
        if not 0 <= self.least < self.most <= 1:
            raise ValueError(f"least, most: {self.least}, {self.most} are not 0 <= least < most")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive")


class Rap:
    """clean: ordinary texts of the task, at least one of every label as predicted; calibrate on
    others."""

    def __init__(
        self,
        classifier: Classifier,
        clean: Sequence[str],
        settings: RapSettings = RapSettings(),
        *,
        seed: int = 0,
    ):
        ids = classifier.backbone.word_ids(settings.word)
        if len(ids) != 1 or ids[0] == classifier.backbone.tokenizer.unk_token_id:
            raise ValueError(f"word: {settings.word!r} is not one token of this model")
        self.classifier = classifier
        self.settings = settings
        self.word = ids[0]
        inputs, template = classifier.inputs, classifier.backbone.template
        self.place = len(template.prefix) + len(inputs.before)
        self.tail = len(template.suffix) + len(inputs.after)
        groups: dict[int, list[list[int]]] = {}
        sequences = classifier.encode(clean)
        for sequence, label in zip(sequences, classifier.predict(sequences).tolist(), strict=True):
            groups.setdefault(label, []).append(sequence)
        missing = sorted(set(range(classifier.head.out_features)) - set(groups))
        if missing:
            raise ValueError(f"clean: no text is predicted as label {missing[0]}; give more texts")
        self.vectors = {
            label: self._trained(label, group, random.Random(seed))
            for label, group in sorted(groups.items())
        }

    def _start(self) -> torch.Tensor:
        return self.classifier.backbone.embeddings[self.word].detach().clone()

    def _trained(self, label: int, sequences: list[list[int]], rng: random.Random) -> torch.Tensor:
        """(E,) the word's vector for texts of one label."""
        settings = self.settings
        vector = self._start().requires_grad_(True)
        optimizer = torch.optim.Adam([vector], lr=settings.learning_rate)
        for _ in range(settings.epochs):
            order = rng.sample(sequences, len(sequences))
            for first in range(0, len(order), settings.batch):
                batch = order[first : first + settings.batch]
                labels = torch.full((len(batch),), label)
                with torch.no_grad():
                    before = self._probabilities(batch, labels, None)
                drop = before - self._probabilities(batch, labels, vector)
                loss = (settings.least - drop).relu() + (drop - settings.most).relu()
                optimizer.zero_grad(set_to_none=True)
                loss.mean().backward()
                optimizer.step()
        return vector.detach()

    def _perturbed(self, sequence: Sequence[int]) -> list[int]:
        """The word in front of the text, whose last token gives way where there is no room."""
        ids = [*sequence[: self.place], self.word, *sequence[self.place :]]
        if len(ids) > self.classifier.inputs.max_tokens:
            del ids[len(ids) - self.tail - 1]
        return ids

    def _probabilities(
        self, sequences: Sequence[Sequence[int]], labels: torch.Tensor, vector: torch.Tensor | None
    ) -> torch.Tensor:
        """(B,) of each row's label; with a vector, of the perturbed texts."""
        classifier, backbone = self.classifier, self.classifier.backbone
        rows = sequences if vector is None else [self._perturbed(ids) for ids in sequences]
        ids, mask = (part.to(backbone.device) for part in pad(rows, backbone.pad_id))
        embedded = backbone.model.get_input_embeddings()(ids)
        if vector is not None:
            place = torch.arange(ids.shape[1], device=ids.device) == self.place
            embedded = torch.where(place[None, :, None], vector, embedded)
        features = backbone.forward_embeddings(embedded, ids, mask, [classifier.readout])[:, 0]
        found: torch.Tensor = classifier.head(features).softmax(1)
        return found.gather(1, labels.to(found.device)[:, None])[:, 0]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability of the predicted label with the word, minus without: near 0 is suspicious,
        clean texts lie below."""
        sequences = self.classifier.encode(texts)
        labels = self.classifier.predict(sequences)
        found = [0.0] * len(texts)
        for label, vector in self.vectors.items():
            rows = [i for i, predicted in enumerate(labels.tolist()) if predicted == label]
            for first in range(0, len(rows), self.settings.batch):
                batch = rows[first : first + self.settings.batch]
                ids = [sequences[i] for i in batch]
                with torch.no_grad():
                    change = self._probabilities(ids, labels[batch], vector)
                    change = change - self._probabilities(ids, labels[batch], None)
                for i, value in zip(batch, change.tolist(), strict=True):
                    found[i] = value
        return found
