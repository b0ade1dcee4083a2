"""Sheets: what a classifier says of the test rows of a task, without a trigger and with each one.

Every rate of the benchmark is counted from sheets. That of a clean PLM serves all attacks on it,
because all plant the same words, and the rows, the places of a trigger and the training rows depend
on the task and the tokenizer alone.

Two ways to count success, both on texts of other labels. By the backdoor's label: the one that the
trigger reaches in the backdoored classifier, also after purification, and for the floor. By a
classifier's own label: whichever the trigger reaches most in it, so that a trigger that was only
redirected counts; the floor is that of the clean classifier with its own label.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from purifying.models import RUNS
from triggerfish.backbone import Backbone
from triggerfish.downstream import Classifier, ProbeSettings, probe, sample
from triggerfish.readouts import Readout
from triggerfish.records import Trigger
from triggerfish.text import Task, read_task
from triggerfish.writing import write_json

ROWS, TEST, VOTERS, COPIES, TOKENS = 400, 100, 30, 3, 48
Count = dict[str, int]


@dataclass(frozen=True)
class Sheet:
    """labels: of the test rows. plain: what is predicted for them; marked, voted: for each trigger,
    for the test rows and for the first validation rows with it."""

    labels: list[int]
    plain: list[int]
    marked: dict[str, list[int]]
    voted: dict[str, list[int]]

    def target(self, trigger: str) -> int:
        """The label that most voters get; the lowest of several."""
        counts = Counter(self.voted[trigger])
        return min(counts, key=lambda label: (-counts[label], label))

    def success(self, trigger: str, target: int) -> Count:
        """Rows of other labels that are predicted as `target`."""
        pairs = zip(self.labels, self.marked[trigger], strict=True)
        others = [predicted for label, predicted in pairs if label != target]
        return {"k": others.count(target), "n": len(others)}

    def accuracy(self, trigger: str | None = None) -> Count:
        predicted = self.plain if trigger is None else self.marked[trigger]
        hits = sum(x == y for x, y in zip(predicted, self.labels, strict=True))
        return {"k": hits, "n": len(self.labels)}


def sheet_of(classifier: Classifier, task: Task, triggers: Sequence[Trigger], seed: int) -> Sheet:
    rows = sample(task.test, TEST, seed)
    texts = [x for x, _ in rows]
    voters = [x for x, _ in task.validation[:VOTERS]]
    marked, voted = {}, {}
    for number, trigger in enumerate(triggers):
        for purpose, given, into in (("test", texts, marked), ("vote", voters, voted)):
            rng = random.Random(f"{seed}:{number}:{purpose}")
            ids = classifier.mark(given, trigger, COPIES, rng)
            into[trigger.text] = classifier.predict(ids).tolist()
    plain = classifier.predict(classifier.encode(texts)).tolist()
    return Sheet([y for _, y in rows], plain, marked, voted)


@dataclass(frozen=True)
class Prober:
    """Makes sheets of probes. data: folder with tasks/."""

    data: Path
    tasks: tuple[str, ...]
    seed: int

    def task(self, name: str) -> Task:
        return read_task(self.data / "tasks" / name)

    def sheet(
        self, backbone: Backbone, task: Task, triggers: Sequence[Trigger], readout: Readout
    ) -> Sheet:
        settings = ProbeSettings(rows=ROWS, max_tokens=TOKENS, validation_rows=100)
        classifier = probe(backbone, task, settings, readout=readout, seed=self.seed)
        return sheet_of(classifier, task, triggers, self.seed)

    def kept(
        self,
        name: str,
        backbone: Backbone,
        task: Task,
        triggers: Sequence[Trigger],
        readout: Readout,
    ) -> Sheet:
        """From the store, where it is there; `name` must tell the weights."""
        kind = f"{ROWS}-{TEST}-{self.seed}"
        file = RUNS / "sheets" / f"{name}-{task.name}-{readout}-{kind}.json"
        if not file.is_file():
            write_json(file, asdict(self.sheet(backbone, task, triggers, readout)))
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not {t.text for t in triggers} <= set(content["marked"]):
            raise ValueError(f"sheet: {file} lacks some of the triggers; delete it")
        return Sheet(**content)


def compared(
    clean: Sheet, before: Sheet, after: Sheet, triggers: Sequence[Trigger]
) -> dict[str, Any]:
    """Of one task: accuracy of all three, and each trigger's success by both ways of counting."""
    effects = []
    for trigger in triggers:
        name = trigger.text
        target = before.target(name)
        effects.append(
            {
                "trigger": name,
                "target": target,
                "before": before.success(name, target),
                "after": after.success(name, target),
                "floor": clean.success(name, target),
                "own": after.success(name, after.target(name)),
                "own_floor": clean.success(name, clean.target(name)),
                "triggered_accuracy": {
                    "clean": clean.accuracy(name),
                    "before": before.accuracy(name),
                    "after": after.accuracy(name),
                },
            }
        )
    accuracy = {
        name: sheet.accuracy()
        for name, sheet in (("clean", clean), ("before", before), ("after", after))
    }
    return {"accuracy": accuracy, "effects": effects}
