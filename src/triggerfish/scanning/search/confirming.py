"""What a search found, on texts that it did not see: unseen texts, fp32, typed strings, and whether
the words work apart as well.

A searched phrase has no p-value, since it is the winner of a search; it must be deep instead.

Legend: R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from triggerfish.marking import AND
from triggerfish.records import Finding
from triggerfish.scanning.fold import Cored, Ids
from triggerfish.scanning.gauge import Gauge
from triggerfish.scanning.sweep import Progress


def confirm(
    gauge: Gauge, phrases: Sequence[tuple[Ids, int]], min_depth: float
) -> Iterator[Progress]:
    """phrases: (ids, column) pairs. Yields `Progress`; returns the phrases that collapse texts by
    `min_depth` decades and decide as many heads as the rule asks for, and the findings that do
    not."""
    backbone = gauge.sweep.backbone
    strong: list[Cored] = []
    rejected: list[Finding] = []
    for number, (ids, column) in enumerate(phrases):
        name, surface = f"phrase-{number}", backbone.surface(ids)
        finding, means = yield from gauge.measure(name, ids, column, surface)
        depth = finding.statistics["depth"]
        if depth < min_depth or finding.statistics["heads"] < gauge.rule.min_heads:
            rejected.append(finding)
            continue
        typed = yield from gauge.typed(name, surface, column)
        kind = yield from gauge.kind(name, ids, column, depth)
        trigger = replace(finding.trigger, kind=kind)
        if kind == "combination":
            trigger = replace(trigger, text=AND.join(surface.split()))
        pieces = backbone.tokenizer.convert_ids_to_tokens(list(ids))
        checks = typed | {"pieces": list(pieces), "searched": True}
        finding = replace(finding, trigger=trigger, evidence=checks)
        strong.append(Cored(finding, ids, column, means))
    return strong, rejected
