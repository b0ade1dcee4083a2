"""How far texts are from a mined point: what the search for its words lowers.

Only the way towards the point counts, since a mined point often lies beside the planted one, and
whoever goes further has arrived.

Legend: K sequences, N texts, R readouts, H hidden.
"""

from __future__ import annotations

import torch

from triggerfish.scanning.measure import Yardstick
from triggerfish.scanning.search.mining import Mined


class Aim:
    def __init__(self, yardstick: Yardstick, target: Mined):
        self.column = target.column
        self.origin = yardstick.mean[target.column]
        self.way = target.point - self.origin

    def lack(self, features: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
        """(K,) share of the way that texts (K, N, R, H) lack, on average; at least 0 for each."""
        own = features[:, :, self.column] - self.origin
        return (1 - own @ self.way / self.way.square().sum()).clamp(min=0).mean(1)
