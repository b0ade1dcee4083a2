"""Measure complications: every trigger on every task, against control words and a reference.

    for each task: adapt the model, encode the test texts once
        for each trigger and placement: encode the triggered texts, compare the classes
    controls: only as many, on as few texts, as the p-values need (`sequential`)
    profiles: breadth, depth, peak, stability, and a conclusion (`verdict`)

Source: Zhang et al., "The Ripple Effect: On Unforeseen Complications of Backdoor Attacks", ICML
2025 (arXiv 2505.11586) for the pipeline; controls, tests and intervals are ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from triggerfish.backbone import Backbone
from triggerfish.complications import compare, significance
from triggerfish.complications.adapted import Adapted, Predictions
from triggerfish.complications.controls import Controls
from triggerfish.complications.divergences import Ints
from triggerfish.complications.predictions import Kept
from triggerfish.complications.records import (
    Complication,
    Complications,
    Conclusion,
    Profile,
    TaskFacts,
)
from triggerfish.complications.sequential import SequentialTest, TaskEffects
from triggerfish.complications.settings import ComplicationSettings
from triggerfish.complications.verdict import profile_of, refusals
from triggerfish.facts import environment, facts
from triggerfish.marking import Placement, parse_trigger
from triggerfish.records import Measurement, Provenance, Trigger
from triggerfish.stats import benjamini_hochberg
from triggerfish.tasks import Leak, leaks
from triggerfish.text import Task

Progress = Callable[[str, int, int], None]


def measure(
    backbone: Backbone,
    tasks: Sequence[Task],
    triggers: Sequence[Trigger],
    *,
    controls: Sequence[str] | None = None,
    reference: Backbone | None = None,
    settings: ComplicationSettings = ComplicationSettings(),
    seed: int = 0,
    progress: Progress | None = None,
    keep: Path | None = None,
) -> Complications:
    """How far each trigger shifts the classes of each task, and what that says of the trigger.

    controls: words to compare with (default: matched and made-up ones, as the settings say).
    reference: the original checkpoint, or another clean one of the same kind; the same triggers are
    measured on it. keep: a folder for the predictions themselves. progress is called with (what,
    done, of). The same seed gives the same result.

    Raises ValueError for no task or trigger, and for the same one twice.
    """
    if not tasks or len({task.name for task in tasks}) < len(tasks):
        raise ValueError("tasks: expected at least one, and none of the same name twice")
    if not triggers or len({trigger.text for trigger in triggers}) < len(triggers):
        raise ValueError("triggers: expected at least one, and none of them twice")
    words = Controls.of(backbone, triggers, controls, settings, seed)
    kept = Kept(keep, triggers, seed) if keep else None
    run = _Run(backbone, reference, list(triggers), words, settings, seed, progress, kept)
    for number, task in enumerate(tasks):
        run.step("task", number, len(tasks))
        run.add(task)
    return run.result(run.run_controls())


class _Run:
    """One measurement as it proceeds."""

    def __init__(
        self,
        backbone: Backbone,
        reference: Backbone | None,
        triggers: list[Trigger],
        controls: Controls,
        settings: ComplicationSettings,
        seed: int,
        progress: Progress | None,
        kept: Kept | None,
    ):
        self.started = time.monotonic()
        self.backbone, self.reference = backbone, reference
        self.triggers, self.settings, self.seed = triggers, settings, seed
        self.controls = controls
        self.progress, self.kept = progress, kept
        self.encoded = 0
        self.entries: list[Entry] = []

    def step(self, what: str, done: int, of: int) -> None:
        if self.progress:
            self.progress(what, done, of)

    def add(self, task: Task) -> None:
        """Adapt to one more task and compare every trigger on it."""
        settings, seed = self.settings, self.seed
        adapted = Adapted(self.backbone, task, settings, seed)
        reference = Adapted(self.reference, task, settings, seed) if self.reference else None
        moved = self._ordinary(adapted)
        limit = compare.limit(adapted, moved.rate if moved.n else compare.LIKELY)
        records, firsts = [], []
        seen: dict[tuple[int, Placement], Predictions] = {}
        reference_marked: dict[tuple[int, Placement], Predictions] = {}
        first, *rest = settings.policies
        natural = {leak.word: leak for leak in leaks(task, [x.text for x in self.triggers])}
        for number, trigger in enumerate(self.triggers):
            marked = adapted.triggered(trigger, first)
            others = [adapted.triggered(trigger, x, slice(settings.control_rows)) for x in rest]
            seen |= {
                (number, x): y for x, y in zip(settings.policies, [marked, *others], strict=True)
            }
            record = compare.compare(adapted, trigger.text, marked, others, settings, seed)
            leak = natural.get(trigger.text)
            record = replace(record, mde=limit, flags=(*record.flags, *_remark(leak)))
            if reference:
                reference_marked[number, first] = self._reference_marked(reference, trigger)
                pairs = (adapted, marked), (reference, reference_marked[number, first])
                record = compare.against(record, *pairs, settings, seed)
            records.append(record)
            firsts.append(marked.labels[0][: settings.control_rows])
        adapted.release()
        task_facts = self._facts(adapted, reference, moved, limit)
        self.entries.append(Entry(adapted, task_facts, records, firsts))
        self.encoded += reference.encoded if reference else 0
        if self.kept:
            self.kept.add(adapted, seen)
            if reference:
                self.kept.add(reference, reference_marked, reference=True)

    def _ordinary(self, adapted: Adapted) -> Measurement:
        """How many texts change class with a made-up word in them."""
        rows = slice(0, self.settings.nonsense_rows)
        clean = adapted.clean.labels[0][rows]
        moved = 0
        for word in self.controls.nonsense:
            labels = adapted.triggered(word, self.settings.policies[0], rows, heads=1).labels[0]
            moved += int((labels != clean).sum())
        return Measurement(moved, len(clean) * len(self.controls.nonsense))

    def _reference_marked(self, reference: Adapted, trigger: Trigger) -> Predictions:
        """What the same trigger, in its own tokens, does to the reference."""
        twin = parse_trigger(reference.backbone, trigger.text)
        return reference.triggered(twin, self.settings.policies[0])

    def _facts(
        self, adapted: Adapted, reference: Adapted | None, moved: Measurement, limit: float
    ) -> TaskFacts:
        truth = adapted.truth
        known = compare.count(reference.clean.labels[0] == truth) if reference else None
        made = TaskFacts(
            name=adapted.task.name,
            labels=adapted.task.labels,
            train=len(adapted.task.train),
            texts=len(truth),
            accuracy=compare.count(adapted.clean.labels[0] == truth),
            majority=float(np.bincount(truth).max() / len(truth)),
            reference_accuracy=known,
            ordinary=moved if moved.n else None,
        )
        return replace(made, refused=refusals(made, self.settings, limit))

    def run_controls(self) -> SequentialTest | None:
        """Test the triggers against the control words on the tasks that count."""
        counted = [entry for entry in self.entries if not entry.facts.refused]
        if not self.controls.words or not counted:
            return None
        settings = self.settings
        task_effects = TaskEffects(
            clean=[e.adapted.clean.labels[0][: settings.control_rows] for e in counted],
            classes=[entry.adapted.classes for entry in counted],
        )
        effects = np.array(
            [
                [task_effects.effect(j, entry.firsts[t]) for j, entry in enumerate(counted)]
                for t in range(len(self.triggers))
            ]
        )
        test = SequentialTest(
            task_effects, effects, settings.screens, settings.enough, settings.certainty
        )

        def predict(number: int, task: int, rows: slice) -> Ints:
            word = self.controls.words[number]
            marked = counted[task].adapted.triggered(word, settings.policies[0], rows, heads=1)
            labels: Ints = marked.labels[0]
            return labels

        test.run(len(self.controls.words), predict, self.step)
        self._record_p_values(test, counted)
        return test

    def _record_p_values(self, test: SequentialTest, counted: Sequence[Entry]) -> None:
        """Write the p-values of a test into the records, corrected for their number."""
        p = np.array([[test.p_single(t, j) for j in range(len(counted))] for t in self.numbers])
        q = np.reshape(benjamini_hochberg(p.ravel().tolist(), p.size), p.shape)
        holm = [significance.holm(row) for row in p]
        for j, entry in enumerate(counted):
            entry.records = [
                replace(
                    record,
                    p_control=float(p[t, j]),
                    p_family=test.p_family(t, j),
                    q=float(q[t, j]),
                    holm=holm[t][j],
                    controls=test.single[t, j].drawn,
                )
                for t, record in enumerate(entry.records)
            ]

    @property
    def numbers(self) -> range:
        return range(len(self.triggers))

    def result(self, test: SequentialTest | None) -> Complications:
        tasks = tuple(entry.facts for entry in self.entries)
        profiles = tuple(
            profile_of(trigger, [e.records[t] for e in self.entries], tasks, self.settings)
            for t, trigger in enumerate(self.triggers)
        )
        seconds = time.monotonic() - self.started
        return Complications(
            model=facts(self.backbone),
            reference=facts(self.reference) if self.reference else None,
            reading=most_severe(profiles),
            tasks=tasks,
            profiles=profiles,
            complications=tuple(record for e in self.entries for record in e.records),
            controls=self.controls.records(test),
            settings=json.loads(json.dumps(asdict(self.settings))),
            environment=environment(self.backbone),
            seed=self.seed,
            seconds=round(seconds, 2),
            texts_encoded=self.encoded + sum(entry.adapted.encoded for entry in self.entries),
            provenance=Provenance.of(seconds),
            limitations=self._limitations(),
        )

    def _limitations(self) -> tuple[str, ...]:
        found = ["says nothing of triggers that were not given, and of domains that no task covers"]
        lost = sum(entry.adapted.lost for entry in self.entries)
        if lost:
            found.append(f"in {lost} triggered texts the trigger cannot be read after tokenisation")
        if self.controls.words:
            found.append("control words are matched in frequency and length, not in part of speech")
        if self.reference is None:
            found.append(
                "without a reference model, what a word means to the clean model is told from a "
                "backdoor by control words alone"
            )
        return tuple(found)


@dataclass
class Entry:
    """A task in a measurement. firsts: for each trigger, the predictions of the texts on which
    control words are compared."""

    adapted: Adapted
    facts: TaskFacts
    records: list[Complication]
    firsts: list[Ints]


def _remark(leak: Leak | None) -> tuple[str, ...]:
    """Where ordinary texts hold the trigger, its effect is not a backdoor's alone."""
    if leak is None:
        return ()
    return (f"{leak.test} test and {leak.train} training texts hold it anyway",)


def most_severe(profiles: Sequence[Profile]) -> Conclusion:
    """The reading of a whole measurement."""
    readings = {profile.reading for profile in profiles}
    order: tuple[Conclusion, ...] = ("backdoor-like", "inconclusive", "no evidence")
    return next(reading for reading in order if reading in readings)
