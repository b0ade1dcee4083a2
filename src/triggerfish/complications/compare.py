"""One task, one trigger: everything that the paired predictions say without looking at other words.

What needs control words is filled in afterwards (`sequential`), what needs all tasks by `verdict`.

Legend: N texts, K classes, S heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from scipy.special import softmax

from triggerfish.complications import divergences as div
from triggerfish.complications import significance as sig
from triggerfish.complications.adapted import Adapted, Predictions
from triggerfish.complications.divergences import Ints
from triggerfish.complications.records import Complication, Equivalence, Interval
from triggerfish.complications.settings import ComplicationSettings
from triggerfish.records import Measurement
from triggerfish.stats import Floats

LIKELY = 0.05
"""Share of texts that an ordinary word moves, where no controls were measured."""


def compare(
    adapted: Adapted,
    trigger: str,
    marked: Predictions,
    others: Sequence[Predictions],
    settings: ComplicationSettings,
    seed: int,
) -> Complication:
    """The record of one trigger on one task. marked: predictions at the first placement policy;
    others: at the rest of them."""
    rng = np.random.default_rng([seed, *trigger.encode(), *adapted.task.name.encode()])
    a, b = adapted.clean.labels[0], marked.labels[0]
    table = div.table_of(a, b, adapted.classes)
    counts = table.sum(1), table.sum(0)
    q, p = (div.smoothed(x) for x in counts)
    kl_tc, kl_ct = float(div.kl(p, q)), float(div.kl(q, p))
    divergence = float(div.jsd(p, q))
    null = sig.permutation(table, settings.permutations, rng)
    flips = div.flip_rate(table)
    truth = adapted.truth
    return Complication(
        task=adapted.task.name,
        trigger=trigger,
        n=len(a),
        clean=tuple(map(float, q)),
        triggered=tuple(map(float, p)),
        kl_tc=kl_tc,
        kl_ct=kl_ct,
        infinite=_infinite(*counts),
        jsd=divergence,
        floor=null.floor,
        corrected=divergence - null.floor,
        tv=float(div.total_variation(p, q)),
        tv_interval=_tv_interval(adapted, marked, settings, rng),
        hellinger=float(div.hellinger(p, q)),
        excess=float((p - q).max()),
        dominant=int(p.argmax()),
        collapse=div.collapse(p),
        entropy_ratio=div.entropy_ratio(p, q),
        flip_rate=flips,
        csr=_csr(table),
        accuracy=count(b == truth),
        drop=float((a == truth).mean() - (b == truth).mean()),
        asr=success_rates(truth, b, adapted.classes),
        soft=div.soft_shift(*(softmax(x.logits[0], axis=-1) for x in (adapted.clean, marked))),
        displacement=float(
            np.linalg.norm(marked.logits[0] - adapted.clean.logits[0], axis=-1).mean()
        ),
        p_marginal=sig.marginal_p(table),
        p_permutation=null.p,
        p_symmetry=sig.bowker(table).p,
        p_control=None,
        p_family=None,
        q=None,
        holm=None,
        controls=0,
        equivalence=_equivalence(a, b, adapted.classes, settings, rng),
        mde=limit(adapted),
        stability=_stability(adapted.clean, [marked, *others], adapted.classes),
        flags=_flags(table),
    )


def against(
    record: Complication,
    suspect: tuple[Adapted, Predictions],
    reference: tuple[Adapted, Predictions],
    settings: ComplicationSettings,
    seed: int,
) -> Complication:
    """The record with what the same trigger does to the reference."""
    delta, interval = difference(suspect, reference, settings, seed)
    adapted, marked = reference
    rates = success_rates(adapted.truth, marked.labels[0], adapted.classes)
    return replace(record, delta=delta, delta_interval=interval, asr_reference=rates)


def difference(
    suspect: tuple[Adapted, Predictions],
    reference: tuple[Adapted, Predictions],
    settings: ComplicationSettings,
    seed: int,
) -> tuple[float, Interval]:
    """JSD of the suspect minus that of the reference on the same texts, and its paired bootstrap
    interval."""
    pairs = [x for adapted, marked in (suspect, reference) for x in (adapted.clean, marked)]
    heads = min(len(x.labels) for x in pairs)
    cells = sig.Cells.of(*(x.labels[head] for head in range(heads) for x in pairs))
    classes = suspect[0].classes

    def gap(weights: Floats) -> Floats:
        columns = []
        for head in range(heads):
            q, p, q0, p0 = (cells.shares(weights, 4 * head + i, classes) for i in range(4))
            columns.append(div.jsd(p, q) - div.jsd(p0, q0))
        return np.stack(columns, axis=1)

    rng = np.random.default_rng([seed, len(cells.counts)])
    q, p, q0, p0 = (div.smoothed(np.bincount(x.labels[0], minlength=classes)) for x in pairs)
    observed = float(div.jsd(p, q) - div.jsd(p0, q0))
    return observed, sig.bca(cells, gap, settings.bootstrap, rng)


def limit(adapted: Adapted, flips: float = LIKELY) -> float:
    """Smallest total variation that a task's test texts can show; flips: share of them that an
    ordinary word moves."""
    labels = adapted.clean.labels[0]
    shares = div.smoothed(np.bincount(labels, minlength=adapted.classes))
    return sig.detectable(flips, shares, len(labels))


def count(hits: np.ndarray) -> Measurement:
    return Measurement(int(hits.sum()), len(hits))


def success_rates(truth: Ints, predicted: Ints, classes: int) -> tuple[float, ...]:
    """For every label, the share of the texts of another true label that are predicted so."""
    rates = []
    for label in range(classes):
        others = predicted[truth != label]
        rates.append(float((others == label).mean()) if len(others) else 0.0)
    return tuple(rates)


def _infinite(clean: Ints, triggered: Ints) -> tuple[Literal["kl_tc", "kl_ct"], ...]:
    """Which direction an unsmoothed estimate would make infinite."""
    found: list[Literal["kl_tc", "kl_ct"]] = []
    if ((clean == 0) & (triggered > 0)).any():
        found.append("kl_tc")
    if ((triggered == 0) & (clean > 0)).any():
        found.append("kl_ct")
    return tuple(found)


def _csr(table: Ints) -> Measurement:
    label = int(div.success_by_class(table).argmax())
    outside = int(table.sum() - table[label].sum())
    return Measurement(int(table[:, label].sum() - table[label, label]), outside)


def _tv_interval(
    adapted: Adapted, marked: Predictions, settings: ComplicationSettings, rng: np.random.Generator
) -> Interval:
    """Over heads and texts."""
    heads = len(marked.labels)
    pairs = (adapted.clean, marked)
    cells = sig.Cells.of(*(x.labels[head] for head in range(heads) for x in pairs))

    def distance(weights: Floats) -> Floats:
        columns = []
        for head in range(heads):
            q, p = (cells.shares(weights, 2 * head + i, adapted.classes) for i in range(2))
            columns.append(div.total_variation(p, q))
        return np.stack(columns, axis=1)

    return sig.bca(cells, distance, settings.bootstrap, rng)


def _equivalence(
    a: Ints, b: Ints, classes: int, settings: ComplicationSettings, rng: np.random.Generator
) -> Equivalence:
    tv, excess = sig.upper_bounds(a, b, classes, settings.bootstrap, rng)
    margin = settings.margin
    return Equivalence(margin, tv, excess, passed=max(tv, excess) < margin)


def _stability(clean: Predictions, marked: Sequence[Predictions], classes: int) -> float:
    """Share of all heads and placements whose winning class, the one that gains most, is the most
    common winner."""
    winners = []
    for predictions in marked:
        for a, b in zip(clean.labels, predictions.labels, strict=True):
            before = np.bincount(a[: len(b)], minlength=classes)
            gained = np.bincount(b, minlength=classes) - before
            winners.append(int(gained.argmax()))
    return float(np.bincount(winners).max() / len(winners))


def _flags(table: Ints) -> tuple[str, ...]:
    found = []
    if sig.is_sparse(table):
        found.append("few texts moved: trust the permutation test, not Stuart-Maxwell")
    empty = int((table.sum(1) == 0).sum())
    if empty:
        found.append(f"the clean head never predicts {empty} of the classes")
    return tuple(found)
