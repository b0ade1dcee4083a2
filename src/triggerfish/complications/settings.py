"""What a measurement of complications depends on besides model, tasks and triggers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from triggerfish.downstream import FineTuneSettings, ProbeSettings
from triggerfish.marking import PLACEMENTS, Placement
from triggerfish.settings import check

Mode = Literal["probe", "full", "lora"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class ComplicationSettings:
    mode: Mode = "probe"
    """How a user adapts the model: a linear head on frozen features (worst case, and the published
    pipeline), full fine-tuning, or a LoRA adapter."""
    policies: tuple[Placement, ...] = ("replace-first", "insert-first", "insert-random")
    """Where the trigger goes; all figures are of the first one (the published one), the others
    count for stability."""
    heads: int = 3
    """Heads for each task: the first on all training rows, the others on bootstrap samples of them
    (ours; with `full` and `lora` each is a training of its own)."""
    test_rows: int | None = 800
    """Test texts for each task at most, every class in proportion; None takes all (ours)."""
    controls: int = 99
    """Control words matched in frequency, length and pieces: as many as a p-value of .01 needs."""
    nonsense: int = 20
    """Made-up control words, which compete as well (ours)."""
    control_rows: int = 240
    """Test texts on which controls are compared with the triggers (ours: the smallest test set of
    the study)."""
    screens: tuple[int, ...] = (6, 12, 24, 48, 96, 160)
    """Of these, the numbers of texts after which a control that changes little may be done
    (ours)."""
    nonsense_rows: int = 32
    """Test texts on which made-up words say how many an ordinary word moves (ours)."""
    certainty: float = 1e-3
    """Chance that a control is ruled out wrongly after one of `screens` (ours: six such chances
    make a p-value too small by less than a hundredth of itself)."""
    enough: int = 5
    """Controls at least as strong as a trigger after which its p-value is settled (Besag and
    Clifford 1991, who take 10 or 20; fewer blur only p-values far from the level)."""
    permutations: int = 9999
    """Draws of the paired permutation test (usual for a level of .01)."""
    bootstrap: int = 2000
    """Draws of every interval (usual)."""
    margin: float = 0.05
    """Total variation and excess share that count as no shift (ours: above every noise floor of the
    study's test sets)."""
    alpha: float = 0.01
    """Level after correction (ours)."""
    effect: float = 0.10
    """Total variation that a task must be able to show to count (ours: the verdict's threshold)."""
    smallest: int = 240
    """Test texts that a task needs to count (ours: the smallest test set of the study)."""
    lead: float = 0.05
    """How far the lower end of the head's accuracy must lie above the majority share (ours)."""
    lora_rank: int = 8
    """Rank of the adapter of mode `lora` (Hu et al. 2022, section 7.2: 8 does as well as 64)."""
    readout: str = ""
    """Where texts are read; empty is what the model's own classification head would read."""
    probe: ProbeSettings = ProbeSettings()
    """The heads of mode `probe`."""
    fine_tune: FineTuneSettings = FineTuneSettings()
    """The trainings of modes `full` and `lora`."""

    def __post_init__(self) -> None:
        check(self)
        if self.mode not in MODES:
            raise ValueError(f"mode: {self.mode!r} is not one of {', '.join(MODES)}")
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise ValueError("policies: expected at least one, none of them twice")
        for policy in self.policies:
            if policy not in PLACEMENTS:
                raise ValueError(f"policy: {policy!r} is not one of {', '.join(PLACEMENTS)}")
        for name in (
            "heads",
            "control_rows",
            "nonsense_rows",
            "enough",
            "permutations",
            "bootstrap",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if list(self.screens) != sorted(set(self.screens)) or min(self.screens, default=1) < 1:
            raise ValueError(f"screens: {self.screens} are not positive and ascending")
        for name in ("controls", "nonsense"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 0")
        if self.test_rows is not None and self.test_rows < 2:
            raise ValueError(f"test_rows: {self.test_rows} is not at least 2")
        for name in ("certainty", "margin", "alpha", "effect"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not between 0 and 1")
