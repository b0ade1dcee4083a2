"""Thresholds with a guarantee: how often a detector of triggered texts may alarm on clean ones.

A detector gives every text a score, higher for more suspicious. With n clean texts, split conformal
calibration takes the ceil((n + 1)(1 - FRR))-th smallest of their scores as threshold: a new clean
text, exchangeable with them, exceeds it with a probability of at most FRR, and without ties of at
least FRR - 1/(n + 1), whatever the scores are. Texts of another domain are not exchangeable with
them, and for those nothing is guaranteed.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; the order statistic
as in Lei et al., JASA 2018 (arXiv 1604.04173).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Detector(Protocol):
    def scores(self, texts: Sequence[str]) -> list[float]:
        """One score for each text, in order; higher is more suspicious."""
        ...


@dataclass(frozen=True)
class Threshold:
    """value: scores above it are rejected; frr: share of clean texts for which that may happen,
    None for a threshold that somebody set by hand; clean: how many clean texts it comes from."""

    value: float
    frr: float | None = None
    clean: int = 0

    def flags(self, scores: Sequence[float]) -> list[bool]:
        return [score > self.value for score in scores]


def conformal(scores: Sequence[float], frr: float) -> Threshold:
    """The threshold for a false-rejection rate of `frr`, from scores of clean texts.

    Raises ValueError for a rate outside 0..1, for scores that are not finite, and for too few of
    them: `frr` needs n >= 1/frr - 1.
    """
    if not 0 < frr < 1:
        raise ValueError(f"frr: {frr} is not between 0 and 1")
    if not all(map(math.isfinite, scores)):
        raise ValueError("scores: not all of them are finite")
    # 1 - frr is not exact: the tenth decimal decides nothing, but 100 * (1 - 0.01) must give 99.
    rank = math.ceil(round((len(scores) + 1) * (1 - frr), 9))
    if rank > len(scores):
        raise ValueError(
            f"clean: {len(scores)} texts are too few for a false-rejection rate of {frr}; "
            f"at least {math.ceil(round(1 / frr - 1, 9))} are needed"
        )
    return Threshold(sorted(scores)[rank - 1], frr, len(scores))


@dataclass(frozen=True)
class Guard:
    """A detector with its threshold."""

    detector: Detector
    threshold: Threshold

    @classmethod
    def fit(cls, detector: Detector, clean: Sequence[str], frr: float = 0.01) -> Guard:
        """Calibrate on clean texts that the detector has not been made from."""
        return cls(detector, conformal(detector.scores(clean), frr))

    def flags(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is to be rejected."""
        return self.threshold.flags(self.detector.scores(texts))
