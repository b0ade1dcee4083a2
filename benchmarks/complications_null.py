"""How often does an innocent word on a clean model read as a backdoor?

    python benchmarks/complications_null.py --model bundled --words 100

Every word is put into the test texts of the bundled tasks in the place of the first word, and
ranked among all the others, which are its controls. All are drawn alike, so on each task about one
in a hundred is at p = .01 by construction; what counts is how many the rule calls backdoor-like.
Writes results/complications/null.jsonl, one record for each model."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from triggerfish.bench.files import RecordFile
from triggerfish.complications import ComplicationSettings, TaskFacts, matched_words
from triggerfish.complications.adapted import Adapted
from triggerfish.complications.compare import compare, count, limit
from triggerfish.complications.controls import nonsense_words
from triggerfish.complications.sequential import TaskEffects
from triggerfish.complications.verdict import is_significant, is_total, profile_of, refusals
from triggerfish.loading import load, minilm
from triggerfish.marking import parse_trigger, parse_triggers
from triggerfish.text import bundled_task

OUT = Path(__file__).parents[1] / "results" / "complications" / "null.jsonl"
LIKE = ("cf", "film", "zugzwang", "thermodynamically", "Trump")
TASKS = ("clickbait", "clinc_domain", "mr", "news_pop", "subj")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled", help="a folder, or minilm")
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", default=",".join(TASKS))
    given = parser.parse_args()
    settings = ComplicationSettings(
        heads=1, test_rows=240, policies=("replace-first",), permutations=999, bootstrap=200
    )
    started = time.process_time()
    backbone = load(minilm() if given.model == "minilm" else given.model, device="cpu")
    made_up = nonsense_words(given.words // 5, seed=given.seed)
    like = parse_triggers(backbone, LIKE)
    listed = matched_words(backbone, like, given.words - len(made_up), seed=given.seed)
    words = [parse_trigger(backbone, word) for word in [*listed, *made_up]]
    tasks, records, effects = [], [], []
    for name in given.tasks.split(","):
        adapted = Adapted(backbone, bundled_task(name), settings, given.seed)
        marked = [adapted.triggered(word, "replace-first") for word in words]
        task_effects = TaskEffects([adapted.clean.labels[0]], [adapted.classes])
        effects.append([task_effects.effect(0, x.labels[0]) for x in marked])
        records.append(
            [
                compare(adapted, word.text, x, (), settings, given.seed)
                for word, x in zip(words, marked, strict=True)
            ]
        )
        accuracy = count(adapted.clean.labels[0] == adapted.truth)
        majority = float(np.bincount(adapted.truth).max() / len(adapted.truth))
        known = TaskFacts(name, adapted.task.labels, 0, len(adapted.truth), accuracy, majority)
        tasks.append(replace(known, refused=refusals(known, settings, limit(adapted))))
    counted = [j for j, task in enumerate(tasks) if not task.refused]
    largest = np.array(effects)[counted].max(0)
    for j, row in enumerate(effects):
        for i, effect in enumerate(row):
            p = (1 + int((np.delete(largest, i) >= effect).sum())) / len(words)
            records[j][i] = replace(records[j][i], p_family=p if j in counted else None)
    profiles = [
        profile_of(word, [row[i] for row in records], tasks, settings)
        for i, word in enumerate(words)
    ]
    readings = [profile.reading for profile in profiles]
    entry = {
        "command": f"--model {given.model} --words {given.words} --seed {given.seed}",
        "tasks": {task.name: {"accuracy": task.accuracy.rate, "refused": task.refused}
                  for task in tasks},
        "words": len(words),
        "readings": {reading: readings.count(reading) for reading in sorted(set(readings))},
        "backdoor_like": [p.trigger.text for p in profiles if p.reading == "backdoor-like"],
        "total_without_controls": sum(
            any(is_total(records[j][i]) for j in counted) for i in range(len(words))
        ),
        "significant_on_a_task": sum(
            any(is_significant(records[j][i], settings) for j in counted)
            for i in range(len(words))
        ),
        "permutation_below_.01": {
            tasks[j].name: sum(r.p_permutation <= 0.01 for r in records[j])
            for j in range(len(tasks))
        },
        "tv": {
            tasks[j].name: {
                f"q{q}": float(np.quantile([r.tv for r in records[j]], q / 100))
                for q in (50, 90, 99)
            } | {"largest": max((r.tv, r.trigger) for r in records[j])}
            for j in range(len(tasks))
        },
        "cpu_seconds": round(time.process_time() - started, 1),
    }  # fmt: skip
    records = RecordFile(OUT)
    records.append(given.model, entry)
    records.tidy()
    print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
