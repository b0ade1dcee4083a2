"""The picture of the collapse: the hold-out texts, clean and triggered, on two principal axes.

Legend: K candidates, N texts, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from triggerfish.records import Finding, Projection
from triggerfish.scanner.screening import Screening, Steps

SHOWN = 12
"""Triggers in the picture at most."""


def project(screening: Screening, findings: Sequence[Finding]) -> Steps[Projection | None]:
    """Yields `Progress`. Returns a `Projection` at the readout of the strongest finding, or None
    without findings."""
    shown = sorted(findings, key=lambda f: -f.statistics["collapse"])[:SHOWN]
    if not shown:
        return None
    column = [str(r) for r in screening.readouts].index(shown[0].readout)
    candidates = [(), *(finding.trigger.token_ids for finding in shown)]
    features = (yield from screening.features("projection", screening.holdout_texts, candidates))[
        :, :, column
    ]
    flat = features.flatten(0, 1)
    _, scales, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    share = (scales.square() / scales.square().sum())[:2].tolist()
    planes = ((features - flat.mean(0)) @ axes[:2].T).cpu()
    points = [tuple((round(x, 3), round(y, 3)) for x, y in plane.tolist()) for plane in planes]
    named = dict(zip((finding.trigger.text for finding in shown), points[1:], strict=True))
    return Projection(shown[0].readout, points[0], named, (share[0], share[1]))
