"""Checks beyond the statistic that tell a planted trigger from a natural outlier.

A planted trigger works with one copy (dose), anywhere (position), and when typed (string). They are
shown, not tested: the verdict rests on the hold-out statistic, and on whether the typed string
still reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.effects import Carrier, CleanReference
from triggerfish.scanner.screening import Screening, Steps

POSITIONS = (0.0, 0.5, 1.0)


def collect(
    sweep: Screening,
    name: str,
    ids: tuple[int, ...],
    column: int,
    texts: Sequence[Carrier],
    yardstick: CleanReference,
) -> Steps[dict[str, list[float]]]:
    """Yields `Progress`; returns {"dose": depth with 1, 2, 3 copies, "position": depth at start,
    middle, end}."""

    def depth(features: torch.Tensor) -> float:
        return round(float(yardstick.measure(features)["collapse"][0, column]), 4)

    dose, position = [], []
    for copies in (1, 2, 3):
        features = yield from sweep.features(f"dose-{name}-{copies}", texts, [ids], copies=copies)
        dose.append(depth(features))
    for place in POSITIONS:
        moved = [context.at(place) for context in texts]
        features = yield from sweep.features(f"position-{name}-{place}", moved, [ids])
        position.append(depth(features))
    return {"dose_response": dose, "position": position}


def names(sweep: Screening, start: Candidate, ids: tuple[int, ...]) -> dict[str, list[str] | str]:
    """The pieces of a trigger, and the candidate it was grown from."""
    found: dict[str, list[str] | str] = {
        "subwords": list(sweep.backbone.tokenizer.convert_ids_to_tokens(list(ids)))
    }
    if ids != start.token_ids:
        found["parent"] = start.text
    return found
