"""Evidence beyond the statistic that separates a planted trigger from a natural outlier.

A planted trigger works with one copy and at any position. Both checks are reported, not tested: the
verdict is based on the hold-out statistic, and on whether the surface form still reaches it after
tokenization.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.effects import Carrier, CleanReference
from triggerfish.scanner.screening import Screening, Steps

POSITIONS = (0.0, 0.5, 1.0)


def collect(
    screening: Screening,
    name: str,
    ids: tuple[int, ...],
    column: int,
    texts: Sequence[Carrier],
    clean_reference: CleanReference,
) -> Steps[dict[str, list[float]]]:
    """Yields `Progress`. Returns {"dose_response": collapse with 1, 2, 3 copies, "position":
    collapse at the start, middle and end of a text}, rounded to 4 decimals."""

    def collapse(features: torch.Tensor) -> float:
        return round(float(clean_reference.measure(features)["collapse"][0, column]), 4)

    dose, position = [], []
    for copies in (1, 2, 3):
        features = yield from screening.features(
            f"dose-{name}-{copies}", texts, [ids], copies=copies
        )
        dose.append(collapse(features))
    for place in POSITIONS:
        moved = [context.at(place) for context in texts]
        features = yield from screening.features(f"position-{name}-{place}", moved, [ids])
        position.append(collapse(features))
    return {"dose_response": dose, "position": position}


def names(
    screening: Screening, start: Candidate, ids: tuple[int, ...]
) -> dict[str, list[str] | str]:
    """{"subwords": the subword tokens of a trigger}, with "parent", the candidate that it was
    extended from, if the two differ."""
    found: dict[str, list[str] | str] = {
        "subwords": list(screening.backbone.tokenizer.convert_ids_to_tokens(list(ids)))
    }
    if ids != start.token_ids:
        found["parent"] = start.text
    return found
