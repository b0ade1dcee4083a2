"""The statistics by which Patronus verifies a candidate, and their relation to ours.

For texts i: c_i the clean feature and p_i the feature with the candidate in the text.

    Com-Sim   mean cosine of p_i and p_j over all pairs, including i = j
    Diff-Sim  mean cosine of c_i and p_i

A trigger has a high Com-Sim (its texts collapse) and a low Diff-Sim (far from their clean
features). Source: Patronus, arXiv 2512.06899, and its published code for the constants.

Legend: N texts, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize


@dataclass(frozen=True)
class FixedRule:
    """Two fixed thresholds that a trigger must satisfy, the same for every architecture."""

    min_com: float = 0.9
    """Least Com-Sim (published code)."""
    max_diff: float = 0.4
    """Highest Diff-Sim (published code)."""

    def __post_init__(self) -> None:
        for name, value in (("min_com", self.min_com), ("max_diff", self.max_diff)):
            if not -1 <= value <= 1:
                raise ValueError(f"{name}: {value} is not a cosine, expected -1 to 1")

    def passes(self, statistics: dict[str, float]) -> bool:
        return statistics["com_sim"] > self.min_com and statistics["diff_sim"] < self.max_diff

    def measure(self, clean: torch.Tensor, triggered: torch.Tensor) -> dict[str, float]:
        """Com-Sim, Diff-Sim, their ratio and N of features (N, H), rounded to 4 digits."""
        com, diff = com_sim(triggered), diff_sim(clean, triggered)
        return {
            "com_sim": round(com, 4),
            "diff_sim": round(diff, 4),
            "ratio": round(cosine_ratio(com, diff), 4),
            "verify_texts": len(clean),
        }


def com_sim(triggered: torch.Tensor) -> float:
    """Mean cosine over all pairs of rows (N, H), including the diagonal. It is the squared norm of
    the mean unit vector, so no N x N matrix is needed."""
    return float(normalize(triggered.double(), dim=-1).mean(0).square().sum())


def diff_sim(clean: torch.Tensor, triggered: torch.Tensor) -> float:
    """Mean cosine of each clean row (N, H) with its triggered row (N, H)."""
    clean, triggered = normalize(clean.double(), dim=-1), normalize(triggered.double(), dim=-1)
    return float((clean * triggered).sum(-1).mean())


def cosine_ratio(com: float, diff: float) -> float:
    """(1 - Diff-Sim) / (1 - Com-Sim + 0.01): both statistics in one number (ours)."""
    return (1 - diff) / (1 - com + 0.01)
