"""The models: made once, kept below a folder. Ground truth serves to score, after a scan."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

from detecting.plan import BATCH, Model
from triggerfish import text
from triggerfish.attacks import attack
from triggerfish.attacks.implant import Implant, save
from triggerfish.backbone import Backbone
from triggerfish.downstream import FineTuneSettings, ProbeSettings, fine_tune, probe
from triggerfish.groundtruth import GroundTruth, MeasureSettings, functional, measure
from triggerfish.loading import load, minilm
from triggerfish.readouts import Readout
from triggerfish.settings import build

WITNESSES = ("news_pop", "subj")
"""Tasks that say whether a trigger works: probes on frozen features."""
PROBE = ProbeSettings(rows=600, max_tokens=48)
EFFECT = MeasureSettings(test_rows=150)


def base(name: str, zoo: Path) -> Backbone:
    """The PLM before any attack."""
    if name == "all-MiniLM-L6-v2":
        return load(minilm())
    return load("bundled") if name == "bundled" else load(zoo / name)


def made(model: Model, zoo: Path, kept: Path) -> tuple[Backbone, float]:
    """The model, and the seconds that making it took, 0 if it was there."""
    folder = kept / model.name
    if model.kind == "clean" and not model.task:
        return base(model.base, zoo), 0.0
    started = time.monotonic()
    if not (folder / "config.json").is_file():
        original = base(model.base, zoo)
        if model.kind == "clean":
            _sibling(original, model).save(folder)
        else:
            victim, implant = _attack(model, original)
            save(victim, implant, folder)
        return load(folder), round(time.monotonic() - started, 1)
    return load(folder), 0.0


def _attack(model: Model, original: Backbone) -> tuple[Backbone, Implant]:
    name, code = ("por", model.attack) if model.attack.startswith("por") else (model.attack, "")
    settings = {"steps": model.steps, "batch": BATCH} | ({"code": code} if code else {})
    method = attack(name)
    defaults = method(()).settings
    planted = method(model.triggers(original), build(defaults, settings))
    return planted.implant(original, text.bundled_corpus(), seed=model.seed)


def _sibling(original: Backbone, model: Model) -> Backbone:
    task = text.bundled_task(model.task)
    rows = random.Random(model.name).sample(task.train, min(1200, len(task.train)))
    rate = 5e-5 if model.base == "all-MiniLM-L6-v2" else 5e-4
    settings = FineTuneSettings(epochs=2, rows=None, learning_rate=rate)
    return fine_tune(original, replace(task, train=rows), settings, seed=model.seed).backbone


def effects(clean: Backbone, victim: Backbone, implant: Implant) -> list[GroundTruth]:
    """What the planted triggers do to each of two tasks, by probes."""
    readout = Readout.parse(implant.readout) if implant.readout else clean.primary
    found = []
    for name in WITNESSES:
        task = text.bundled_task(name)
        pair = [probe(plm, task, PROBE, readout=readout, seed=1) for plm in (clean, victim)]
        found.append(measure(*pair, task, implant.triggers, EFFECT, seed=1))
    return found


def working(model: Model, backbone: Backbone, zoo: Path, implant: Implant) -> dict[str, bool]:
    """Which planted triggers work on at least one of two tasks."""
    cells = effects(base(model.base, zoo), backbone, implant)
    found = functional(cells)
    if model.attack == "badpre":  # made to spoil, not to steer
        for cell in cells:
            for effect in cell.effects:
                found[effect.trigger.text] |= effect.untargeted
    return found
