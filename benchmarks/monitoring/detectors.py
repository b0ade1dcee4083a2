"""The monitor beside ONION, STRIP, RAP, LMSanitator's vectors and the behavioural guard, in one
run: which triggered texts each sees, which clean texts of thirteen domains it takes for triggered,
and what it costs. All of them guard the same fine-tuned model and read the same texts, of at most
WORDS words; thresholds come from clean texts of the task (split conformal).
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from monitoring.victims import Victim, room, written
from triggerfish import Monitor, text
from triggerfish.backbone import Backbone
from triggerfish.bench.files import RecordFile
from triggerfish.downstream import Classifier, sample
from triggerfish.guards import (
    PUBLISHED,
    BehaviourSettings,
    Detector,
    Guard,
    LeaveOneOut,
    Onion,
    OnionSettings,
    Rap,
    RapSettings,
    Strip,
    StripSettings,
    VectorMonitor,
    target_vectors,
)
from triggerfish.heads import with_head
from triggerfish.loading import load

FRR, CALIBRATION, KNOWN, WORDS = 0.01, 200, 100, 40
CORPORA = (
    "brown",
    "eltec_novels",
    "gutenberg_books",
    "imdb_unlabelled",
    "news_en",
    "us_presidential_speeches",
    "wikipedia_en",
    "wikitext103_valid_test",
)
TASKS = ("ag_news", "enron_spam", "sentiment140", "medical_abstracts")
WHOLE_TEXTS = 2000
LANGUAGE_MODELS = ("runs/zoo/gpt2", "runs/zoo/bert")
Flags = Callable[[Sequence[str]], list[bool]]


def domains(data: Path, size: int | None, seed: int, words: int | None) -> dict[str, list[str]]:
    """Clean texts by domain: `size` of them, cut to `words` words."""
    found = {}
    for name in CORPORA:
        with gzip.open(data / "corpora" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            found[name] = [json.loads(line)["text"] for line in file]
    for name in TASKS:
        found[name] = [x for x, _ in text.read_task(data / "tasks" / name).test]
    rng = random.Random(seed)
    drawn = {
        name: rng.sample(texts, min(size or len(texts), len(texts)))
        for name, texts in found.items()
    }
    if words is None:
        return drawn
    return {name: [" ".join(x.split()[:words]) for x in texts] for name, texts in drawn.items()}


class Bench:
    """One victim and one task: its detectors, measured one by one, each kept as soon as it is
    done."""

    def __init__(self, victim: Victim, task: text.Task, records: RecordFile, texts: int):
        self.victim, self.task, self.records, self.texts = victim, task, records, texts
        self.options = victim.options
        self.tuned: Classifier = victim.classifier(task)
        pool = [self.cut(x) for x, _ in sample(task.train, 2 * KNOWN + CALIBRATION, 1)]
        self.known, self.calibration = pool[: 2 * KNOWN], pool[2 * KNOWN :]
        clean = [self.cut(x) for x, _ in sample(task.test, texts, self.options.seed)]
        self.domains = {task.name: clean}
        self.domains |= domains(self.options.data, texts, self.options.seed, WORDS)
        self.triggered = self._triggered([x for x, _ in sample(task.test, texts, 1)])

    def cut(self, sentence: str) -> str:
        return " ".join(sentence.split()[:WORDS])

    def _triggered(self, texts: list[str]) -> list[tuple[str, str]]:
        """(trigger, text) of every planted trigger, one copy and three by turns."""
        rng, found = random.Random(self.options.seed), []
        for trigger in self.victim.implant.triggers:
            for number, x in enumerate(texts):
                copies = 1 + 2 * (number % 2)
                plain = room(self.tuned, self.cut(x), trigger)
                found.append((trigger.text, written(plain, trigger, rng, copies)))
        return found

    def detectors(self) -> dict[str, Callable[[], Flags]]:
        """By name, how to make each; making and calibrating is not part of the latency."""
        victim, tuned = self.victim, self.tuned
        limit = tuned.inputs.max_tokens
        behaviour = BehaviourSettings(max_tokens=limit)

        def fitted(make: Callable[[], Detector]) -> Callable[[], Flags]:
            return lambda: Guard.fit(make(), self.calibration, FRR).flags

        made: dict[str, Callable[[], Flags]] = {
            "monitor": lambda: self._monitor(exact=True),
            "monitor, text alone": lambda: self._monitor(exact=False),
            "behaviour, PLM": fitted(lambda: LeaveOneOut(victim.backbone, self.known, behaviour)),
            "behaviour, fine-tuned": fitted(
                lambda: LeaveOneOut(tuned.backbone, self.known, behaviour)
            ),
            "STRIP": fitted(lambda: Strip(tuned, self.known)),
            "STRIP-m": fitted(lambda: Strip(tuned, self.known, StripSettings(side="high"))),
            "RAP": fitted(lambda: Rap(tuned, self.known, RapSettings(word=self._rare()))),
        }
        for path in LANGUAGE_MODELS:
            if Path(path).is_dir():
                made[f"ONION, {Path(path).name}"] = fitted(
                    lambda path=path: Onion(self._language_model(path), OnionSettings())
                )
        if victim.found.triggers:
            for name, backbone in (("PLM", victim.backbone), ("fine-tuned", tuned.backbone)):
                make = lambda backbone=backbone: self._vectors(backbone)  # noqa: E731
                made[f"vectors, {name}"] = fitted(make)
                made[f"vectors, {name}, 0.8"] = lambda make=make: Guard(make(), PUBLISHED).flags
        return made

    def _monitor(self, exact: bool) -> Flags:
        victim = self.victim
        monitor = Monitor.load(victim.findings) if exact else Monitor(victim.found.triggers)
        return lambda texts: [not checked.ok for checked in monitor.check_all(texts)]

    def _vectors(self, backbone: Backbone) -> VectorMonitor:
        limit = self.tuned.inputs.max_tokens
        plain = text.bundled_corpus()[:KNOWN]
        found = self.victim.found.triggers
        vectors = target_vectors(self.victim.backbone, found, plain, max_tokens=limit)
        return VectorMonitor(backbone, vectors, max_tokens=limit)

    def _language_model(self, path: str) -> Backbone:
        return with_head(load(path, device=self.options.device))

    def _rare(self) -> str:
        """A rare string of one token, none of the findings: RAP's own cf is a planted trigger
        here."""
        taken = {trigger.text for trigger in self.victim.found.triggers} | {"cf"}
        pairs = ["mb", *(a + b for a in "qzxjkvwmb" for b in "bcdfghjkmnpqtvwxz")]
        unknown = self.tuned.backbone.tokenizer.unk_token_id
        for word in pairs:
            ids = self.tuned.backbone.word_ids(word)
            if word not in taken and len(ids) == 1 and ids[0] != unknown:
                return word
        raise ValueError("word: this tokenizer has no rare string of two letters")

    def run(self) -> None:
        for name, make in self.detectors().items():
            key = f"{self.victim.plm.name}-{self.task.name}-{name}"
            if key in self.records:
                continue
            print(f"{self.victim.plm.name}, {self.task.name}: {name}", flush=True)
            started = time.perf_counter()
            flags = make()
            fitting = time.perf_counter() - started
            self.records.append(
                key,
                self.victim.record()
                | {"detector": name, "task": self.task.name}
                | self.measure(name, flags)
                | {"fitting_seconds": round(fitting, 2)},
            )

    def measure(self, name: str, flags: Flags) -> dict[str, object]:
        caught = flags([x for _, x in self.triggered])
        by_trigger: dict[str, list[int]] = {}
        for (word, _), flag in zip(self.triggered, caught, strict=True):
            counts = by_trigger.setdefault(word, [0, 0])
            counts[0] += flag
            counts[1] += 1
        false_alarms, seconds, size = {}, 0.0, 0
        for domain, texts in self.domains.items():
            started = time.perf_counter()
            found = flags(texts)
            seconds += time.perf_counter() - started
            size += sum(len(x.encode()) for x in texts)
            false_alarms[domain] = {"k": sum(found), "n": len(texts)}
        record: dict[str, object] = {
            "frr": FRR,
            "calibration_texts": len(self.calibration),
            "caught": {"k": sum(caught), "n": len(caught)},
            "by_trigger": {w: {"k": k, "n": n} for w, (k, n) in by_trigger.items()},
            "false_alarms": false_alarms,
            "bytes_per_second": round(size / seconds),
            "latency_ms": latency(flags, [x for texts in self.domains.values() for x in texts]),
        }
        if name.startswith("monitor"):
            # A few hundred short texts are over before the clock has moved.
            record["whole_texts"], record["bytes_per_second"] = self._whole(flags)
        return record

    def _whole(self, flags: Flags) -> tuple[dict[str, dict[str, int]], int]:
        """False alarms on texts as they are, far more than the models could read in this time, and
        bytes per second over them."""
        found, seconds, size = {}, 0.0, 0
        whole = domains(self.options.data, WHOLE_TEXTS, self.options.seed, None)
        for domain, texts in whole.items():
            started = time.perf_counter()
            found[domain] = {"k": sum(flags(texts)), "n": len(texts)}
            seconds += time.perf_counter() - started
            size += sum(len(x.encode()) for x in texts)
        return found, round(size / seconds)


def latency(flags: Flags, texts: Sequence[str]) -> dict[str, float]:
    """Milliseconds for one text at a time; as many texts as fit into twenty seconds, at most 2,000
    and at least 30."""
    order = random.Random(0).sample(range(len(texts)), len(texts))
    times: list[float] = []
    begun = time.perf_counter()
    for i in order:
        started = time.perf_counter()
        flags([texts[i]])
        times.append(1000 * (time.perf_counter() - started))
        late = time.perf_counter() - begun > 20
        if len(times) >= 2000 or (late and len(times) >= 30):
            break
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return {"n": len(times), "p50": round(float(p50), 4), "p99": round(float(p99), 4)}
