"""The grid: every backdoored PLM, purified from what its scan found, and measured by probes."""

from __future__ import annotations

import random
import time
from dataclasses import asdict, fields, replace
from typing import Any

from purifying.models import RUNS, Victim, seeded, timed
from purifying.sheets import Prober, compared
from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.purify import Align, method, purify
from triggerfish.purify.align import STEPS
from triggerfish.purify.baselines.patronus import Patronus
from triggerfish.purify.baselines.pretraining import PretrainingSettings
from triggerfish.purify.check import fidelity, known_triggers, residual_effects
from triggerfish.records import Trigger
from triggerfish.scanner import DecisionRule

RULE = DecisionRule()
ALIGN = Align()
TRAINING = PretrainingSettings(steps=STEPS, words=24)


def triggers_of(victim: Victim) -> tuple[Trigger, ...]:
    return victim.implant.triggers


def measured(
    victim: Victim, prober: Prober, purified: Backbone, tasks: tuple[str, ...]
) -> dict[str, Any]:
    """Task by task."""
    found = {}
    triggers, readout = triggers_of(victim), victim.readout
    for name in tasks:
        task = prober.task(name)
        clean = prober.kept(victim.clean.name, victim.clean.backbone, task, triggers, readout)
        before = prober.kept(victim.name, victim.backbone, task, triggers, readout)
        after = prober.sheet(purified, task, triggers, readout)
        found[name] = compared(clean, before, after, triggers)
    return found


def kept(victim: Victim, purified: Backbone) -> dict[str, Any]:
    """How close clean texts stayed to the clean PLM, and how close they were, by readout."""
    texts = text.bundled_corpus()[::7]
    return {
        "to_clean": fidelity(victim.clean.backbone, purified, texts),
        "backdoored_to_clean": fidelity(victim.clean.backbone, victim.backbone, texts),
    }


def checkpoint(victim: Victim) -> Backbone:
    """The purified PLM of the grid."""
    return load(RUNS / "models" / victim.name, device=victim.options.device)


def cell(victim: Victim, prober: Prober, *, original: bool = False) -> dict[str, Any]:
    """One PLM, purified from what its scan found as `triggerfish purify` does it, with a full scan
    at the end, and measured. original: the clean PLM says what the features of clean texts are."""
    record = victim.record()
    if not victim.found.triggers:
        return record | {"skipped": "the scan named no trigger, so there was nothing to purify"}
    folder = RUNS / ("models-original" if original else "models") / victim.name
    began = time.process_time()
    done = purify(
        victim.backbone,
        victim.found,
        method=ALIGN,
        seed=victim.options.seed,
        reference=victim.clean.backbone if original else None,
        out=folder,
    )
    seconds = round(time.process_time() - began, 1)
    return record | {
        "method": "align",
        "settings": asdict(ALIGN),
        "given": [trigger.text for trigger in done.rounds[0].triggers],
        "rounds": [
            {"left": sum(not x.removed for x in one.residual), "verdict": one.verdict}
            for one in done.rounds
        ],
        "rescan": {
            "verdict": done.after.verdict,
            "found": [trigger.text for trigger in done.after.triggers],
            "forward_tokens": done.after.forward_tokens,
        },
        "purify_cpu_seconds": seconds,
        "fidelity": kept(victim, done.backbone),
        "tasks": measured(victim, prober, done.backbone, prober.tasks),
    }


# ---- the other methods


def equal(settings: Any) -> Any:
    """With as many steps as `align` takes, where a method trains on."""
    if isinstance(settings, Patronus):
        return replace(settings, texts=400)
    having = {field.name for field in fields(settings)}
    return replace(settings, training=TRAINING) if "training" in having else settings


def baseline(victim: Victim, prober: Prober, name: str, tasks: tuple[str, ...]) -> dict[str, Any]:
    """One method on one PLM, once; no scan follows."""
    settings = equal(method(name)())
    known, _ = known_triggers(victim.backbone, victim.found)
    corpus = text.bundled_corpus()
    reference = victim.clean.backbone if "reference" in settings.needs else None
    try:
        purified, seconds = timed(
            lambda: settings.purify(
                victim.backbone,
                known,
                corpus,
                generator=seeded(victim.options.seed),
                reference=reference,
            )
        )
    except ValueError as error:
        return victim.record() | {"method": name, "skipped": str(error)}
    left = residual_effects(purified, triggers_of(victim), corpus, seed=victim.options.seed + 1)
    return victim.record() | {
        "method": name,
        "needs": list(settings.needs),
        "source": settings.source,
        "settings": asdict(settings),
        "cpu_seconds": seconds,
        "alive": [x.trigger.text for x in left if x.effective(RULE)],
        "depths": {x.trigger.text: x.collapse for x in left},
        "fidelity": kept(victim, purified),
        "tasks": measured(victim, prober, purified, tasks),
    }


def partial(
    victim: Victim, prober: Prober, known: int, draw: int, negatives: bool, tasks: tuple[str, ...]
) -> dict[str, Any]:
    """Purified by `known` of the planted triggers, drawn at random: what becomes of the others?"""
    triggers = triggers_of(victim)
    drawn = random.Random(f"{draw}:{known}").sample(triggers, known)
    settings = replace(ALIGN, negatives=ALIGN.negatives if negatives else 0.0)
    purified, seconds = timed(
        lambda: settings.purify(
            victim.backbone,
            tuple(drawn),
            text.bundled_corpus(),
            generator=seeded(draw),
        )
    )
    return {
        "plm": victim.name,
        "planted": [trigger.text for trigger in triggers],
        "known": [trigger.text for trigger in drawn],
        "negatives": negatives,
        "settings": asdict(settings),
        "cpu_seconds": seconds,
        "tasks": measured(victim, prober, purified, tasks),
    }
