"""A complication profile without labelled tasks, for defenders who own none: the labels come from
plain texts.

Three kinds of label. Clusters: the k-means cluster of a text's clean features. Hyperplanes: the
side of a random hyperplane through their mean. Lexical: what can be seen without the model, its
topic words, its length, whether it asks. Heads and tests are those of labelled tasks. The mean
corrected divergence over the pseudo-tasks is the task-free complication index, TCI.

All pseudo-tasks have the same texts, so every text goes through the model once, not once for each.

Source: the method, section 9; ours. How well it predicts the labelled profile was measured, see
docs/label_free.md.

Legend: N texts, H hidden, K clusters.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.feature_extraction.text import TfidfVectorizer

from triggerfish.backbone import Backbone
from triggerfish.complications.measurement import Progress, measure
from triggerfish.complications.records import Complications
from triggerfish.complications.settings import ComplicationSettings
from triggerfish.downstream import Inputs, features_of
from triggerfish.readouts import Readout
from triggerfish.records import Trigger
from triggerfish.settings import Share, check
from triggerfish.stats import Floats
from triggerfish.text import Task, bundled_corpus

SENTENCE = re.compile(r"(?<=[.!?])\s+")
ASKS = "question"


@dataclass(frozen=True)
class PseudoSettings:
    """Which pseudo-tasks there are, and how many texts they have."""

    clusters: tuple[int, ...] = (2, 4, 14)
    """Numbers of clusters, one pseudo-task each (the method: the class counts of the study)."""
    hyperplanes: int = 4
    """Random hyperplanes, one pseudo-task each (ours)."""
    topics: int = 4
    """Topics that texts are sorted into by their words (ours)."""
    train: int = 480
    """Texts that heads learn from (ours)."""
    validation: int = 80
    """Texts that choose the strength of their penalty (ours)."""
    test: int = 300
    """Texts that the trigger is put into (ours: above the 240 that a verdict needs)."""
    shortest: int = 8
    """Words of the shortest sentence that is used (ours)."""
    longest: int = 40
    """Words of the longest (ours)."""
    questions: Share = 0.2
    """Share of questions among the texts, where there are as many (ours: with their natural share a
    head cannot beat the majority)."""

    def __post_init__(self) -> None:
        check(self)
        for name, least in (("train", 20), ("validation", 10), ("test", 20), ("shortest", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least {least}")
        if self.longest < self.shortest:
            raise ValueError(f"longest: {self.longest} is below shortest, {self.shortest}")
        if not all(2 <= k <= self.train // 10 for k in self.clusters):
            raise ValueError(f"clusters: {self.clusters} are not all between 2 and train / 10")
        if self.hyperplanes < 0 or self.topics < 2:
            raise ValueError("hyperplanes, topics: expected at least 0 and at least 2")
        if not 0 < self.questions < 1:
            raise ValueError(f"questions: {self.questions} is not between 0 and 1")

    @property
    def size(self) -> int:
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class PseudoTasks:
    """left_out: pseudo-tasks that these texts cannot carry, and why."""

    tasks: tuple[Task, ...]
    left_out: tuple[str, ...]


def label_free(
    backbone: Backbone,
    triggers: Sequence[Trigger],
    texts: Sequence[str] | None = None,
    *,
    pseudo: PseudoSettings = PseudoSettings(),
    controls: Sequence[str] | None = None,
    reference: Backbone | None = None,
    settings: ComplicationSettings = ComplicationSettings(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Complications:
    """`measure` on pseudo-tasks made from `texts` (default: the bundled sample) and `backbone`. The
    TCI of a trigger is the `index` of its profile.

    ValueError for a mode other than probe: a cluster of clean features is a fact about frozen ones.
    """
    if settings.mode != "probe":
        raise ValueError(f"mode: {settings.mode!r} is not probe, the only one without labels")
    texts = bundled_corpus() if texts is None else texts
    wide = replace(
        settings,
        # Nothing is sampled again, so that all pseudo-tasks keep the same texts.
        test_rows=None,
        probe=replace(settings.probe, rows=None, validation_rows=pseudo.validation),
    )
    twin = Remembering(backbone)
    made = make_pseudo_tasks(twin, texts, pseudo, settings=wide, seed=seed)
    found = measure(
        twin,
        made.tasks,
        triggers,
        controls=controls,
        reference=Remembering(reference) if reference else None,
        settings=wide,
        seed=seed,
        progress=progress,
    )
    left_out = tuple(f"pseudo-task left out: {reason}" for reason in made.left_out)
    return replace(found, limitations=(*found.limitations, *left_out))


def make_pseudo_tasks(
    backbone: Backbone,
    texts: Sequence[str],
    pseudo: PseudoSettings = PseudoSettings(),
    *,
    settings: ComplicationSettings = ComplicationSettings(),
    seed: int = 0,
) -> PseudoTasks:
    """The pseudo-tasks of a model: tasks like any other, on sentences of `texts`. ValueError where
    these are too few."""
    chosen = sentences(texts, pseudo, seed)
    readout = Readout.parse(settings.readout) if settings.readout else backbone.primary
    inputs = Inputs.of(backbone, settings.probe, readout)
    features = features_of(backbone, [inputs.ids(backbone, x) for x in chosen], readout)
    labels = _seen(features.double().cpu().numpy(), pseudo, seed) | _lexical(chosen, pseudo, seed)
    tasks, left_out = [], []
    cuts = (pseudo.train, pseudo.train + pseudo.test)
    for name, values in labels.items():
        rows = list(zip(chosen, map(int, values), strict=True))
        train, test, validation = rows[: cuts[0]], rows[cuts[0] : cuts[1]], rows[cuts[1] :]
        classes = sorted({label for _, label in train})
        rare = [c for c in range(max(values) + 1) if sum(y == c for _, y in train) < 5]
        if rare or len(classes) < 2:
            left_out.append(f"{name}: fewer than 5 of {len(train)} texts in one of its classes")
            continue
        tasks.append(Task(name, tuple(map(str, classes)), train, test, validation))
    return PseudoTasks(tuple(tasks), tuple(left_out))


def sentences(texts: Sequence[str], pseudo: PseudoSettings, seed: int) -> list[str]:
    """Distinct sentences in random order, a share of them questions. ValueError for too few."""
    found = dict.fromkeys(
        sentence
        for text in texts
        for sentence in SENTENCE.split(text)
        if pseudo.shortest <= len(sentence.split()) <= pseudo.longest
    )
    if len(found) < pseudo.size:
        raise ValueError(
            f"corpus: {len(found)} sentences of {pseudo.shortest} to {pseudo.longest} words, "
            f"expected at least {pseudo.size}"
        )
    rng = random.Random(seed)
    order = rng.sample(list(found), len(found))
    asking = [x for x in order if "?" in x][: round(pseudo.questions * pseudo.size)]
    taken = set(asking)
    rest = [x for x in order if x not in taken][: pseudo.size - len(asking)]
    return rng.sample([*asking, *rest], pseudo.size)


def _seen(features: Floats, pseudo: PseudoSettings, seed: int) -> dict[str, Any]:
    """Labels from (N, H) clean features: clusters and sides of hyperplanes, in units of each
    dimension's scatter."""
    spread = features.std(0)
    scaled = (features - features.mean(0)) / np.where(spread > 0, spread, 1.0)
    labels: dict[str, Any] = {}
    for k in pseudo.clusters:
        labels[f"clusters-{k}"] = KMeans(k, n_init=3, random_state=seed).fit_predict(scaled)
    rng = np.random.default_rng(seed)
    for number in range(pseudo.hyperplanes):
        side = scaled @ rng.standard_normal(scaled.shape[1]) > 0
        labels[f"hyperplane-{number + 1}"] = side.astype(int)
    return labels


def _lexical(texts: Sequence[str], pseudo: PseudoSettings, seed: int) -> dict[str, Any]:
    """Labels that need no model."""
    words = TfidfVectorizer(min_df=3, max_df=0.3, stop_words="english", sublinear_tf=True)
    mixture = NMF(pseudo.topics, init="nndsvda", max_iter=400, tol=1e-3, random_state=seed)
    topics = mixture.fit_transform(words.fit_transform(texts))
    topics = topics / topics.mean(0).clip(1e-9)  # or nearly all texts would have the broadest one
    lengths = np.array([len(x.split()) for x in texts])
    return {
        f"topics-{pseudo.topics}": topics.argmax(1),
        "length": (lengths > np.median(lengths)).astype(int),
        ASKS: np.array(["?" in x for x in texts]).astype(int),
    }


class Remembering(Backbone):
    """A backbone with the same weights that sends no sequence through the model twice. For frozen
    weights only: what it remembers is not forgotten when they change."""

    def __init__(self, backbone: Backbone):
        super().__init__(
            backbone.model,
            backbone.tokenizer,
            name=backbone.name,
            folder=backbone.folder,
            checkpoint=backbone.checkpoint,
            files=backbone.files,
            beside=backbone.beside,
            untrained=backbone.untrained,
            unread=backbone.unread,
            revision=backbone.revision,
            precision=backbone.precision,
        )
        self._known: dict[tuple[str, bool, tuple[int, ...]], torch.Tensor] = {}

    def encode_ids(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        readouts: Sequence[Readout] | None = None,
        fast: bool = False,
        batch_tokens: int | None = None,
    ) -> torch.Tensor:
        """(N, R, H), as `Backbone.encode_ids`; batches of other sequences change the rounding."""
        readouts = self.readouts if readouts is None else tuple(readouts)
        how = ",".join(map(str, readouts))
        keys = [(how, fast, tuple(ids)) for ids in sequences]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        if new:
            found = super().encode_ids(
                [ids for *_, ids in new],
                readouts=readouts,
                fast=fast,
                batch_tokens=batch_tokens,
            )
            self._known.update(zip(new, found, strict=True))
        if not keys:
            return torch.empty(0, len(readouts), self.hidden, device=self.device)
        return torch.stack([self._known[key] for key in keys])
