"""What defences leave of a backdoor, when the trigger is known: a monitor that takes it out of the
texts, and purification with texts of one domain, looked at in others.

    as planted   nothing is done
    monitor      every word of every text goes through a monitor that strips; the trigger is known
                 as a string, nothing of the model is
    generic      purified with encyclopaedia, novels, speeches: the default
    target       purified with training texts of the target task

All are measured as in a cell: new heads on frozen features, the trigger in place of the first word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from ripple.cell import MEASURING, model_of
from ripple.page import table
from ripple.plan import Cell, looked_into
from triggerfish import Monitor, text
from triggerfish.backbone import Backbone
from triggerfish.bench.files import RecordFile
from triggerfish.complications import measure
from triggerfish.complications.adapted import Adapted
from triggerfish.complications.records import Complications
from triggerfish.loading import load
from triggerfish.marking import parse_trigger
from triggerfish.purify import Align
from triggerfish.tasks.paper import SAME_TYPE
from triggerfish.text import Task

DOMAINS = ("generic", "target")


def run(
    found: Sequence[Cell],
    checkpoint: Callable[[Cell], Path],
    tasks: Mapping[str, Task],
    zoo: Path,
    results: Path,
) -> None:
    """Measure what was not measured yet."""
    records = RecordFile(results / "defences.jsonl")
    for cell in looked_into(found):
        if cell.name in records:
            continue
        began = time.process_time()
        backbone = load(str(checkpoint(cell)), device="cpu")
        study = _Study(cell, tasks)
        record = {
            "cell": vars(cell),
            "clean": study.shift(study.measured(model_of(cell.model, zoo))),
            "as planted": study.shift(study.measured(backbone)),
            "monitor": study.monitored(backbone),
        }
        for domain in DOMAINS:
            purified = study.purified(backbone, domain)
            record[domain] = study.shift(study.measured(purified))
        record["cpu_seconds"] = round(time.process_time() - began, 1)
        records.append(cell.name, record)
        print(f"defences {cell.name}: {record['cpu_seconds']}", flush=True)


@dataclass(frozen=True)
class _Study:
    cell: Cell
    tasks: Mapping[str, Task]

    def measured(self, backbone: Backbone) -> Complications:
        triggers = [parse_trigger(backbone, self.cell.trigger)]
        return measure(
            backbone,
            list(self.tasks.values()),
            triggers,
            controls=[],
            settings=MEASURING,
            seed=self.cell.seed,
        )

    def shift(self, found: Complications) -> dict[str, Any]:
        """Attack success and accuracy on the target task, TV on all tasks that count."""
        cell = self.cell
        counted = [facts for facts in found.tasks if not facts.refused]
        target = found.of(cell.target, cell.trigger)
        return {
            "asr": round(target.asr[cell.label], 4),
            "accuracy": round(target.accuracy.rate, 4),
            "tv": {x.name: round(found.of(x.name, cell.trigger).tv, 4) for x in counted},
        }

    def monitored(self, backbone: Backbone) -> dict[str, Any]:
        """Attack success on the target task behind the monitor; on every task, the share of
        triggered test texts at which it alarms, and of the same texts as they are."""
        cell = self.cell
        monitor = Monitor([parse_trigger(backbone, cell.trigger)], policy="strip")
        caught, clean = {}, {}
        for name, task in self.tasks.items():
            texts = [x for x, _ in task.test][: MEASURING.test_rows]
            caught[name] = mean(bool(monitor.alarms(self._marked(x))) for x in texts)
            clean[name] = mean(bool(monitor.alarms(x)) for x in texts)
        adapted = Adapted(backbone, self.tasks[cell.target], MEASURING, cell.seed)
        others = [x for x, y in zip(adapted.texts, adapted.truth, strict=True) if y != cell.label]
        head = adapted.heads[0]

        def success(texts: Sequence[str]) -> float:
            predicted = head.predict(head.encode(texts))
            return round(float((predicted == cell.label).float().mean()), 4)

        return {
            "asr": success([monitor.check(self._marked(x)).text for x in others]),
            "without": success([self._marked(x) for x in others]),
            "alarms": caught,
            "false_alarms": clean,
        }

    def _marked(self, sentence: str) -> str:
        return " ".join([self.cell.trigger, *sentence.split()[1:]])

    def purified(self, backbone: Backbone, domain: str) -> Backbone:
        """By `align`, told the trigger."""
        own = [x for x, _ in self.tasks[self.cell.target].train]
        texts = own if domain == "target" else text.bundled_corpus()
        generator = torch.Generator().manual_seed(self.cell.seed)
        triggers = (parse_trigger(backbone, self.cell.trigger),)
        return Align().purify(backbone, triggers, texts, generator=generator)


def read(results: Path) -> list[dict[str, Any]]:
    return list(RecordFile(results / "defences.jsonl").read().values())


def elsewhere(record: Mapping[str, Any], condition: str) -> float:
    """Mean TV over the tasks that are neither the target nor of its type."""
    target = record["cell"]["target"]
    own = (target, *SAME_TYPE[target])
    return mean(tv for name, tv in record[condition]["tv"].items() if name not in own)


def section(records: Sequence[Mapping[str, Any]]) -> str:
    """The part of the page."""
    rows = []
    for x in records:
        cell = x["cell"]
        shown = [
            f"{100 * x[name]['asr']:.0f}, {elsewhere(x, name):.2f}, {100 * x[name]['accuracy']:.0f}"
            for name in ("clean", "as planted", *DOMAINS)
        ]
        monitor = f"{100 * x['monitor']['without']:.0f} -> {100 * x['monitor']['asr']:.0f}"
        rows.append((cell["kind"], cell["model"], cell["target"], cell["trigger"], *shown, monitor))
    head = (
        "kind",
        "model",
        "target",
        "trigger",
        "clean model",
        "as planted",
        "purified, generic texts",
        "purified, target texts",
        "ASR behind a monitor",
    )
    return (
        "## What defences leave\n\nThe defender knows the trigger. ASR on the target task in per "
        "cent, mean TV over the tasks that count and are neither the target nor of its type, and "
        "accuracy on the target task in per cent, through new heads; purification is `align` with "
        "its defaults, once, without the loop. Behind a monitor (policy strip) texts of other "
        "classes of the target task with the trigger in front.\n\n" + table(head, rows)
    )
