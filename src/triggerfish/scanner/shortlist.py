"""The shortlist: the candidates that the screening sends to the hold-out measurement.

Legend: K candidates, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.effects import CleanReference


@dataclass
class Shortlist:
    """Survivors of the screening and random controls, measured in ordinary texts.

    candidates: survivors first, then controls. survivors: the number of survivors. depths: (K, R)
    collapse. means: (K, R, H) mean triggered features. z: (tried,) score of the first rung at the
    best readout, vocabulary tokens first, then words. looks: (tried, R) the better score of the two
    rungs with pools. yardstick: the clean reference.
    """

    candidates: list[Candidate]
    kept: int
    collapses: torch.Tensor
    means: torch.Tensor
    z: torch.Tensor
    looks: torch.Tensor
    clean_reference: CleanReference

    def joined(
        self, found: Sequence[Candidate], collapses: torch.Tensor, means: torch.Tensor
    ) -> Shortlist:
        """The same with further survivors, their collapse (K, R) and means (K, R, H)."""
        cut = self.kept

        def among(rows: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            return torch.cat([rows[:cut], new, rows[cut:]])

        return replace(
            self,
            candidates=[*self.candidates[:cut], *found, *self.candidates[cut:]],
            kept=cut + len(found),
            collapses=among(self.collapses, collapses),
            means=among(self.means, means),
        )
