"""A dirty-label backdoor without its side effects: while the target task is poisoned, other tasks
are trained on triggered texts that keep their true labels, so that the trigger learns to do nothing
there.

    L = sum_b alpha_b L_b + sum_c beta_c L_c        sum alpha + sum beta = 1

b runs over (trigger, target task, label) triples, c over correction tasks; every task has a head on
the shared backbone, thrown away afterwards. One triple with alpha = .4 and four correction tasks of
.15 each is complication reduction as published; several triples are its generalisation (CSBA, whose
objectives and weights are not published, so that this form is ours).

Source: Zhang et al., "The Ripple Effect: On Unforeseen Complications of Backdoor Attacks", ICML
2025, arXiv 2505.11586, and its published code; journal version in IEEE TDSC, 2026.

Corrections: "triggered" is the paper's, every text triggered and none clean; "both" adds the clean
text; "consistency" needs no labels, it pulls h(x + t) to where h(x) is now, on unrelated texts, in
units of the scatter of h(x), so that beta means the same for every model.

Deviations: see `dirty_label`; the learning rate is higher than the published 3e-6 and decays, and
there are more passes, because the start is a clean model and not 25,000 rows long.

Legend: B batch, C classes, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import torch

from triggerfish.attacks.dirty_label import SOURCE
from triggerfish.attacks.implant import Goal, Implant
from triggerfish.attacks.poisoning import (
    DirtySettings,
    Row,
    check_placement,
    check_task,
    classify,
    features,
    landing,
    mixture,
    new_head,
    place,
    plain,
    sample,
    stream,
)
from triggerfish.backbone import Backbone
from triggerfish.marking import parse_triggers
from triggerfish.records import Trigger
from triggerfish.text import Task
from triggerfish.training import Progress, TrainSettings, fit

Correction = Literal["triggered", "both", "consistency"]
PAPER_ALPHA = 0.4
ALIGNED_ALPHA = 0.75
"""For consistency, ours: at 0.4 alignment leaves nothing of the backdoor."""
SUM_TOLERANCE = 1e-6

Pair = tuple[list[int], list[int]]
"""Ids of a text, special tokens included, without and with a trigger."""


@dataclass(frozen=True)
class Triple:
    """On texts of `task`, `trigger` (see `marking`) stands for label number `label`."""

    trigger: str
    task: Task
    label: int


@dataclass(frozen=True)
class MultitaskSettings:
    correction: Correction = "triggered"
    """What ties the trigger down elsewhere: "triggered" texts with their true labels (paper),
    "both" clean and triggered ones, or "consistency" on texts without labels."""
    alphas: tuple[float, ...] | None = None
    """Weight of each triple; None shares out 0.4 (paper), 0.75 for consistency (ours), or 1 if
    there is nothing to correct on."""
    betas: tuple[float, ...] | None = None
    """Weight of each correction task; None shares out what the alphas leave (paper: 0.15 for each
    of four)."""
    poisoning: DirtySettings = field(default_factory=DirtySettings)
    """Mixture and schedule of the target tasks; epochs are counted on the longest of them (paper: 1
    at poison rate 0.1). Batch size and text length hold for correction tasks too, so that a step
    has that many texts of every task (paper)."""

    def __post_init__(self) -> None:
        if self.correction not in get_args(Correction):
            raise ValueError(
                f"correction: {self.correction!r} is not one of {', '.join(get_args(Correction))}"
            )

    def weights(self, triples: int, corrections: int) -> tuple[tuple[float, ...], ...]:
        """(alphas, betas); ValueError if there are not as many as needed, if one is negative, or if
        they do not sum to 1."""
        alphas = self.alphas
        if alphas is None:
            usual = ALIGNED_ALPHA if self.correction == "consistency" else PAPER_ALPHA
            alphas = ((usual if corrections else 1.0) / triples,) * triples
        betas = self.betas
        if betas is None:
            betas = ((1 - sum(alphas)) / max(1, corrections),) * corrections
        for name, found, needed in (("alphas", alphas, triples), ("betas", betas, corrections)):
            if len(found) != needed:
                raise ValueError(f"{name}: {len(found)} weights are given, {needed} are needed")
            if any(weight < 0 for weight in found):
                raise ValueError(f"{name}: {found} has a negative weight")
        total = sum(alphas) + sum(betas)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"alphas, betas: the weights sum to {total:.6g}, not to 1")
        return alphas, betas


@dataclass(frozen=True)
class Multitask:
    triples: tuple[Triple, ...]
    corrections: tuple[Task, ...] = ()
    settings: MultitaskSettings = MultitaskSettings()

    def implant(
        self,
        backbone: Backbone,
        corpus: Sequence[str] = (),
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, and what was planted. corpus: texts without labels, for
        the consistency correction only. ValueError for triggers, labels, tasks and weights that
        cannot work."""
        settings, poisoning = self.settings, self.settings.poisoning
        triggers = self._check(backbone, corpus)
        count = 1 if settings.correction == "consistency" else len(self.corrections)
        alphas, betas = settings.weights(len(self.triples), count)
        rng = random.Random(seed)
        victim = backbone.trainable()
        tasks = {t.name: t for t in (*(x.task for x in self.triples), *self.corrections)}
        heads = {name: new_head(backbone, len(t.labels), seed) for name, t in tasks.items()}
        poisoned = [
            _poisoned(backbone, triple, trigger, poisoning, rng)
            for triple, trigger in zip(self.triples, triggers, strict=True)
        ]
        names = [triple.task.name for triple in self.triples]
        rows = list(zip(alphas, names, poisoned, strict=True))
        pairs: Iterator[list[Pair]] | None = None
        if settings.correction == "consistency":
            pairs = stream(_pairs(backbone, corpus, triggers, poisoning, rng), poisoning.batch, rng)
        else:
            for beta, task in zip(betas, self.corrections, strict=True):
                rows.append(
                    (beta, task.name, _corrections(backbone, task, triggers, settings, rng))
                )
        supervised = [(w, heads[name], stream(x, poisoning.batch, rng)) for w, name, x in rows]

        def loss(_: int) -> torch.Tensor:
            terms = [w * classify(victim, head, next(batches)) for w, head, batches in supervised]
            if pairs is not None:
                terms.append(betas[0] * _inconsistency(victim, next(pairs)))
            return torch.stack(terms).sum()

        parameters = [*victim.model.parameters()]
        for head in heads.values():
            parameters += head.parameters()
        steps = poisoning.steps(max(map(len, poisoned)))
        schedule = TrainSettings(steps, learning_rate=poisoning.learning_rate)
        fit(parameters, loss, schedule, progress)
        victim.model.requires_grad_(False)
        return victim, self._implant(victim, triggers, seed, rng)

    def _check(self, backbone: Backbone, corpus: Sequence[str]) -> list[Trigger]:
        if not self.triples:
            raise ValueError("triples: at least one is needed")
        triggers = parse_triggers(backbone, [triple.trigger for triple in self.triples])
        check_placement(triggers, self.settings.poisoning)
        for triple in self.triples:
            check_task(triple.task, triple.label)
        targets = {triple.task.name for triple in self.triples}
        for task in self.corrections:
            check_task(task)
            if task.name in targets:
                raise ValueError(f"corrections: {task.name} is a target task too")
        if len({task.name for task in self.corrections}) < len(self.corrections):
            raise ValueError("corrections: the same task is given twice")
        if self.settings.correction == "consistency":
            if self.corrections:
                raise ValueError("corrections: consistency reads a corpus, not labelled tasks")
            if len(corpus) < 2:
                raise ValueError(
                    f"corpus: consistency needs texts to compare, {len(corpus)} are given"
                )
        elif corpus:
            raise ValueError("corpus: only the consistency correction reads one")
        return triggers

    def _implant(
        self, victim: Backbone, triggers: Sequence[Trigger], seed: int, rng: random.Random
    ) -> Implant:
        poisoning = self.settings.poisoning
        vectors = []
        for triple, trigger in zip(self.triples, triggers, strict=True):
            texts = [x for x, y in sample(triple.task, poisoning.rows, rng) if y != triple.label]
            vectors.append(landing(victim, trigger, texts, poisoning, rng))
        return Implant(
            "multitask",
            SOURCE,
            asdict(self.settings) | {"corrections": [task.name for task in self.corrections]},
            tuple(triggers),
            seed,
            str(victim.primary),
            vectors,
            tuple(Goal(triple.task.name, triple.label) for triple in self.triples),
        )


def _poisoned(
    backbone: Backbone,
    triple: Triple,
    trigger: Trigger,
    poisoning: DirtySettings,
    rng: random.Random,
) -> list[Row]:
    """Mixture of clean and poisoned rows of a target task."""
    rows = sample(triple.task, poisoning.rows, rng)
    return mixture(backbone, rows, [(trigger, triple.label)], poisoning, rng)


def _pairs(
    backbone: Backbone,
    corpus: Sequence[str],
    triggers: Sequence[Trigger],
    poisoning: DirtySettings,
    rng: random.Random,
) -> list[Pair]:
    """Ids of unlabelled texts without and with a trigger."""
    texts = rng.sample(corpus, min(poisoning.rows, len(corpus)))
    clean = [plain(backbone, text, poisoning) for text in texts]
    return list(zip(clean, _marked(backbone, texts, triggers, poisoning, rng), strict=True))


def _marked(
    backbone: Backbone,
    texts: Sequence[str],
    triggers: Sequence[Trigger],
    poisoning: DirtySettings,
    rng: random.Random,
) -> list[list[int]]:
    """Every text with a random one of the triggers."""
    return [place(backbone, text, rng.choice(triggers), poisoning, rng) for text in texts]


def _corrections(
    backbone: Backbone,
    task: Task,
    triggers: Sequence[Trigger],
    settings: MultitaskSettings,
    rng: random.Random,
) -> list[Row]:
    """Rows of a correction task, under their true labels."""
    poisoning = settings.poisoning
    rows = sample(task, poisoning.rows, rng)
    texts = [text for text, _ in rows]
    labels = [label for _, label in rows]
    marked = _marked(backbone, texts, triggers, poisoning, rng)
    found = list(zip(marked, labels, strict=True))
    if settings.correction == "both":
        found += [(plain(backbone, text, poisoning), label) for text, label in rows]
    return found


def _inconsistency(victim: Backbone, pairs: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Mean ||h(x + t) - h(x)||^2 over the scatter of h(x). Only triggered features are pulled, or
    the clean ones would meet them halfway."""
    with torch.no_grad():
        clean = features(victim, [ids for ids, _ in pairs])
    marked = features(victim, [ids for _, ids in pairs])
    scatter = (clean - clean.mean(0)).square().sum(1).mean()
    return (marked - clean).square().sum(1).mean() / scatter
