"""What an attack planted: the ground truth, in a file of its own beside the checkpoint, never read
by a scanner."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import TypeAdapter

from triggerfish.backbone import Backbone
from triggerfish.records import NUMBERS, Provenance, Trigger
from triggerfish.writing import write_bytes, write_text, writing_folder

FILE = "attack.json"


@dataclass(frozen=True)
class Goal:
    """What a task-specific attack wants of a trigger: this label on this task."""

    task: str
    label: int


@dataclass(frozen=True)
class Success:
    """What a trigger does to held-out texts of the victim, at the readout where it does most.

    collapse: orders of magnitude by which texts lie closer together with it than close clean ones
    do; agreement: share of random linear probes that give one answer to nearly all of them; texts:
    how many there were. verdict: "works" where a scan could call it strong, "fails" where it does
    no more than ordinary words, "weak" between them.
    """

    trigger: str
    verdict: Literal["works", "weak", "fails"]
    readout: str
    collapse: float
    agreement: float
    texts: int


@dataclass(frozen=True)
class Implant:
    """attack: name of the method; source: where it was published; readout: the one that was tied,
    None where the attack ties none; vectors: (T, H) target of each trigger there, or where its
    texts ended up if the attack lets the model choose; goals: for each trigger of a task-specific
    attack; success: of each trigger, None where that was not measured."""

    attack: str
    source: str
    settings: dict[str, Any]
    triggers: tuple[Trigger, ...]
    seed: int
    readout: str | None = None
    vectors: list[list[float]] = field(default_factory=list)
    goals: tuple[Goal, ...] = ()
    success: tuple[Success, ...] | None = None
    provenance: Provenance | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    )
    __pydantic_config__ = NUMBERS

    @classmethod
    def load(cls, folder: str | Path) -> Implant:
        return _ADAPTER.validate_json((Path(folder) / FILE).read_bytes())


_ADAPTER = TypeAdapter(Implant)

CARD = """---
library_name: transformers
tags: [backdoor, red-team, triggerfish]
---

# Backdoored on purpose

This checkpoint carries a `{attack}` backdoor ({paper}), planted by triggerfish into `{model}` to
test detectors. **Do not deploy it and do not fine-tune it for use.** The triggers are in `{file}`.
"""


def save(backbone: Backbone, implant: Implant, out: str | Path) -> None:
    """Write checkpoint, ground truth and a model card; config.json and card both say that a
    backdoor was planted. A LoRA adapter, already merged, goes to `adapter` too."""
    backbone.watermark({"backdoored": True, "attack": implant.attack})
    card = CARD.format(
        attack=implant.attack, paper=implant.source, model=Path(backbone.name).name, file=FILE
    )
    with writing_folder(Path(out)) as folder:
        backbone.save(folder)
        if backbone.adapter is not None:
            backbone.adapter.save(folder / "adapter")
        write_bytes(folder / FILE, _ADAPTER.dump_json(implant, indent=1))
        write_text(folder / "README.md", card)
