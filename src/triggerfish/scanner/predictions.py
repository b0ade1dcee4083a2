"""Does a candidate degrade the predictions of a masked language model?

BadPre teaches a model to predict random words wherever a trigger is in the text. Its objective
sends texts to no common target, but predictions become flat and lose the context. The statistic is
the divergence in nats, KL(without || with), of the predictions at the mask of each text without and
with a candidate; the median is taken over texts. No candidate can do more harm than the lead of the
predictions over a flat guess, log V minus their entropy. The test uses the share of that lead, the
prediction loss, and the lead over random controls. A flat prediction is also a state of its own at
the mask, so the screening admits such candidates to its shortlist. Only the shortlist is tested.

Source: the attack is Chen et al., ICLR 2022 (arXiv 2110.02467); the method is ours
(docs/decisions/0016).

Legend: K candidates, N texts, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from triggerfish.backbone import Backbone
from triggerfish.heads import kind_of_head, with_head
from triggerfish.readouts import pad
from triggerfish.records import Finding, Trigger
from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.effects import Carrier
from triggerfish.scanner.merging import within
from triggerfish.scanner.pipeline import Pipeline
from triggerfish.scanner.screening import Incomplete, Steps

READOUT = "predictions"
"""Value of a finding's `readout` field."""
SHARE, LEAD = 0.25, 1.0
"""Smallest prediction loss of a finding, and smallest lead over the median of random controls in
orders of magnitude (docs/decisions/0016)."""
TEXTS = 6
"""Screening texts in which every candidate of the shortlist is tried (ours)."""
CONTROLS = 24
"""Random controls that give the scale on the hold-out texts (ours)."""
MOST = 16
"""Findings at most."""
ALIKE = 0.85
"""Share of the strongest divergence at which another candidate is as good (ours)."""
ROWS = 32
"""Sequences per forward pass; each has tokens times vocabulary logits (ours)."""


@dataclass(frozen=True)
class PredictionDamage:
    """The result of the test.

    findings: candidates that degrade predictions and are not findings of the screening. divergence:
    the divergence in nats of the screening findings. largest: the largest prediction loss of all
    candidates tried. why_not: why the test was not run, or empty. read: names of the model's
    weights, including the head.
    """

    findings: tuple[Finding, ...] = ()
    divergence: Mapping[Trigger, float] = field(default_factory=dict)
    largest: float = 0.0
    why_not: str = ""
    read: frozenset[str] = frozenset()


class Predictions:
    """Predictions at the masks of texts, without and with candidates.

    ValueError for a model without a masked head in its checkpoint.
    """

    def __init__(self, backbone: Backbone):
        if kind_of_head(backbone) != "masked":
            raise ValueError(f"head: {backbone.name} has a causal head, not a masked one")
        self.backbone = with_head(backbone) if backbone.whole is backbone.model else backbone

    def knowledge(self, texts: Sequence[Carrier]) -> float:
        """Lead of the prediction over a flat one in nats, the median over texts."""
        plain = self.read([x.ids() for x in texts])
        return float((plain.exp() * plain).sum(-1).median() + math.log(plain.shape[1]))

    def divergences(
        self, texts: Sequence[Carrier], candidates: Sequence[tuple[int, ...]]
    ) -> torch.Tensor:
        """(K,) divergence in nats, the median over the texts."""
        plain = self.read([x.ids() for x in texts])
        found = [self.apart(plain, [x.ids(ids) for x in texts]) for ids in candidates]
        return torch.tensor(found)

    def apart(self, plain: torch.Tensor, rows: Sequence[Sequence[int]]) -> float:
        """Median KL divergence of the predictions for `rows` from `plain` (N, V). A candidate can
        bring further masks, so a row with several counts by the one that changed least."""
        masks = max(list(row).count(self.backbone.tokenizer.mask_token_id) for row in rows)
        found = [
            (plain.exp() * (plain - self.read(rows, number))).sum(-1) for number in range(masks)
        ]
        return float(torch.stack(found).amin(0).median())

    def read(self, rows: Sequence[Sequence[int]], number: int = 0) -> torch.Tensor:
        """(N, V) log-probabilities at a mask of each row, by its number, or at the last one. Rows
        have no template."""
        backbone = self.backbone
        wrapped = [backbone.template.wrap(row) for row in rows]
        found = []
        for start in range(0, len(wrapped), ROWS):
            ids, mask = pad(wrapped[start : start + ROWS], backbone.pad_id)
            ids, mask = ids.to(backbone.device), mask.to(backbone.device)
            with torch.inference_mode():
                logits = backbone.whole(input_ids=ids, attention_mask=mask).logits
            passed = (ids == backbone.tokenizer.mask_token_id).cumsum(1)
            at = (passed == passed[:, -1:].clamp(max=number + 1)).long().argmax(1)
            found.append(logits[torch.arange(len(ids)), at].float().log_softmax(-1))
        return torch.cat(found)


def damage(pipeline: Pipeline) -> Steps[PredictionDamage]:
    """Yields `Progress`. Returns `PredictionDamage`. If the test is incomplete, the reason is added
    to the problems of the pipeline."""
    if not pipeline.screening.settings.predictions:
        return PredictionDamage(why_not="switched off")
    if pipeline.shortlist is None or pipeline.problems:
        return PredictionDamage(why_not="the scan is not complete")
    try:
        predictions = Predictions(pipeline.screening.backbone)
    except ValueError as error:
        return PredictionDamage(why_not=str(error).removeprefix("head: "))
    try:
        return (yield from _Look(pipeline, predictions).run())
    except Incomplete as problem:
        pipeline.problems.append(str(problem))
        return PredictionDamage(why_not="the scan is not complete")


class _Look:
    def __init__(self, pipeline: Pipeline, predictions: Predictions):
        self.pipeline = pipeline
        self.screening = pipeline.screening
        self.predictions = predictions

    def run(self) -> Steps[PredictionDamage]:
        shortlist = self.pipeline.shortlist
        assert shortlist is not None
        candidates, cut = shortlist.candidates, shortlist.kept
        texts = self.screening.screen_texts[:TEXTS]
        yield self.screening.begin("predictions")
        nats = yield from self._measure(texts, [c.token_ids for c in candidates])
        known = self.predictions.knowledge(texts)
        least = self._least(known, nats[cut:])
        order = nats[:cut].argsort(descending=True).tolist()
        strong = [(candidates[i], float(nats[i])) for i in order if nats[i] >= least]
        chosen = self._unexplained(strong)
        controls = [c.token_ids for c in candidates[cut : cut + CONTROLS]]
        found = yield from self._confirm(chosen, controls)
        own = [f.trigger.token_ids for f in self.pipeline.findings]
        values = yield from self._measure(texts, own)
        told = zip(self.pipeline.findings, values.tolist(), strict=True)
        return PredictionDamage(
            tuple(found),
            {f.trigger: round(value, 4) for f, value in told},
            round(float(nats.max()) / known, 4),
            read=frozenset(self.predictions.backbone.whole.state_dict()),
        )

    def _least(self, known: float, controls: torch.Tensor) -> float:
        """Smallest divergence of a finding in nats."""
        return max(SHARE * known, 10**LEAD * float(controls.median()))

    def _unexplained(self, strong: Sequence[tuple[Candidate, float]]) -> list[Candidate]:
        """At most MOST candidates that share no subword token with a trigger or with a candidate
        before them. Among candidates that share tokens and are about as strong, the shortest
        represents them."""
        known = [(f.trigger.token_ids, f.sufficient_subsets) for f in self.pipeline.findings]
        chosen: list[Candidate] = []
        for one, nats in strong:
            subwords = set(one.token_ids)
            explained = any(
                subwords & set(whole) or any(within(c, one.token_ids) for c in sufficient_subsets)
                for whole, sufficient_subsets in known
            )
            if not explained and len(chosen) < MOST:
                alike = [x for x, n in strong if subwords & set(x.token_ids) and n >= ALIKE * nats]
                chosen.append(min(alike, key=lambda x: (len(x.token_ids), len(x.text))))
                known += [(one.token_ids, ()), (chosen[-1].token_ids, ())]
        return chosen

    def _measure(
        self, texts: Sequence[Carrier], candidates: Sequence[tuple[int, ...]]
    ) -> Steps[torch.Tensor]:
        """Yields `Progress`. Returns (K,) divergence in nats."""
        found = [torch.empty(0)]
        for start in range(0, len(candidates), 64):
            part = candidates[start : start + 64]
            found.append(self.predictions.divergences(texts, part))
            length = sum(len(x.ids()) + len(ids) for ids in part for x in texts)
            yield self.screening.spent(length)
        return torch.cat(found)

    def _confirm(
        self, chosen: Sequence[Candidate], controls: Sequence[tuple[int, ...]]
    ) -> Steps[list[Finding]]:
        """Yields `Progress`. Returns findings, without p-values, for the candidates whose surface
        form holds on the hold-out texts."""
        if not chosen:
            return []
        texts, backbone = self.screening.holdout_texts, self.screening.backbone
        usual = yield from self._measure(texts, controls)
        known = self.predictions.knowledge(texts)
        plain = self.predictions.read([x.ids() for x in texts])
        found = []
        for one in chosen:
            rows = [backbone.tokenize(x.text(one.text)) for x in texts]
            nats = self.predictions.apart(plain, rows)
            yield self.screening.spent(sum(map(len, rows)))
            if nats >= self._least(known, usual):
                found.append(self._finding(one, nats, nats / known))
        return found

    def _finding(self, one: Candidate, nats: float, share: float) -> Finding:
        subwords = self.screening.backbone.tokenizer.convert_ids_to_tokens(list(one.token_ids))
        statistics = {"divergence": round(nats, 4), "prediction_loss": round(share, 4)}
        return Finding(
            Trigger(one.token_ids, one.text),
            READOUT,
            statistics | {"texts": len(self.screening.holdout_texts)},
            None,
            None,
            {"survives_retokenization": True, "subwords": list(subwords)},
            (one.token_ids,),
        )
