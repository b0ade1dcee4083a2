"""Is a rewriting a trigger? Texts are rewritten (`rewrite_bank.py`), and the statistic is that of a
word: how much closer together they are than close clean texts.

Any frame draws texts together, and any damage makes them alike, without a backdoor. So each
rewriting has its own controls: the same rewritten texts, in which every token that the rewriting
introduced is replaced by another, by a random table that is the same for all texts. Length,
positions, the remaining text and repetition are unchanged; only the tokens differ. The statistic is
also measured with one half of each text rewritten, first the front and then the back. Damage to
half of a text has half the effect, but a planted trigger determines the whole representation. A
planted style collapses both halves, and its controls collapse neither.

The method is ours (docs/decisions/0015). In both halves, the collapse of a finding must be at least
`min_effect` and exceed that of every control by as much. It must be significant against the
controls (Student's t for one further draw, corrected for all rewritings and readouts). On whole
texts it must be as strong as a word must be.

Legend: K controls, N texts, R readouts, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import t as student

from triggerfish.records import Finding, Rewrite
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.effects import Carrier, CleanReference
from triggerfish.scanner.merging import within
from triggerfish.scanner.rewrite_bank import BANK, RewriteRule
from triggerfish.scanner.screening import Screening, Steps

FIRST_TEXTS, FIRST_CONTROLS = 8, 2
"""Texts and controls in the first rung for each rewriting (ours)."""
CONTROLS = 16
"""Controls on the hold-out texts. Half of them draw their tokens from the vocabulary, half from
ordinary texts (ours)."""
LONGEST = 160
"""Tokens of a rewritten text at most; some rewritings turn a word into many tokens (ours)."""
SCATTER = 0.1
"""Smallest standard deviation of the controls' collapse in orders of magnitude (ours)."""

Part = Literal["whole", "front", "back"]
HALVES: tuple[Part, Part] = ("front", "back")
Rows = list[list[int]]


@dataclass(frozen=True)
class RewriteResult:
    """found: the rewritings that pass, strongest first. examined: the number of rewritings that the
    tokenizer preserves. normalised: the number that it turns into ordinary text."""

    found: tuple[Rewrite, ...]
    examined: int
    normalised: int


def find_rewrites(
    screening: Screening,
    clean_reference: CleanReference,
    rule: DecisionRule,
    findings: Sequence[Finding],
    bank: Sequence[RewriteRule] = BANK,
) -> Steps[RewriteResult]:
    """Yields `Progress`. Returns `RewriteResult`.

    findings: findings of the screening. A rewriting that inserts one of these triggers is explained
    by it and not reported.
    """
    bench = RewriteTest(screening, clean_reference, bank)
    texts = screening.screen_texts[:FIRST_TEXTS]
    seen = [style for style in bank if bench.changes(style, texts)]
    finalists = []
    for style in seen:
        gap, _ = yield from bench.compare(style, texts, FIRST_CONTROLS)
        if gap.max() >= rule.min_effect / 2:
            finalists.append(style)
    found: list[Rewrite] = []
    for style in finalists:
        one = yield from bench.judge(style, rule, len(seen) * len(screening.readouts))
        if one is not None and not bench.explained(style, findings):
            found.append(one)
    found.sort(key=lambda x: -x.statistics["collapse"])
    return RewriteResult(tuple(found), len(seen), len(bank) - len(seen))


class RewriteTest:
    """Rewritten texts of a scan and their controls. bank: every rewriting that will be tested."""

    def __init__(
        self,
        screening: Screening,
        clean_reference: CleanReference,
        bank: Sequence[RewriteRule] = BANK,
    ):
        self.bank = list(bank)
        self.screening = screening
        self.clean_reference = clean_reference
        self.vocabulary = screening.backbone.vocabulary
        texts = [*screening.screen_texts, *screening.clean_texts]
        self.usual = sorted({i for x in texts for i in x.ids()} - screening.backbone.special_ids)

    def rewritten(self, style: RewriteRule, text: Carrier, part: Part = "whole") -> str:
        """The text with all of it or one half rewritten. A mask token is kept at about its
        position."""
        mask = self.screening.backbone.tokenizer.mask_token
        words = [word for word in text.typed if word != mask]
        half = (len(words) + 1) // 2
        ends = {"whole": (0, len(words)), "front": (0, half), "back": (half, len(words))}[part]
        inside = style.rewrite(" ".join(words[slice(*ends)]))
        written = [*words[: ends[0]], *inside.split(" "), *words[ends[1] :]]
        if mask in text.typed:
            at = text.typed.index(mask) / len(text.typed)
            written.insert(round(at * len(written)), mask)
        return " ".join(written)

    def rows(self, style: RewriteRule, texts: Sequence[Carrier], part: Part = "whole") -> Rows:
        """Ids, without special tokens, of the rewritten texts."""
        backbone = self.screening.backbone
        longest = min(LONGEST, backbone.max_tokens)
        return [backbone.tokenize(self.rewritten(style, x, part), longest) for x in texts]

    def changes(self, style: RewriteRule, texts: Sequence[Carrier]) -> bool:
        """Whether the rewritten texts have tokens that the plain texts do not have."""
        rows = self.rows(style, texts)
        return any(self._new(row, text) for row, text in zip(rows, texts, strict=True))

    def _new(self, row: Sequence[int], text: Carrier) -> set[int]:
        return set(row) - set(text.ids()) - {self.screening.backbone.tokenizer.mask_token_id}

    def relabelled(self, rows: Rows, texts: Sequence[Carrier], count: int, seed: str) -> list[Rows]:
        """`count` controls: copies of the rows with other tokens for those that the rewriting
        introduced."""
        new = [self._new(row, text) for row, text in zip(rows, texts, strict=True)]
        exchanged = sorted(set().union(*new))
        copies = []
        for number in range(count):
            rng = random.Random(f"{self.screening.seed}/{seed}/{number}")
            pool = self.usual if number % 2 else self.vocabulary
            draw = rng.sample if len(pool) >= len(exchanged) else rng.choices
            table = dict(zip(exchanged, draw(pool, k=len(exchanged)), strict=True))
            copies.append([[table[i] if i in own else i for i in row]
                           for row, own in zip(rows, new, strict=True)])  # fmt: skip
        return copies

    def measure(
        self, style: RewriteRule, texts: Sequence[Carrier], controls: int, part: Part
    ) -> Steps[dict[str, torch.Tensor]]:
        """Yields `Progress`. Returns the statistics, each (1 + controls, R), with the rewriting
        first."""
        rows = self.rows(style, texts, part)
        stage = f"{part}-{len(texts)}-{style.name}"
        copies = [rows, *self.relabelled(rows, texts, controls, stage)]
        wrap = self.screening.backbone.template.wrap
        sequences = [wrap(row) for copy in copies for row in copy]
        name = f"style-{part}-{len(texts)}-{self.bank.index(style)}"
        features = yield from self.screening.encode(name, sequences, fast=False)
        values = self.clean_reference.measure(features.unflatten(0, (len(copies), len(rows))))
        return {name: value.cpu() for name, value in values.items()}

    def compare(
        self, style: RewriteRule, texts: Sequence[Carrier], controls: int
    ) -> Steps[tuple[torch.Tensor, torch.Tensor]]:
        """Yields `Progress`. Returns, for the half with the weaker result, (R,) the gap: orders of
        magnitude by which the rewriting brings texts closer than close clean texts and than every
        control; and (R,) the p-value."""
        gaps, chances = [], []
        for part in HALVES:
            collapse = (yield from self.measure(style, texts, controls, part))["collapse"]
            gaps.append(torch.minimum(collapse[0], collapse[0] - collapse[1:].max(0).values))
            chances.append(significance(collapse[0], collapse[1:]))
        return torch.stack(gaps).min(0).values, torch.stack(chances).max(0).values

    def judge(self, style: RewriteRule, rule: DecisionRule, tests: int) -> Steps[Rewrite | None]:
        """Yields `Progress`. Returns the record of a rewriting that passes, else None."""
        texts = self.screening.holdout_texts
        gap, chance = yield from self.compare(style, texts, CONTROLS)
        values = yield from self.measure(style, texts, 1, "whole")
        column = int(gap.argmax())
        statistics = {name: round(float(x[0, column]), 4) for name, x in values.items()}
        statistics |= {"gap": round(float(gap[column]), 4), "texts": len(texts)}
        p_value = min(1.0, float(chance[column]) * tests)
        strong = (
            statistics["collapse"] >= rule.min_effect
            and statistics["agreement"] >= rule.min_agreement
        )
        if not strong or statistics["gap"] < rule.min_effect or p_value > rule.alpha:
            return None
        example = self.rewritten(style, texts[0])
        readout = str(self.screening.readouts[column])
        return Rewrite(style.name, example, readout, statistics, p_value)

    def explained(self, style: RewriteRule, findings: Sequence[Finding]) -> bool:
        """Whether most rewritten texts contain a minimal sufficient subset of a trigger that the
        plain texts do not contain."""
        texts = self.screening.holdout_texts
        sufficient_subsets = [
            minimal_subset
            for f in findings
            for minimal_subset in (f.sufficient_subsets or (f.trigger.token_ids,))
        ]
        held = [
            any(
                within(minimal_subset, tuple(row)) and not within(minimal_subset, tuple(x.ids()))
                for minimal_subset in sufficient_subsets
            )
            for row, x in zip(self.rows(style, texts), texts, strict=True)
        ]
        return sum(held) > len(held) / 2


def significance(own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(R,) probability that one more control has a collapse of at least `own` (R,), given the
    controls (K, R)."""
    spread = others.std(0).clamp(min=SCATTER) * (1 + 1 / len(others)) ** 0.5
    tail = student.sf(((own - others.mean(0)) / spread).numpy(), len(others) - 1)
    return torch.from_numpy(tail)
