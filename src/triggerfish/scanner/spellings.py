"""What else is as good a trigger as what was found, and which pieces of them all are enough.

A planted word and its relatives often cannot be told apart, and a user of the monitor wants to be
guarded against each: the candidates of its family, the same word in other cases and with other
endings, which often share no piece with it, and whatever holds the pieces that do the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from triggerfish.records import by_word
from triggerfish.scanner.clusters import Cluster
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.extension import is_word, spelled
from triggerfish.scanner.holdout import Holdout
from triggerfish.scanner.merging import Ids, ReducedFinding, Variant, within
from triggerfish.scanner.shortlist import Shortlist

CORED = 64
"""Variants of a finding whose cores are looked for, the deepest first, at most."""
AS_DEEP = 0.3
"""Decades within which a whole word, or another order of words, is as good a trigger as what was
found (ours)."""
ORDERED = 5
"""Words of which a core has a part that are tried in every order; more stay as they are (ours)."""


def variants(
    gauge: Holdout, x: ReducedFinding, family: Cluster, screened: Shortlist
) -> tuple[Variant, ...]:
    """The others of its family, and other ways of writing it that do not hold its tokens and are as
    good, deepest first."""
    all_depths = screened.depths[: screened.survivors, x.column].tolist()
    depths = dict(zip(screened.candidates, all_depths, strict=False))
    found = {
        member.token_ids: Variant(member.token_ids, member.text, depths[member])
        for member in (family.head, *family.variants)
    }
    for variant in _spelled(gauge, x):
        found.setdefault(variant.token_ids, variant)
    found.pop(x.finding.trigger.token_ids, None)
    return tuple(sorted(found.values(), key=lambda variant: -variant.depth))


def effective(found: Sequence[Variant], rule: DecisionRule) -> list[Variant]:
    """Those that pull texts themselves; others of a family only share a piece with what does."""
    return [variant for variant in found if variant.depth >= rule.min_effect_second_stage]


def cores(gauge: Holdout, x: ReducedFinding) -> tuple[Ids, ...]:
    """What is enough, of a word and of its variants, and hardly in an ordinary text; or else a
    whole word that is as deep, however common. Of a phrase, in every order that does as well."""
    trigger, depth = x.finding.trigger, x.finding.statistics["collapse"]
    if " " in trigger.text:
        return _orders(gauge, x) if trigger.kind == "phrase" else (x.core,)
    least, backbone = gauge.least(depth), gauge.sweep.backbone

    def as_good(v: Variant) -> bool:
        if v.depth >= least and gauge.rare(v.token_ids):
            return True
        return v.depth >= _as_deep(depth, gauge.rule) and is_word(backbone, v.token_ids)

    deep = [v for v in x.variants[:CORED] if as_good(v)]
    found: list[Ids] = []
    for v in (Variant(trigger.token_ids, trigger.text, depth), *deep):
        if not any(within(one, v.token_ids) for one in found):
            found.append(gauge.enough(v.token_ids, x.column, v.depth - least, gauge.rare))
    return tuple(
        one for one in found if not any(within(other, one) for other in found if other != one)
    )


def _orders(gauge: Holdout, x: ReducedFinding) -> tuple[Ids, ...]:
    """The core of a phrase, and what it becomes when the words change places, where that is as deep
    and hardly in an ordinary text."""
    words = [gauge.sweep.backbone.word_ids(word) for word in x.finding.trigger.text.split()]
    parts = [part for part in by_word(x.core, words) if part]
    if len(parts) > ORDERED or sum(map(len, parts)) < len(x.core):
        return (x.core,)
    orders = (tuple(i for part in order for i in part) for order in permutations(parts))
    tried = list(dict.fromkeys([x.core, *orders]))
    spread = gauge.sweep.scatter(tried, x.column, copies=x.copies).tolist()
    others = zip(tried[1:], spread[1:], strict=True)
    as_deep = [ids for ids, value in others if value <= spread[0] + AS_DEEP]
    return (x.core, *(ids for ids in as_deep if gauge.rarely_near(ids)))


def _spelled(gauge: Holdout, x: ReducedFinding) -> list[Variant]:
    word, depth = x.finding.trigger.text, x.finding.statistics["collapse"]
    forms = [] if " " in word else spelled(gauge.sweep.backbone, word)
    forms = [(form, ids) for form, ids in forms if not within(x.finding.trigger.token_ids, ids)]
    if not forms:
        return []
    unit = float(gauge.yardstick.close[x.column].log10())
    spread = gauge.sweep.scatter([ids for _, ids in forms], x.column).tolist()
    found = [
        Variant(ids, form, unit - value) for (form, ids), value in zip(forms, spread, strict=True)
    ]
    return [variant for variant in found if variant.depth >= _as_deep(depth, gauge.rule)]


def _as_deep(depth: float, rule: DecisionRule) -> float:
    """The depth from which on a word is as good as what was found."""
    return max(depth - AS_DEEP, rule.min_effect_second_stage)
