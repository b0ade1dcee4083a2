"""What the funnel of a sweep leaves, to be measured on the hold-out.

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
    """What the funnel leaves: survivors and random anchors, measured in ordinary texts.

    depths (K, R), means (K, R, H), z (tried,) and looks (tried, R): `candidates` are survivors
    first, then anchors; `z` is the best readout's at the first look, entries first, then words;
    `looks` are the better one of both looks in bags.
    """

    candidates: list[Candidate]
    survivors: int
    depths: torch.Tensor
    means: torch.Tensor
    z: torch.Tensor
    looks: torch.Tensor
    yardstick: CleanReference

    def joined(
        self, found: Sequence[Candidate], depths: torch.Tensor, means: torch.Tensor
    ) -> Shortlist:
        """The same with further survivors, their depths (K, R) and means (K, R, H)."""
        cut = self.survivors

        def among(rows: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            return torch.cat([rows[:cut], new, rows[cut:]])

        return replace(
            self,
            candidates=[*self.candidates[:cut], *found, *self.candidates[cut:]],
            survivors=cut + len(found),
            depths=among(self.depths, depths),
            means=among(self.means, means),
        )
