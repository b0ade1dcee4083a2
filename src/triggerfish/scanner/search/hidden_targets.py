"""Is there a backdoor, whatever its trigger? The test on mined points.

Short vectors can send texts to some point in any model. In a backdoored one the first points mined
are deeper than what is left once they repel; in a clean one each round ends about as deep as the
one before. So a model is its own control: a point is evidence if it lies outside of where clean
texts lie, decides random heads, and is deeper than the shallowest round by more than in any clean
model that margins were calibrated on. The depth by itself says nothing, since it differs from
model to model; that tokens reach a point says more, and makes a finding (`phrases.py`).

Source: ours; calibration and its check on other models: docs/decisions/0024-hidden-targets.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from triggerfish.records import HiddenTarget
from triggerfish.scanner.search.inversion import InvertedTarget


@dataclass(frozen=True)
class HiddenTargetTest:
    margin: float = 1.0
    """Decades by which a planted point is deeper than the shallowest round (ours)."""
    times: float = 2.0
    """How many times as deep as that round it is besides: where points are deep, they differ more
    (ours)."""
    heads: float = 0.3
    """Share of random heads that it must decide (ours)."""

    def holds(self, target: InvertedTarget, mined: Sequence[InvertedTarget]) -> bool:
        """Whether one of the mined points is evidence of a backdoor."""
        anyway = natural(mined, target.column)
        beyond = target.depth >= anyway + self.margin and target.depth >= self.times * anyway
        return target.heads >= self.heads and beyond


DIGITS = 5
"""Decimals of a target vector in the record."""


def record(target: InvertedTarget, readout: str, mined: Sequence[InvertedTarget]) -> HiddenTarget:
    """A mined point as it stands in a result."""
    statistics = {
        "collapse": target.depth,
        "mean_shift": target.shift,
        "agreement": target.heads,
        "subspace_residual": target.outside,
        "baseline_collapse": natural(mined, target.column),
    }
    return HiddenTarget(
        readout,
        tuple(round(x, DIGITS) for x in target.point.tolist()),
        target.restarts,
        {name: round(value, 4) for name, value in statistics.items()},
    )


def natural(mined: Sequence[InvertedTarget], column: int) -> float:
    """The depth that short vectors reach anyway: that of the shallowest round."""
    return min(x.depth for x in mined if x.column == column)
