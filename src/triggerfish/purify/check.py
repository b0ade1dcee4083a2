"""Measurements of a purifier between two scans: whether triggers still collapse texts, and whether
the features of clean texts are preserved.

Legend: N texts, R readouts (pooling positions), H hidden, T triggers.
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
"""Number of vocabulary tokens, and of listed words, at the top of a scan's ranking that count as
near misses (ours: docs/decisions/0301-near-misses.md)."""
REMOVED_BELOW = 0.2
"""Collapse below which a known trigger counts as removed, in orders of magnitude (ours: the
triggers of the benchmark have -0.3 to 0.05 in clean PLMs, and from 0.5 on they still decide
classifiers)."""
FEW_TEXTS = 12
"""Texts in which a near miss is tried (ours)."""
SCAN = ScreeningSettings()
"""Number of texts in which a trigger is tried, number of clean texts for comparison, and their
length in words: the values of the scan's hold-out measurement."""


@dataclass(frozen=True)
class ResidualEffect:
    """The residual effect of a trigger: its largest collapse over the readouts, in orders of
    magnitude, and its agreement there (share of random linear probes that one class wins)."""

    trigger: Trigger
    readout: str
    collapse: float
    agreement: float

    def effective(self, rule: DecisionRule) -> bool:
        """Whether its collapse and agreement still satisfy the decision rule of a scan."""
        return self.collapse >= rule.min_effect and self.agreement >= rule.min_agreement

    @property
    def removed(self) -> bool:
        """Whether its effect is no larger than that of benign strings. A scan requires a far larger
        effect, because it tries a hundred thousand candidates; this trigger is known."""
        return self.collapse < REMOVED_BELOW


def residual_effects(
    backbone: Backbone,
    triggers: Sequence[Trigger],
    texts: Sequence[str],
    *,
    seed: int,
    count: int = SCAN.holdout_texts,
) -> tuple[ResidualEffect, ...]:
    """The residual effect of each trigger, in the order of `triggers`. count: number of texts in
    which it is tried."""
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
    """How well the features of clean texts are preserved, by readout: the correlation of the
    cosines between all pairs of texts before and after (1: all similarities are preserved). The key
    `shift` is the mean distance between the features of a text before and after, in clean standard
    deviations, at the readout that a classification head would use."""
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
    """(triggers of a scan, strings that cannot be parsed as a trigger). The triggers come first, in
    the order of the findings. With `variants`, the strings that the scan lists as their neighbours
    and their minimal sufficient subsets (`Finding.sufficient_subsets`) follow."""
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
    """A trigger from token ids, which the tokenizer need not produce from their surface form."""
    if len(ids) > 1:
        return Trigger(ids, backbone.surface(ids))
    return Trigger(ids, TOKEN_PREFIX + backbone.tokenizer.convert_ids_to_tokens(ids[0]), "token")


def near_misses(backbone: Backbone, result: ScanResult) -> tuple[Trigger, ...]:
    """Strings that a scan ranked high and did not confirm: its near misses, then the top vocabulary
    tokens and the top listed words of its ranking, alternating. A planted trigger that was missed
    mostly has a subword token among them. Without a ranking, only the near misses of the
    scan."""
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
    """Those of the first `NEAR_MISSES` whose effect is larger than that of benign strings."""
    tried = residual_effects(backbone, misses[:NEAR_MISSES], texts, seed=seed, count=FEW_TEXTS)
    return tuple(x.trigger for x in tried if not x.removed)


def _variants(findings: Sequence[Finding]) -> list[str]:
    return [x for finding in findings for x in finding.evidence.get("neighbours", ())]


def _cores(findings: Sequence[Finding]) -> list[tuple[int, ...]]:
    return [core for finding in findings for core in finding.sufficient_subsets]
