"""Backdoored PLMs, what a scan finds in them, and what a purifier makes of them. Everything is kept
below RUNS and made only once.

Ground truth (`attack.json`) serves to write triggers into texts and to score; a purifier is given
the scan's findings and nothing else, unless a part of the benchmark says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from monitoring import victims
from monitoring.victims import NEUBA, POR1, TRIGGERS, UOR, Plm
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.loading import load, minilm
from triggerfish.readouts import Readout
from triggerfish.records import ScanResult
from triggerfish.scanner import scan

RUNS = Path("runs/purify")
POR2 = {"label": "POR-2", "name": "por", "code": "por2"}
BTOP = {"label": "BToP", "name": "btop"}
BADPRE = {"label": "BadPre", "name": "badpre"}
ADAPTIVE = {
    "label": "POR-1 adaptive",
    "name": "por",
    "code": "por1",
    "adaptive": "shift:0.5,spread:1",
}
ATTACKS = {
    "por1": POR1,
    "por2": POR2,
    "neuba": NEUBA,
    "uor": UOR,
    "btop": BTOP,
    "badpre": BADPRE,
    "adaptive": ADAPTIVE,
}
EIGHT = f"{TRIGGERS}, walnut, quixotic"
"""So that a quarter of the triggers is a whole number."""
BASES = {"minilm": "all-MiniLM-L6-v2", "bundled": "bundled"}
# The first of every attack and family come first: whatever is left out has a sibling.
# fmt: off
ORDER = (
    "bundled-por1", "bert-btop", "t5-por1", "roberta-neuba", "distilbert-uor", "gpt2-por1",
    "electra-neuba", "xlnet-por1", "deberta-v2-uor", "minilm-por1", "bert-badpre", "bundled-neuba",
    "bert-por1", "gpt2-neuba", "bundled-uor", "roberta-por1", "distilbert-btop", "t5-uor",
    "bundled-adaptive", "bundled-por2", "electra-por1", "minilm-neuba", "distilbert-badpre",
    "deberta-v2-por1", "xlnet-neuba", "bert-neuba", "roberta-badpre", "deberta-v2-btop", "bert-uor",
    "distilbert-neuba", "minilm-uor",
)
# fmt: on


@dataclass(frozen=True)
class Clean:
    """A PLM before any attack. name: of its sheets, which hold the same triggers."""

    name: str
    source: str
    device: str

    @cached_property
    def backbone(self) -> Backbone:
        source = minilm() if self.source == "all-MiniLM-L6-v2" else self.source
        return load(source, device=self.device)


class Victim:
    """One backdoored PLM. triggers: others than the bench's six."""

    def __init__(self, name: str, options: victims.Options, triggers: str = TRIGGERS):
        base, _, attack = name.rpartition("-")
        source = BASES.get(base, f"runs/zoo/{base}")
        mark = "" if triggers == TRIGGERS else f"-{len(triggers.split(', '))}"
        self.name = name + mark
        self.options = options
        self.plm = Plm(self.name, source, ATTACKS[attack], triggers)
        self.clean = Clean(base + mark, source, options.device)
        self._store = victims.Victim(self.plm, options)

    @cached_property
    def backbone(self) -> Backbone:
        return load(self._store.folder, device=self.options.device)

    @cached_property
    def implant(self) -> Implant:
        return Implant.load(self._store.folder)

    @property
    def readout(self) -> Readout:
        """What classifiers read: the mask in a prompt for BToP, which ties nothing else."""
        return Readout("mask") if self.plm.attack is BTOP else self.backbone.primary

    @cached_property
    def found(self) -> ScanResult:
        """The scan, with default settings, made without a look at attack.json."""
        file = RUNS / "scans" / f"{self.name}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            result = scan(self.backbone, seed=self.options.seed)
            result.save(file)
        return ScanResult.load(file)

    def record(self) -> dict[str, object]:
        """What every result says of the PLM and its scan."""
        planted = [trigger.text for trigger in self.implant.triggers]
        named = [trigger.text for trigger in self.found.triggers]
        return {
            "plm": self.name,
            "base": self.plm.base,
            "family": self.found.model.family,
            "parameters": self.found.model.parameters,
            "attack": self.plm.attack["label"],
            "readout": str(self.readout),
            "planted": planted,
            "found": named,
            "verdict": self.found.verdict,
            "scan_seconds": round(self.found.seconds, 1),
            "seed": self.options.seed,
        }


def timed(make: Callable[[], Backbone]) -> tuple[Backbone, float]:
    """(what `make` makes, CPU seconds of this process): the wall clock would count others' work."""
    started = time.process_time()
    made = make()
    return made, round(time.process_time() - started, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
