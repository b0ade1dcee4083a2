"""Neighbours of a finding, which are as good a trigger, and their minimal sufficient subsets.

A planted word and its neighbours often cannot be distinguished, and a monitor must guard against
each of them. They are the other candidates of its cluster, the same word in other cases and with
other endings, which often share no token with it, and whatever contains the tokens that cause the
collapse.
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
"""Neighbours of a finding whose minimal sufficient subsets are searched, strongest first, at most.
"""
AS_DEEP = 0.3
"""Orders of magnitude within which a whole word, or another order of words, is as good a trigger as
the finding (docs/decisions/0010)."""
ORDERED = 5
"""Words of a minimal sufficient subset that are tried in every order, at most. With more words only
the found order is kept (ours)."""


def variants(
    holdout: Holdout, x: ReducedFinding, family: Cluster, shortlist: Shortlist
) -> tuple[Variant, ...]:
    """Neighbours, strongest first: the other candidates of the cluster, and other spellings that do
    not contain the trigger's tokens and are as good."""
    all_depths = shortlist.collapses[: shortlist.kept, x.column].tolist()
    collapses = dict(zip(shortlist.candidates, all_depths, strict=False))
    found = {
        member.token_ids: Variant(member.token_ids, member.text, collapses[member])
        for member in (family.head, *family.variants)
    }
    for variant in _spelled(holdout, x):
        found.setdefault(variant.token_ids, variant)
    found.pop(x.finding.trigger.token_ids, None)
    return tuple(sorted(found.values(), key=lambda variant: -variant.collapse))


def effective(found: Sequence[Variant], rule: DecisionRule) -> list[Variant]:
    """Neighbours that collapse texts themselves. Other members of a cluster only share a token with
    a trigger."""
    return [variant for variant in found if variant.collapse >= rule.min_effect_second_stage]


def sufficient_subsets(holdout: Holdout, x: ReducedFinding) -> tuple[Ids, ...]:
    """The minimal sufficient subsets of a word and its neighbours that are rare in ordinary texts.
    A whole word that is as good counts however common it is. A phrase has a subset for every order
    of words that is as good (docs/decisions/0010)."""
    trigger, collapse = x.finding.trigger, x.finding.statistics["collapse"]
    if " " in trigger.text:
        return _orders(holdout, x) if trigger.kind == "phrase" else (x.minimal_subset,)
    least, backbone = holdout.least(collapse), holdout.screening.backbone

    def as_good(v: Variant) -> bool:
        if v.collapse >= least and holdout.rare(v.token_ids):
            return True
        return v.collapse >= _as_deep(collapse, holdout.rule) and is_word(backbone, v.token_ids)

    deep = [v for v in x.variants[:CORED] if as_good(v)]
    found: list[Ids] = []
    for v in (Variant(trigger.token_ids, trigger.text, collapse), *deep):
        if not any(within(one, v.token_ids) for one in found):
            found.append(
                holdout.sufficient(v.token_ids, x.column, v.collapse - least, holdout.rare)
            )
    return tuple(
        one for one in found if not any(within(other, one) for other in found if other != one)
    )


def _orders(holdout: Holdout, x: ReducedFinding) -> tuple[Ids, ...]:
    """The minimal sufficient subset of a phrase, and its reorderings by word that are as good and
    rare in ordinary texts."""
    words = [holdout.screening.backbone.word_ids(word) for word in x.finding.trigger.text.split()]
    parts = [part for part in by_word(x.minimal_subset, words) if part]
    if len(parts) > ORDERED or sum(map(len, parts)) < len(x.minimal_subset):
        return (x.minimal_subset,)
    orders = (tuple(i for part in order for i in part) for order in permutations(parts))
    tried = list(dict.fromkeys([x.minimal_subset, *orders]))
    spread = holdout.screening.scatter(tried, x.column, copies=x.copies).tolist()
    others = zip(tried[1:], spread[1:], strict=True)
    as_deep = [ids for ids, value in others if value <= spread[0] + AS_DEEP]
    return (x.minimal_subset, *(ids for ids in as_deep if holdout.rarely_near(ids)))


def _spelled(holdout: Holdout, x: ReducedFinding) -> list[Variant]:
    word, collapse = x.finding.trigger.text, x.finding.statistics["collapse"]
    forms = [] if " " in word else spelled(holdout.screening.backbone, word)
    forms = [(form, ids) for form, ids in forms if not within(x.finding.trigger.token_ids, ids)]
    if not forms:
        return []
    unit = float(holdout.clean_reference.close[x.column].log10())
    spread = holdout.screening.scatter([ids for _, ids in forms], x.column).tolist()
    found = [
        Variant(ids, form, unit - value) for (form, ids), value in zip(forms, spread, strict=True)
    ]
    return [variant for variant in found if variant.collapse >= _as_deep(collapse, holdout.rule)]


def _as_deep(collapse: float, rule: DecisionRule) -> float:
    """The collapse from which on a word is as good as the finding."""
    return max(collapse - AS_DEEP, rule.min_effect_second_stage)
