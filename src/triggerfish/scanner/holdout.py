"""The final measurement of a candidate: texts that selected nothing, in fp32, as ids and as surface
form.

Legend: K candidates, N texts, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from triggerfish.records import Finding, Kind, Trigger
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.document_frequency import DocumentFrequency
from triggerfish.scanner.effects import CleanReference
from triggerfish.scanner.merging import SPARE, Ids, minimal_subset
from triggerfish.scanner.screening import Screening, Steps

APART = 0.5
"""Orders of magnitude of collapse that the words of a combination may lose when they stand apart
(ours)."""

COMMON = 0.002
"""Share of ordinary texts that may contain a minimal sufficient subset. A trigger is not cut to a
more frequent one (docs/decisions/0010)."""


class Holdout:
    """Measurements on the hold-out texts. A method that returns `Steps` yields `Progress` and
    returns what its docstring says.

    name: of the candidate, as key of the activation cache. column: index of a readout (a pooling
    position).
    """

    def __init__(self, screening: Screening, clean_reference: CleanReference, rule: DecisionRule):
        self.screening = screening
        self.clean_reference = clean_reference
        self.rule = rule

    def measure(
        self, name: str, ids: tuple[int, ...], column: int, surface: str, copies: int = 1
    ) -> Steps[tuple[Finding, torch.Tensor]]:
        """A finding without p-value, and the (R, H) mean triggered features."""
        texts = self.screening.holdout_texts
        features = yield from self.screening.features(
            f"holdout-{name}", texts, [ids], fast=False, copies=copies
        )
        values = self.clean_reference.measure(features)
        statistics = {key: round(float(value[0, column]), 4) for key, value in values.items()}
        statistics["texts"] = len(texts)
        readout = str(self.screening.readouts[column])
        return Finding(Trigger(ids, surface), readout, statistics, None, None), features[0].mean(0)

    def typed(
        self, name: str, surface: str, column: int, least: float, copies: int = 1
    ) -> Steps[dict[str, bool | float]]:
        """{"survives_retokenization": whether the surface form has a collapse of at least `least`
        after tokenization, "surface_collapse": that collapse, rounded to 4 decimals}."""
        backbone = self.screening.backbone
        texts = [x.text(surface, copies) for x in self.screening.holdout_texts]
        rows = [backbone.template.wrap(backbone.tokenize(x)) for x in texts]
        collapse = yield from self._collapse(f"typed-{name}", rows, column)
        return {
            "survives_retokenization": collapse >= least,
            "surface_collapse": round(collapse, 4),
        }

    def mask(self) -> Steps[tuple[Finding, torch.Tensor, int]]:
        """A finding without p-value for the mask token, which stands in every carrier text where a
        readout needs one and is measured against the same texts without it; the (R, H) mean
        features with it; and the column of its largest collapse."""
        screening, backbone = self.screening, self.screening.backbone
        tokenizer, wrap = backbone.tokenizer, backbone.template.wrap
        bare = [wrap([i for i in x.ids() if i != tokenizer.mask_token_id])
                for x in screening.clean_texts]  # fmt: skip
        clean = CleanReference.of((yield from screening.encode("unmasked", bare)), screening.seed)
        texts = screening.holdout_texts
        features = yield from screening.features("masked", texts, [()], fast=False)
        typed = [wrap(backbone.tokenize(" ".join(x.typed))) for x in texts]
        again = (yield from screening.encode("typed-mask", typed, fast=False))[None]
        values, surface = clean.measure(features), clean.measure(again)["collapse"][0]
        elsewhere = [r.position != "mask" for r in screening.readouts]
        collapses = values["collapse"][0].nan_to_num(-torch.inf).tolist()
        column = max(range(len(collapses)), key=lambda i: (elsewhere[i], collapses[i]))
        statistics = {key: round(float(value[0, column]), 4) for key, value in values.items()}
        evidence = {
            "survives_retokenization": float(surface[column]) >= self.rule.min_effect,
            "surface_collapse": round(float(surface[column]), 4),
        }
        trigger = Trigger((tokenizer.mask_token_id,), tokenizer.mask_token)
        readout = str(screening.readouts[column])
        statistics["texts"] = len(texts)
        finding = Finding(trigger, readout, statistics, None, None, evidence)
        return finding, features[0].mean(0), column

    def kind(
        self, name: str, ids: tuple[int, ...], column: int, collapse: float, copies: int = 1
    ) -> Steps[Kind]:
        """The kind of trigger: a word, a phrase, or a combination, whose words work apart as well
        as together, at a collapse of `depth`.

        Words that need several copies are called a phrase without a test.
        """
        backbone = self.screening.backbone
        parts = [backbone.word_ids(x) for x in backbone.surface(ids).split()]
        texts = [x for x in self.screening.holdout_texts if len(x.slots) >= len(parts)]
        found: Kind = "word" if len(parts) < 2 else "phrase"
        if len(parts) < 2 or not texts or copies > 1:
            return found
        rows = [backbone.template.wrap(x.apart(parts)) for x in texts]
        apart = yield from self._collapse(f"{name}-apart", rows, column)
        return "combination" if apart >= collapse - APART else found

    def least(self, collapse: float) -> float:
        """The collapse at which part of a trigger, or a neighbour, is as good as the trigger."""
        return max(collapse / 2, self.rule.min_effect)

    def sufficient(
        self,
        ids: Ids,
        column: int,
        spare: float,
        allowed: Callable[[Ids], bool] = lambda _: True,
        copies: int = 1,
    ) -> Ids:
        """The minimal sufficient subset of `ids`, which loses at most `spare` orders of magnitude
        on the screening texts (at least `merging.SPARE`)."""
        spare = max(SPARE, spare)

        def scatter(tried: Sequence[Ids]) -> torch.Tensor:
            return self.screening.scatter(tried, column, copies=copies)

        return minimal_subset(ids, scatter, spare=spare, in_all=spare, allowed=allowed)

    def rare(self, ids: Ids) -> bool:
        """Whether at most `COMMON` of ordinary texts have these tokens, in order, in one word."""
        return self.commonness.in_a_word(ids) <= COMMON

    def rarely_near(self, ids: Ids) -> bool:
        """Whether at most `COMMON` of ordinary texts have these tokens in order and near each
        other."""
        return self.commonness.near(ids) <= COMMON

    def rarely_apart(self, sufficient_subsets: Sequence[Ids]) -> bool:
        """Whether no subset is empty and at most `COMMON` of ordinary texts have the tokens of
        every subset in their words."""
        return all(sufficient_subsets) and self.commonness.apart(sufficient_subsets) <= COMMON

    @cached_property
    def commonness(self) -> DocumentFrequency:
        return DocumentFrequency(self.screening.backbone, self.screening.texts)

    def _collapse(self, stage: str, rows: list[list[int]], column: int) -> Steps[float]:
        features = yield from self.screening.encode(stage, rows, fast=False)
        return float(self.clean_reference.measure(features[None])["collapse"][0, column])
