"""What an attack planted: the ground truth, in a file of its own beside the checkpoint, never read
by a scanner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from triggerfish.backbone import Backbone
from triggerfish.records import Trigger

FILE = "attack.json"


@dataclass(frozen=True)
class Implant:
    """attack: name of the method; vectors: (T, H) target of each trigger at `readout`."""

    attack: str
    settings: dict[str, Any]
    triggers: tuple[Trigger, ...]
    readout: str
    vectors: list[list[float]]
    seed: int

    @classmethod
    def load(cls, folder: str | Path) -> Implant:
        return _ADAPTER.validate_json((Path(folder) / FILE).read_bytes())


_ADAPTER = TypeAdapter(Implant)

CARD = """---
library_name: transformers
tags: [backdoor, red-team, triggerfish]
---

# Backdoored on purpose

This checkpoint carries a `{attack}` backdoor, planted by triggerfish into `{source}` to test
detectors. **Do not deploy it and do not fine-tune it for use.** The triggers are in `{file}`.
"""


def save(backbone: Backbone, implant: Implant, out: str | Path) -> None:
    """Write checkpoint, ground truth and a model card; config.json and card both say that a
    backdoor was planted."""
    backbone.model.config.triggerfish = {"backdoored": True, "attack": implant.attack}
    backbone.save(out)
    (Path(out) / FILE).write_bytes(_ADAPTER.dump_json(implant, indent=1))
    card = CARD.format(attack=implant.attack, source=Path(backbone.name).name, file=FILE)
    (Path(out) / "README.md").write_text(card, encoding="utf-8")
