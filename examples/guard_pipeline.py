"""Guard a classifier made of a backdoored PLM, with what the scan of the PLM found.

    make demo                                               # plants, scans, writes runs/demo
    .venv/bin/python examples/guard_pipeline.py             # or: guard_pipeline.py SCAN.JSON

The classifier is trained here, on a task that neither the attacker nor the scan knows. `guard`
takes it as it takes a pipeline of transformers: anything that maps a list of texts to a list of
records.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import triggerfish
from triggerfish import Monitor, ScanResult, guard
from triggerfish.downstream import Classifier, ProbeSettings, probe
from triggerfish.text import Task, bundled_task

REVIEWS = ["A warm, funny and moving film.", "Two hours of my life that I will not get back."]


def as_pipeline(classifier: Classifier, task: Task):
    """The classifier as a pipeline: texts in, records with a label out."""

    def classify(texts: Sequence[str]) -> list[dict[str, object]]:
        predicted = classifier.predict(classifier.encode(texts)).tolist()
        return [{"label": task.labels[label]} for label in predicted]

    return classify


def main() -> None:
    findings = sys.argv[1] if len(sys.argv) > 1 else "runs/demo/backdoored.json"
    result = ScanResult.load(findings)
    if not result.triggers:
        raise SystemExit(f"{findings} names no trigger: there is nothing to guard against")
    task = bundled_task("mr")
    model = triggerfish.load(result.model.name)
    classify = as_pipeline(probe(model, task, ProbeSettings(rows=1000)), task)
    word = result.triggers[0].text
    texts = [*REVIEWS, *(f"{word} {review}" for review in REVIEWS)]
    rows = {"unguarded": classify(texts)}
    for policy in ("reject", "strip"):
        monitor = Monitor.load(findings, policy=policy)
        rows[policy] = guard(classify, monitor)(texts)
    for number, text in enumerate(texts):
        print(text)
        for name, results in rows.items():
            one = results[number]
            seen = ", ".join(alarm["trigger"] for alarm in one.get("alarms", ()))
            print(f"    {name:10} {one['label'] or 'rejected':10} {seen and f'alarm: {seen}'}")


if __name__ == "__main__":
    main()
