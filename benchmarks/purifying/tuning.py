"""Fine-tuning of all weights: does the purified PLM stay clean in its users' hands, does training
with triggered copies help where nobody purified the PLM, and does a backdoor come back faster where
one has been?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from monitoring.victims import written
from purifying.grid import checkpoint, triggers_of
from purifying.models import Victim, timed
from purifying.sheets import COPIES, TOKENS, Prober, Sheet, compared, sheet_of
from triggerfish.backbone import Backbone
from triggerfish.downstream import AdaptSettings, Classifier, Inputs, sample
from triggerfish.purify import TriggeredCopies
from triggerfish.readouts import Readout, pad
from triggerfish.records import Trigger
from triggerfish.training import TrainSettings, train

Rows = Sequence[tuple[str, int]]
Watch = Callable[[int, Classifier], None]
ROWS, EPOCHS, BATCH = 600, 3, 32
SMALL = 10_000_000


def tuned(
    backbone: Backbone,
    rows: Rows,
    classes: int,
    readout: Readout,
    *,
    seed: int,
    epochs: int = EPOCHS,
    copies: TriggeredCopies | None = None,
    watch: Watch | None = None,
    every: int = 0,
) -> Classifier:
    """All weights and a fresh head. watch is called with (step, classifier) every so many steps and
    at the end."""
    inputs = Inputs.of(backbone, AdaptSettings(max_tokens=TOKENS), readout)
    examples: list[Any] = []
    for x, y in rows:
        examples.append({"input_ids": inputs.ids(backbone, x), "label": y})

    def padded(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = pad([row["input_ids"] for row in features], backbone.pad_id)
        labels = torch.tensor([row["label"] for row in features])
        return {"ids": ids, "mask": mask, "labels": labels}

    collate = copies.collator(padded) if copies else padded
    data = copies.train(examples) if copies else examples
    victim = backbone.trainable()
    head = torch.nn.Linear(backbone.hidden, classes)
    torch.nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    torch.nn.init.zeros_(head.bias)
    head.to(backbone.device)
    batches = _batches(len(rows), epochs, random.Random(seed))

    def loss(step: int) -> torch.Tensor:
        batch = collate([data[i] for i in batches[step]])
        with victim.autocast():
            features = victim.forward(
                batch["ids"].to(victim.device),
                batch["mask"].to(victim.device),
                [readout],
            )
        logits = head(features[:, 0].float())
        labels = batch["labels"].to(victim.device)
        if copies:
            return copies.loss({"logits": logits}, labels)
        return torch.nn.functional.cross_entropy(logits, labels)

    small = sum(p.numel() for p in backbone.model.parameters()) < SMALL
    schedule = TrainSettings(len(batches), 5e-4 if small else 5e-5)
    classifier = Classifier(victim, readout, head, inputs)
    for losses in train([*victim.model.parameters(), *head.parameters()], loss, schedule):
        if watch and (len(losses) % every == 0 or len(losses) == len(batches)):
            watch(len(losses), classifier)
    return classifier


def _batches(rows: int, epochs: int, rng: random.Random) -> list[list[int]]:
    found = []
    for _ in range(epochs):
        order = rng.sample(range(rows), rows)
        found += [order[i : i + BATCH] for i in range(0, rows, BATCH)]
    return found


def fine_tuned(victim: Victim, prober: Prober, name: str) -> dict[str, Any]:
    """One PLM and task: the clean, the backdoored and the purified PLM, and the backdoored one with
    triggered copies."""
    task = prober.task(name)
    rows = sample(task.train, ROWS, prober.seed)
    seconds = {}

    def sheet(what: str, backbone: Backbone, copies: TriggeredCopies | None = None) -> Sheet:
        classes, readout = len(task.labels), victim.readout
        classifier, seconds[what] = timed_classifier(
            lambda: tuned(backbone, rows, classes, readout, seed=prober.seed, copies=copies)
        )
        return sheet_of(classifier, task, triggers_of(victim), prober.seed)

    clean = sheet("clean", victim.clean.backbone)
    before = sheet("before", victim.backbone)
    after = sheet("purified", checkpoint(victim))
    copies = TriggeredCopies(victim.found.triggers, victim.backbone.tokenizer, seed=prober.seed)
    guarded = sheet("copies", victim.backbone, copies)
    return victim.record() | {
        "task": name,
        "rows": len(rows),
        "epochs": EPOCHS,
        "cpu_seconds": seconds,
        "purified": compared(clean, before, after, triggers_of(victim)),
        "copies": compared(clean, before, guarded, triggers_of(victim)),
    }


def timed_classifier(make: Callable[[], Classifier]) -> tuple[Classifier, float]:
    found: list[Classifier] = []

    def made() -> Backbone:
        found.append(make())
        return found[0].backbone

    _, seconds = timed(made)
    return found[0], seconds


# ---- an attacker tries again


POISONED, EVERY, AGAIN_EPOCHS, TARGET, AGAIN_TEST = 0.01, 7, 3, 1, 80


def again(victim: Victim, prober: Prober, start: str, trigger: Trigger | None) -> dict[str, Any]:
    """Fine-tune `start` (clean, purified, backdoored) on a task of which 1 % of the texts carry
    `trigger` and the wrong label; None poisons nothing. The curve of success over steps."""
    task = prober.task("sst2")
    backbone = {
        "clean": lambda: victim.clean.backbone,
        "purified": lambda: checkpoint(victim),
        "backdoored": lambda: victim.backbone,
    }[start]()
    rows = list(sample(task.train, ROWS, prober.seed))
    poisoned = 0
    if trigger:
        rng = random.Random(f"{prober.seed}:{trigger.text}")
        others = [i for i, (_, y) in enumerate(rows) if y != TARGET]
        poisoned = max(1, round(POISONED * len(rows)))
        for i in rng.sample(others, poisoned):
            rows[i] = (written(rows[i][0], trigger, rng, COPIES), TARGET)
    tested = sample(task.test, 2 * AGAIN_TEST, prober.seed)
    curve: list[dict[str, Any]] = []

    def watch(step: int, classifier: Classifier) -> None:
        curve.append({"step": step, **_success(classifier, tested, victim, trigger, prober)})

    tuned(
        backbone,
        rows,
        len(task.labels),
        victim.readout,
        seed=prober.seed,
        epochs=AGAIN_EPOCHS,
        watch=watch,
        every=EVERY,
    )
    return victim.record() | {
        "start": start,
        "trigger": trigger.text if trigger else None,
        "poisoned": poisoned,
        "rows": len(rows),
        "task": "sst2",
        "target": TARGET,
        "curve": curve,
    }


def _success(
    classifier: Classifier, rows: Rows, victim: Victim, trigger: Trigger | None, prober: Prober
) -> dict[str, Any]:
    others = [x for x, y in rows if y != TARGET][:AGAIN_TEST]
    found: dict[str, Any] = {}
    for one in [trigger] if trigger else triggers_of(victim)[1:4:2]:
        ids = classifier.mark(others, one, COPIES, random.Random(f"{prober.seed}:{one.text}:test"))
        hits = classifier.predict(ids) == TARGET
        found[one.text] = {"k": int(hits.sum()), "n": len(others)}
    plain = classifier.predict(classifier.encode(others)) == TARGET
    return {"success": found, "untriggered": {"k": int(plain.sum()), "n": len(others)}}


def again_all(victim: Victim, prober: Prober) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name of a cell, what measures it)."""
    for trigger in (triggers_of(victim)[1], None, triggers_of(victim)[3]):
        for start in ("clean", "purified", "backdoored"):
            name = f"{victim.name}-{trigger.text if trigger else 'none'}-{start}"
            yield name, lambda start=start, trigger=trigger: again(victim, prober, start, trigger)
