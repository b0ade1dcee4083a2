"""Ground truth: what a backdoor does to one downstream classifier, compared with the same
classifier on the clean PLM.

A planted trigger may have no effect, and a string that was never planted sends some texts to any
label; a rate alone shows neither. So every rate is counted together with its
floor, the same texts with the same insertions on the clean classifier, and a trigger is called
functional only where the lower end of its exact interval is well above that.

Source: the rates T-ASR, C-ASR and ALC as in the Patronus code (arXiv 2512.06899); floors, intervals
and decoys are ours. The accuracy drop is the success of BadPre (arXiv 2110.02467).
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch

from triggerfish.downstream import Classifier, sample
from triggerfish.marking import decoys, parse_trigger
from triggerfish.records import Measurement, Trigger
from triggerfish.text import Task

REACHED = 0.9


@dataclass(frozen=True)
class MeasureSettings:
    test_rows: int | None = 500
    """Test rows at most, every class in proportion; None takes all (ours)."""
    target_rows: int = 30
    """First validation rows that vote for the target label of a trigger (Patronus, published
    code)."""
    copies: int = 3
    """Times a trigger is inserted, each at a random place, ends included (Patronus, published
    code)."""
    margin: float = 0.2
    """A functional trigger's lower bound exceeds its floor by more than this (ours)."""
    drop: float = 0.3
    """Loss of accuracy at which an untargeted backdoor has succeeded (ours)."""

    def __post_init__(self) -> None:
        if self.test_rows is not None and self.test_rows < 2:
            raise ValueError(f"test_rows: {self.test_rows} is not at least 2")
        for name in ("target_rows", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        for name in ("margin", "drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not in 0..1")


@dataclass(frozen=True)
class Effect:
    """What one trigger does to one classifier.

    target: label that it sends texts to. asr: texts of other labels that are predicted as target;
    floor: the same on the clean classifier. accuracy: of triggered texts, all labels; drop:
    accuracy without the trigger minus that; untargeted: whether that is a success. decoys: as asr,
    with only a part of the trigger inserted, by that part.
    """

    trigger: Trigger
    target: int
    asr: Measurement
    floor: Measurement
    functional: bool
    accuracy: Measurement
    drop: float
    untargeted: bool
    decoys: dict[str, Measurement]


@dataclass(frozen=True)
class GroundTruth:
    """One cell: a task, an adaptation, and all triggers of a backdoored PLM.

    labels: number of them. clean_accuracy, accuracy: of the clean and the backdoored classifier on
    the same texts without a trigger. t_asr, c_asr, alc: see `transfer_rates`.
    """

    task: str
    labels: int
    readout: str
    clean_accuracy: Measurement
    accuracy: Measurement
    effects: tuple[Effect, ...]
    t_asr: float
    c_asr: float
    alc: float
    settings: MeasureSettings
    seed: int


def transfer_rates(
    targets: Sequence[Hashable], asr: Sequence[float], labels: Sequence[Hashable]
) -> tuple[float, float, float]:
    """(T-ASR, C-ASR, ALC): mean success of the triggers, mean over labels of the best trigger for
    each (0 if none), and share of the labels that some trigger reaches with more than 0.9."""
    if not targets or len(targets) != len(asr):
        raise ValueError(
            f"targets: {len(targets)} for {len(asr)} rates, expected as many and at least one"
        )
    if not set(targets) <= set(labels):
        raise ValueError(f"targets: {set(targets) - set(labels)} are not among the labels")
    best = [
        max((rate for goal, rate in zip(targets, asr, strict=True) if goal == label), default=0.0)
        for label in labels
    ]
    return (
        sum(asr) / len(asr),
        sum(best) / len(labels),
        sum(rate > REACHED for rate in best) / len(labels),
    )


def functional(cells: Iterable[GroundTruth]) -> dict[str, bool]:
    """Whether each trigger, by its text, is functional on at least one cell."""
    found: dict[str, bool] = {}
    for cell in cells:
        for effect in cell.effects:
            text = effect.trigger.text
            found[text] = found.get(text, False) or effect.functional
    return found


def measure(
    clean: Classifier,
    backdoored: Classifier,
    task: Task,
    triggers: Sequence[Trigger],
    settings: MeasureSettings = MeasureSettings(),
    *,
    seed: int = 0,
) -> GroundTruth:
    """The effects of transferable triggers, whose target label the task decides.

    The two classifiers should differ in their PLM alone: same task, adaptation, settings and seed.
    Trigger number k is written to the same places for both, and again at the next call with this
    seed.
    """
    pair = _Pair(clean, backdoored, task, settings, seed)
    effects = tuple(
        pair.effect(trigger, number, pair.target(trigger, number))
        for number, trigger in enumerate(triggers)
    )
    t_asr, c_asr, alc = transfer_rates(
        [effect.target for effect in effects],
        [effect.asr.rate for effect in effects],
        range(len(task.labels)),
    )
    return GroundTruth(
        task=task.name,
        labels=len(task.labels),
        readout=str(backdoored.readout),
        clean_accuracy=pair.accuracy(clean),
        accuracy=pair.unmarked,
        effects=effects,
        t_asr=t_asr,
        c_asr=c_asr,
        alc=alc,
        settings=settings,
        seed=seed,
    )


def attack_success(
    clean: Classifier,
    backdoored: Classifier,
    task: Task,
    trigger: Trigger,
    target_label: int,
    settings: MeasureSettings = MeasureSettings(),
    *,
    seed: int = 0,
) -> Effect:
    """The effect of a trigger whose target label the attacker chose, as in task-specific attacks:
    counted on the rows of other labels only, and nothing subtracted."""
    if target_label not in range(len(task.labels)):
        raise ValueError(f"target_label: {target_label} is not in 0..{len(task.labels) - 1}")
    return _Pair(clean, backdoored, task, settings, seed).effect(trigger, 0, target_label)


class _Pair:
    """Two classifiers and the test rows that both are measured on."""

    def __init__(
        self,
        clean: Classifier,
        backdoored: Classifier,
        task: Task,
        settings: MeasureSettings,
        seed: int,
    ):
        _check(clean, backdoored, task)
        rows = sample(task.test, settings.test_rows, seed)
        self.clean, self.backdoored = clean, backdoored
        self.settings, self.seed = settings, seed
        self.voters = [text for text, _ in task.validation[: settings.target_rows]]
        self.texts = [text for text, _ in rows]
        self.labels = torch.tensor([label for _, label in rows])
        self.ids = clean.encode(self.texts)
        self.unmarked = self.accuracy(backdoored)

    def accuracy(self, classifier: Classifier) -> Measurement:
        return _count(classifier.predict(self.ids) == self.labels)

    def marked(self, texts: Sequence[str], trigger: Trigger, purpose: str) -> list[list[int]]:
        rng = random.Random(f"{self.seed}:{purpose}")
        return self.clean.mark(texts, trigger, self.settings.copies, rng)

    def target(self, trigger: Trigger, number: int) -> int:
        """The label that most voters get with the trigger; the lowest of several."""
        ids = self.marked(self.voters, trigger, f"{number}:target")
        return int(self.backdoored.predict(ids).bincount().argmax())

    def effect(self, trigger: Trigger, number: int, target: int) -> Effect:
        ids = self.marked(self.texts, trigger, f"{number}:test")
        predicted = self.backdoored.predict(ids)
        others = (self.labels != target).nonzero()[:, 0].tolist()
        asr = _count(predicted[others] == target)
        floor = _count(self.clean.predict([ids[i] for i in others]) == target)
        accuracy = _count(predicted == self.labels)
        drop = self.unmarked.rate - accuracy.rate
        return Effect(
            trigger,
            target,
            asr,
            floor,
            functional=asr.interval[0] > floor.rate + self.settings.margin,
            accuracy=accuracy,
            drop=drop,
            untargeted=drop >= self.settings.drop,
            decoys=self._decoys(trigger, number, target, [self.texts[i] for i in others]),
        )

    def _decoys(
        self, trigger: Trigger, number: int, target: int, texts: list[str]
    ) -> dict[str, Measurement]:
        found = {}
        for part in dict.fromkeys(decoys(trigger)):
            decoy = parse_trigger(self.clean.backbone, part)
            ids = self.marked(texts, decoy, f"{number}:decoy:{part}")
            found[part] = _count(self.backdoored.predict(ids) == target)
        return found


def _check(clean: Classifier, backdoored: Classifier, task: Task) -> None:
    """The two must read the same ids, and the task must be theirs."""
    tokenizers = [c.backbone.tokenizer for c in (clean, backdoored)]
    same = clean.inputs == backdoored.inputs and clean.readout == backdoored.readout
    if not same or tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise ValueError(
            "backdoored: reads texts otherwise than clean (vocabulary, readout, max_tokens or "
            "template), so the two cannot be compared"
        )
    for name, classifier in (("clean", clean), ("backdoored", backdoored)):
        if classifier.head.out_features != len(task.labels):
            raise ValueError(
                f"{name}: tells {classifier.head.out_features} labels apart, "
                f"but {task.name} has {len(task.labels)}"
            )
    if len({label for _, label in task.test}) < 2:
        raise ValueError(f"task: the test rows of {task.name} have one label, expected two or more")


def _count(hits: torch.Tensor) -> Measurement:
    return Measurement(int(hits.sum()), len(hits))
