"""What a purifier measures between two scans: do the triggers still collapse texts, and do clean
texts still have the features they had?

Legend: N texts, R readouts, H hidden, T triggers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch.nn.functional import normalize

from triggerfish.backbone import Backbone
from triggerfish.marking import parse_trigger
from triggerfish.records import TOKEN_PREFIX, Finding, ScanResult, Trigger
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.effects import CleanReference, contexts
from triggerfish.scanner.screening import ScreeningSettings

NEAR_MISSES = 200
"""Vocabulary tokens, and as many listed words, at the top of a scan's ranking that count as near
misses (ours: docs/decisions/0301-near-misses.md)."""
REMOVED_BELOW = 0.2
"""Collapse below which a known trigger counts as removed, in orders of magnitude (ours: the
triggers of the benchmark have -0.3 to 0.05 in clean PLMs, and at 0.5 and more they still decide
classifiers)."""
FEW_TEXTS = 12
"""Texts that a near miss is tried in (ours)."""
SCAN = ScreeningSettings()
"""Texts that a trigger is tried in, clean ones that it is compared with, and their words: those of
the scan's hold-out measurement."""


@dataclass(frozen=True)
class ResidualEffect:
    """What is left of a trigger: its collapse at the readout where that is largest, in orders of
    magnitude, and its agreement there (share of random linear probes that one class wins)."""

    trigger: Trigger
    readout: str
    collapse: float
    agreement: float

    def effective(self, rule: DecisionRule) -> bool:
        """Whether a scan would still call it strong."""
        return self.collapse >= rule.min_effect and self.agreement >= rule.min_agreement

    @property
    def removed(self) -> bool:
        """Whether it does no more than benign strings do. A scan asks for far more before it names
        one, because it tries a hundred thousand; this one is known."""
        return self.collapse < REMOVED_BELOW


def residual_effects(
    backbone: Backbone,
    triggers: Sequence[Trigger],
    texts: Sequence[str],
    *,
    seed: int,
    count: int = SCAN.holdout_texts,
) -> tuple[ResidualEffect, ...]:
    """What is left of each trigger, in the order of `triggers`. count: texts it is tried in."""
    if not triggers:
        return ()
    texts = list(dict.fromkeys(texts))
    words = SCAN.text_words
    with_trigger = contexts(backbone, texts[::2], words=words, count=count, seed=seed)
    clean = contexts(backbone, texts[1::2], words=words, count=SCAN.clean_texts, seed=seed)
    wrap = backbone.template.wrap
    plain = backbone.encode_ids([wrap(x.ids()) for x in clean])
    varies = plain.var(0).sum(-1) > 1e-6 * plain.square().sum(-1).mean(0)
    yardstick = CleanReference.of(plain[:, varies], seed)
    names = [str(r) for r, v in zip(backbone.readouts, varies.tolist(), strict=True) if v]
    found = []
    for trigger in triggers:
        rows = [wrap(x.ids(trigger.token_ids)) for x in with_trigger]
        values = yardstick.measure(backbone.encode_ids(rows)[:, varies][None])
        column = int(values["collapse"][0].argmax())
        collapse, agreement = (float(values[name][0, column]) for name in ("collapse", "agreement"))
        found.append(
            ResidualEffect(trigger, names[column], round(collapse, 4), round(agreement, 4))
        )
    return tuple(found)


def fidelity(before: Backbone, after: Backbone, texts: Sequence[str]) -> dict[str, float]:
    """How much of the meaning of clean texts is as it was, by readout: the correlation of the
    cosines between all pairs of texts (1: every similarity is as before); `shift`: mean distance
    between a text's features before and after, in clean standard deviations, at the readout that a
    classification head would use."""
    cut = [" ".join(x.split()[: SCAN.text_words]) for x in texts[: SCAN.clean_texts]]
    upper = torch.triu_indices(len(cut), len(cut), offset=1)
    features = [model.encode(cut).cpu() for model in (before, after)]
    found = {}
    for column, readout in enumerate(before.readouts):
        pairs = []
        for values in features:
            unit = normalize(values[:, column], dim=-1)
            pairs.append((unit @ unit.T)[upper[0], upper[1]].double())
        if min(float(x.std()) for x in pairs) > 1e-6:
            found[str(readout)] = round(float(torch.corrcoef(torch.stack(pairs))[0, 1]), 4)
    column = before.readouts.index(before.primary)
    old, new = (values[:, column] for values in features)
    spread = (old - old.mean(0)).square().sum(-1).mean().sqrt()
    found["shift"] = round(float((new - old).norm(dim=-1).mean() / spread), 4)
    return found


def known_triggers(
    backbone: Backbone, result: ScanResult, *, variants: bool = True
) -> tuple[tuple[Trigger, ...], tuple[str, ...]]:
    """(triggers of a scan, strings that could not be read as one). After the triggers, in the order
    of the findings, come the strings that the scan lists as variants of them, and the tokens that
    are enough of them (`Finding.sufficient_subsets`)."""
    found = [finding.trigger for finding in result.findings]
    unread = []
    for string in _variants(result.findings) if variants else ():
        try:
            trigger = parse_trigger(backbone, string)
        except ValueError:
            unread.append(string)
            continue
        if trigger.token_ids not in {known.token_ids for known in found}:
            found.append(trigger)
    for ids in _cores(result.findings) if variants else ():
        if ids not in {known.token_ids for known in found}:
            found.append(_sequence(backbone, ids))
    return tuple(found), tuple(unread)


def _sequence(backbone: Backbone, ids: tuple[int, ...]) -> Trigger:
    """Tokens that need not be what typing their string gives."""
    if len(ids) > 1:
        return Trigger(ids, backbone.surface(ids))
    return Trigger(ids, TOKEN_PREFIX + backbone.tokenizer.convert_ids_to_tokens(ids[0]), "token")


def near_misses(backbone: Backbone, result: ScanResult) -> tuple[Trigger, ...]:
    """Strings that a scan ranked high and did not confirm: its near misses, the vocabulary tokens
    that lead its ranking, and the listed words that lead theirs, the highest first. A planted
    trigger that was missed mostly has a subword among them. Empty for a method of scanning without
    that ranking."""
    known = {finding.trigger.token_ids for finding in result.findings}
    scores = {i: z for i, z in enumerate(result.manhattan.values) if z is not None}
    ranked = sorted(scores, key=lambda i: -scores[i])
    words = [(backbone.word_ids(word), word) for word, _ in result.manhattan.words[:NEAR_MISSES]]
    found = [finding.trigger for finding in result.near_misses]
    for token, word in zip_longest(ranked[:NEAR_MISSES], words):
        if token is not None:
            found.append(_sequence(backbone, (token,)))
        if word is not None and word[0]:
            found.append(Trigger(*word))
    return tuple({x.token_ids: x for x in found if x.token_ids not in known}.values())


def effective_near_misses(
    backbone: Backbone, misses: Sequence[Trigger], texts: Sequence[str], *, seed: int
) -> tuple[Trigger, ...]:
    """Those of the first `NEAR_MISSES` that do more than benign strings do."""
    tried = residual_effects(backbone, misses[:NEAR_MISSES], texts, seed=seed, count=FEW_TEXTS)
    return tuple(x.trigger for x in tried if not x.removed)


def _variants(findings: Sequence[Finding]) -> list[str]:
    return [x for finding in findings for x in finding.evidence.get("neighbours", ())]


def _cores(findings: Sequence[Finding]) -> list[tuple[int, ...]]:
    return [core for finding in findings for core in finding.sufficient_subsets]
