"""What 16 tasks, 3 triggers and 99 control words cost, beside training a head for every word.

    python benchmarks/complications_speed.py MODEL --data DATA --trigger cf --trigger gossip ...

Measures all of it on an idle machine, by the clock, and then, in the same run, does what the
published scripts do for a few pairs of task and word: train a new head on the frozen encoder (3
epochs, batches of 16, every epoch encoding every text again) and predict the test texts with and
without the word. The latter is fp32 without padding to full length, so its encoder does no needless
work. Writes results/complications/speed.json."""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from triggerfish.backbone import Backbone
from triggerfish.complications import Complications, ComplicationSettings, measure
from triggerfish.downstream import Inputs, ProbeSettings, sample
from triggerfish.facts import environment
from triggerfish.loading import load
from triggerfish.marking import parse_trigger, parse_triggers
from triggerfish.readouts import pad
from triggerfish.records import Trigger
from triggerfish.tasks import find_tasks
from triggerfish.text import Task
from triggerfish.writing import write_json

OUT = Path(__file__).parents[1] / "results" / "complications" / "speed.json"
EPOCHS, BATCH, RATE = 3, 16, 3e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tasks", default="paper")
    parser.add_argument("--trigger", action="append", default=[])
    parser.add_argument("--pairs", default="cola,bbcnews", help="tasks to train a head for")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--again", action="store_true", help="only recompute what follows")
    given = parser.parse_args()
    if given.again:
        write(json.loads(given.out.read_text()), given.out)
        return
    torch.set_num_threads(given.threads)
    probe = ProbeSettings(rows=given.rows, validation_rows=200)
    settings = ComplicationSettings(nonsense=0, test_rows=given.test_rows, probe=probe)
    backbone = load(given.model, device="cpu")
    tasks = find_tasks(given.tasks, given.data, sensitive=True).tasks
    triggers = parse_triggers(backbone, given.trigger)
    started, used = time.monotonic(), time.process_time()
    stages: dict[str, float] = {}

    def show(what: str, done: int, of: int) -> None:
        stages.setdefault(what, time.monotonic() - started)
        print(f"{what} {done}/{of}, {time.monotonic() - started:.0f} s", flush=True)

    result = measure(backbone, tasks, triggers, settings=settings, progress=show)
    ours, cpu = time.monotonic() - started, time.process_time() - used
    result.save(measurement(given.out))
    single = {
        task.name: published(backbone, task, triggers[0], settings)
        for task in tasks
        if task.name in given.pairs.split(",")
    }
    entry = {
        "command": f"MODEL --tasks {given.tasks} --rows {given.rows} --test-rows "
        f"{given.test_rows} " + " ".join(f"--trigger {word}" for word in given.trigger),
        "ours": {
            "seconds": round(ours, 1),
            "cpu_seconds": round(cpu, 1),
            "threads": given.threads,
            "of_which_control_words": round(ours - stages.get("control", ours), 1),
        },
        "published_procedure": {
            "measured_on": {name: round(seconds, 1) for name, (seconds, _) in single.items()},
            "texts_encoded_a_pair": max(texts for _, texts in single.values()),
        },
        "environment": environment(backbone.device),
    }
    write(entry, given.out)


def measurement(out: Path) -> Path:
    """The measurement beside a file of results."""
    return out.with_name(f"{out.stem}_measurement.json")


def write(entry: dict[str, Any], out: Path) -> None:
    """Add what follows from the seconds and the measurement. Words that were not measured on a task
    that carries no verdict are no pairs."""
    result = Complications.load(measurement(out))
    controls, triggers = len(result.controls), len(result.profiles)
    counted = sum(not task.refused for task in result.tasks)
    pairs = len(result.tasks) * triggers + counted * controls
    ours, theirs = entry["ours"], entry["published_procedure"]
    each = sum(theirs["measured_on"].values()) / len(theirs["measured_on"])
    ours |= {
        "texts_encoded": result.texts_encoded,
        "texts_of_control_words": sum(word.texts for word in result.controls),
        "texts_of_control_words_without_early_elimination": counted
        * controls
        * result.settings["control_rows"],
        "seconds_a_pair": round(ours["seconds"] / pairs, 3),
        "minutes": round(ours["seconds"] / 60, 1),
    }
    theirs |= {
        "seconds_a_pair": round(each, 1),
        "seconds_of_all_pairs_extrapolated": round(each * pairs),
    }
    entry |= {
        "tasks": {task.name: "refused" if task.refused else "counted" for task in result.tasks},
        "readings": {profile.trigger.text: profile.reading for profile in result.profiles},
        "control_words": controls,
        "pairs": pairs,
        "times_cheaper": round(each * pairs / ours["seconds"], 1),
    }
    write_json(out, entry)
    print(json.dumps(entry, indent=1))


def published(
    backbone: Backbone, task: Task, trigger: Trigger, settings: ComplicationSettings
) -> tuple[float, int]:
    """(seconds, texts encoded) of one task and one word as the published scripts do it."""
    started = time.monotonic()
    inputs = Inputs.of(backbone, settings.probe, backbone.primary)
    rows = sample(task.train, settings.probe.rows, 0)
    test = sample(task.test, settings.test_rows, 0)
    head = torch.nn.Linear(backbone.hidden, len(task.labels))
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE)
    encoded = 0

    def features(ids: list[list[int]]) -> torch.Tensor:
        nonlocal encoded
        encoded += len(ids)
        with torch.no_grad():
            return backbone.forward(*pad(ids, backbone.pad_id), [backbone.primary])[:, 0]

    for epoch in range(EPOCHS):
        order = random.Random(epoch).sample(rows, len(rows))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            logits = head(features([inputs.ids(backbone, text) for text, _ in batch]))
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor([y for _, y in batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    rng = random.Random(0)
    word = parse_trigger(backbone, trigger.text)
    for start in range(0, len(test), BATCH):
        texts = [text for text, _ in test[start : start + BATCH]]
        head(features([inputs.ids(backbone, text) for text in texts]))
        head(features([inputs.place(backbone, text, word, "replace-first", rng) for text in texts]))
    return time.monotonic() - started, encoded


if __name__ == "__main__":
    main()
