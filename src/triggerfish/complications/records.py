"""What a measurement of complications leaves behind: one record for each task and trigger, a
profile of each trigger, and everything needed to judge them. Plain JSON both ways (`to_json`,
`from_json`); no number in it is infinite."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from triggerfish.records import (
    NUMBERS,
    Measurement,
    ModelFacts,
    Provenance,
    ScanResult,
    Trigger,
    parse,
    read_json,
)
from triggerfish.writing import write_text

SCHEMA: Literal[1] = 1
RULE = "complications-1"
"""Version of the decision rule, see `verdict`."""

Conclusion = Literal["backdoor-like", "inconclusive", "no evidence"]
EXIT_CODES: dict[Conclusion, int] = {"no evidence": 0, "backdoor-like": 1, "inconclusive": 3}
Interval = tuple[float, float]


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: is the shift below `margin`? tv, excess: upper 90 % bounds."""

    margin: float
    tv: float
    excess: float
    passed: bool


@dataclass(frozen=True)
class TaskFacts:
    """A task as it was measured. accuracy: of the clean head on the test texts that were used;
    majority: share of their largest class; refused: why this task is excluded from verdicts, empty
    if it is not. ordinary: texts that change class with a made-up word in them."""

    name: str
    labels: tuple[str, ...]
    train: int
    texts: int
    accuracy: Measurement
    majority: float
    refused: tuple[str, ...] = ()
    reference_accuracy: Measurement | None = None
    ordinary: Measurement | None = None


@dataclass(frozen=True)
class Complication:
    """What one trigger does to one task, at the first placement policy.

    clean, triggered: smoothed class shares Q and P. kl_tc: KL(P || Q) in nats, the published score;
    kl_ct: KL(Q || P), of the released code; infinite: which of them the plug-in estimate makes
    infinite. jsd in bits; floor: its mean under the paired permutation null; corrected: jsd -
    floor. excess: max(P - Q); dominant: number of the class with the largest P. csr: largest share
    of texts of other classes that goes to one class. asr: for every label, the share of texts of
    another true label that are predicted so: the attack success rate for whoever chose that one.
    soft: mean JSD of the class probabilities; displacement: mean distance of the logits.
    p_marginal: Stuart-Maxwell, exact McNemar for two classes; p_symmetry: Bowker, which also sees
    exchanges between classes that leave the shares alone; p_permutation: paired permutation of
    the JSD; p_control: rank among control words; p_family: the same, corrected over all tasks
    (max-T); q: Benjamini-Hochberg of p_control over tasks and triggers. controls: words looked at
    for p_control. delta: jsd minus the reference's, with its interval. mde: smallest total
    variation that could be detected here."""

    task: str
    trigger: str
    n: int
    clean: tuple[float, ...]
    triggered: tuple[float, ...]
    kl_tc: float
    kl_ct: float
    infinite: tuple[Literal["kl_tc", "kl_ct"], ...]
    jsd: float
    floor: float
    corrected: float
    tv: float
    tv_interval: Interval
    hellinger: float
    excess: float
    dominant: int
    collapse: float
    entropy_ratio: float
    flip_rate: float
    csr: Measurement
    accuracy: Measurement
    drop: float
    asr: tuple[float, ...]
    soft: float
    displacement: float
    p_marginal: float
    p_permutation: float
    p_control: float | None
    p_family: float | None
    q: float | None
    holm: float | None
    controls: int
    equivalence: Equivalence
    mde: float
    stability: float
    p_symmetry: float | None = None
    asr_reference: tuple[float, ...] | None = None
    delta: float | None = None
    delta_interval: Interval | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """One trigger over all tasks that count. breadth: share of tasks with a significant shift
    (p_family); depth: median excess share; median_tv; peak: largest collapse; stability: mean share
    of heads and placements that agree on the winning class; index: mean corrected JSD. p: of the
    largest shift over all tasks among the same of each control word. combined: Cauchy combination
    of p_permutation over the tasks, which says that there is a shift, not that it is unusual."""

    trigger: Trigger
    breadth: float
    depth: float
    median_tv: float
    peak: float
    stability: float
    index: float
    p: float | None
    reading: Conclusion
    reasons: tuple[str, ...]
    rule: str = RULE
    combined: float | None = None


@dataclass(frozen=True)
class ControlWord:
    """A word that triggers were compared with. kind: matched in frequency and length, or nonsense.
    texts: how many of them it was measured on, over all tasks; exact: on how many tasks it was
    measured to the end, and not ruled out before."""

    text: str
    kind: Literal["matched", "nonsense"]
    texts: int
    exact: int


@dataclass(frozen=True)
class Complications:
    """A finished measurement: `reading` (the conclusion) is the most severe of its profiles."""

    model: ModelFacts
    reference: ModelFacts | None
    reading: Conclusion
    tasks: tuple[TaskFacts, ...]
    profiles: tuple[Profile, ...]
    complications: tuple[Complication, ...]
    controls: tuple[ControlWord, ...]
    settings: dict[str, Any]
    environment: dict[str, str]
    seed: int
    seconds: float
    texts_encoded: int
    provenance: Provenance
    limitations: tuple[str, ...] = ()
    schema: Literal[1] = SCHEMA
    __pydantic_config__ = NUMBERS

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.reading]

    def of(self, task: str, trigger: str) -> Complication:
        """The record of one task and one trigger's text; ValueError if there is none."""
        for item in self.complications:
            if (item.task, item.trigger) == (task, trigger):
                return item
        raise ValueError(f"complications: none of task {task!r} and trigger {trigger!r}")

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self, indent=1).decode("utf-8")

    def save(self, path: str | Path) -> None:
        write_text(Path(path), self.to_json() + "\n")

    @classmethod
    def from_json(cls, text: str) -> Complications:
        """Read what `to_json` wrote; ValueError names the field that is wrong in anything else."""
        read = parse(_ADAPTER, text, f"complications: not a record of schema {SCHEMA}")
        if not isinstance(read.settings.get("alpha"), int | float):
            raise ValueError("complications: settings.alpha: expected a number")
        return read

    @classmethod
    def of_scan(cls, result: ScanResult) -> Complications | None:
        """What `scan --profile` measured; None if it was not asked for."""
        return None if result.profile is None else cls.from_json(json.dumps(result.profile))

    @classmethod
    def load(cls, path: str | Path) -> Complications:
        return cls.from_json(read_json(path, "complications"))


_ADAPTER = TypeAdapter(Complications)
