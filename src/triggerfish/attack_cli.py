"""What the commands `attack` and `demo` share: plant a backdoor, try it, write it, and say what it
does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from triggerfish.terminal import Meter, chatter

if TYPE_CHECKING:
    from triggerfish.attacks.implant import Implant, Success
    from triggerfish.attacks.plan import Plan
    from triggerfish.backbone import Backbone

MARKS = ("attack.json",)
"""Of a folder that this command wrote: as `attacks.implant.FILE`."""
LONG = 20
"""Words of a text that a trigger is tried in, at least: as many as a scan cuts its texts to."""


def implant(
    plan: Plan, model: str, out: Path, corpus: Path | None, seed: int, device: str, precision: str
) -> None:
    """Plant, measure, write to `out`, and print what the triggers do."""
    from triggerfish import text
    from triggerfish.attacks.implant import save
    from triggerfish.loading import load
    from triggerfish.records import Provenance

    began = time.monotonic()
    texts = text.read_corpus(corpus) if corpus else text.bundled_corpus()
    plant = plan.prepare(texts)
    with Meter() as meter:
        backbone = load(model, device=device, precision=precision)
        victim, planted = plant(
            backbone, seed, lambda step, steps, loss: meter.steps("planting", step, steps)
        )
        meter.show("trying the triggers in held-out texts", None)
        success = measured(victim, planted, seed)
    made = Provenance.of(time.monotonic() - began)
    save(victim, replace(planted, success=success, provenance=made), out)
    for line in lines(planted, success):
        chatter.print(line, markup=False, soft_wrap=True)
    chatter.print(f"backdoored checkpoint: {out} (ground truth in attack.json)", markup=False)


def measured(victim: Backbone, planted: Implant, seed: int) -> tuple[Success, ...] | None:
    """What each trigger does to test texts of the bundled tasks, which no attack on representations
    trains on; None for an attack that does not aim at representations."""
    from triggerfish.attacks.implant import Success
    from triggerfish.purify.check import SCAN, residual_effects
    from triggerfish.scanner import DecisionRule
    from triggerfish.text import bundled_folders, bundled_task

    if planted.goals or not planted.vectors:
        return None
    rows = [text for name in bundled_folders() for text, _ in bundled_task(name).test]
    texts = [text for text in rows if len(text.split()) >= LONG]
    found = residual_effects(victim, planted.triggers, texts, seed=seed)
    return tuple(
        Success(
            trigger=one.trigger.text,
            verdict="works"
            if one.effective(DecisionRule())
            else "fails"
            if one.removed
            else "weak",
            readout=one.readout,
            collapse=one.collapse,
            agreement=one.agreement,
            texts=SCAN.holdout_texts,
        )
        for one in found
    )


def lines(planted: Implant, success: Sequence[Success] | None) -> list[str]:
    """What the triggers do, or that it was not measured, for the terminal."""
    from triggerfish.report.escape import visible

    if success is None:
        where = "a classifier for its task" if planted.goals else "the model's predictions"
        return [f"success not measured: {planted.attack} shows in {where}"]
    found = []
    for one in success:
        closer = f"{one.collapse:.2f} orders of magnitude" if one.collapse > 0 else "not"
        found.append(
            f"'{visible(one.trigger)}' {one.verdict}: with it, {one.texts} held-out texts lie "
            f"{closer} closer together, and {one.agreement:.0%} of random linear probes give them "
            "one answer"
        )
    return found
