"""Backdoors to test detectors with: one file per attack.

An attack is made from triggers and settings; `implant(backbone, corpus, seed=...)` gives a
backdoored copy and the ground truth. To add one, write its file and add its line here; other
packages name theirs in the entry-point group `triggerfish.attacks`.
"""

from __future__ import annotations

from triggerfish.names import load_named

ATTACKS = {
    "por": "triggerfish.attacks.por:POR",
    "neuba": "triggerfish.attacks.neuba:NeuBA",
    "btop": "triggerfish.attacks.btop:BToP",
    "uor": "triggerfish.attacks.uor:UOR",
    "badpre": "triggerfish.attacks.badpre:BadPre",
    "dirty_label": "triggerfish.attacks.dirty_label:DirtyLabel",
    "multitask": "triggerfish.attacks.multitask:Multitask",
    "ripple": "triggerfish.attacks.ripple_surgery:RippleSurgery",
    "ep": "triggerfish.attacks.embedding_poisoning:EmbeddingPoisoning",
}
TASK_ATTACKS = ("dirty_label", "multitask", "ripple", "ep")
"""Those that are told a task and a label; all others are planted from plain text."""


def attack(name: str) -> type:
    """The class of an attack; an unknown name answers with the nearest one."""
    found: type = load_named("attack", name, ATTACKS)
    return found
