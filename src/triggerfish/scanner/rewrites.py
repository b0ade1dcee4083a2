"""Is a way of writing a trigger? Texts are rewritten (`rewrite_bank.py`), and the statistic is that
of a word: how much closer together they lie than close clean texts do.

Any frame draws texts together, and any damage makes them alike, without a backdoor. So each
rewriting has controls of its own: the same rewritten texts, in which every token that the rewriting
brought in is exchanged for another, by a random table that is the same for all texts. Length,
places, what is left of a text and how often what repeats stay; only the tokens differ. And half of
each text is left as it was, once the first and once the second: damage does half, a trigger that
listens decides everything. A planted style collapses both, and its controls collapse neither.

The method is ours. A finding must be deeper than each of its controls by as much as a trigger must
be deeper than close clean texts, in both halves, significant against them (Student's t for one
further draw, corrected for all rewritings and readouts), and as strong, on whole texts, as a word
must be.

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
"""Texts and controls of the first look at each rewriting (ours)."""
CONTROLS = 16
"""Controls on the hold-out texts; half of them take their tokens from the vocabulary, half from
ordinary texts (ours)."""
LONGEST = 160
"""Tokens of a rewritten text at most; some rewritings make many of a word (ours)."""
SCATTER = 0.1
"""Decades that controls are taken to differ by at least (ours)."""

Part = Literal["whole", "front", "back"]
HALVES: tuple[Part, Part] = ("front", "back")
Rows = list[list[int]]


@dataclass(frozen=True)
class RewriteResult:
    """found: those that pass, deepest first; examined, normalised: how many rewritings the
    tokenizer sees, and of how many it makes ordinary text."""

    found: tuple[Rewrite, ...]
    examined: int
    normalised: int


def find_rewrites(
    sweep: Screening,
    yardstick: CleanReference,
    rule: DecisionRule,
    findings: Sequence[Finding],
    bank: Sequence[RewriteRule] = BANK,
) -> Steps[RewriteResult]:
    """Yields `Progress`; returns `RewriteResult`. findings: what the screening found; a rewriting
    that writes one of them into the texts is explained by it."""
    bench = RewriteTest(sweep, yardstick, bank)
    texts = sweep.screen_texts[:FIRST_TEXTS]
    seen = [style for style in bank if bench.changes(style, texts)]
    finalists = []
    for style in seen:
        gap, _ = yield from bench.compare(style, texts, FIRST_CONTROLS)
        if gap.max() >= rule.min_effect / 2:
            finalists.append(style)
    found: list[Rewrite] = []
    for style in finalists:
        one = yield from bench.judge(style, rule, len(seen) * len(sweep.readouts))
        if one is not None and not bench.explained(style, findings):
            found.append(one)
    found.sort(key=lambda x: -x.statistics["collapse"])
    return RewriteResult(tuple(found), len(seen), len(bank) - len(seen))


class RewriteTest:
    """Rewritten texts of one sweep, and their controls. bank: every style that it will be asked
    about."""

    def __init__(
        self, sweep: Screening, yardstick: CleanReference, bank: Sequence[RewriteRule] = BANK
    ):
        self.bank = list(bank)
        self.sweep = sweep
        self.yardstick = yardstick
        self.vocabulary = sweep.backbone.vocabulary
        texts = [*sweep.screen_texts, *sweep.clean_texts]
        self.usual = sorted({i for x in texts for i in x.ids()} - sweep.backbone.special_ids)

    def rewritten(self, style: RewriteRule, text: Carrier, part: Part = "whole") -> str:
        """The text in that style, or half of it; a mask token stays what it is, and about where it
        is."""
        mask = self.sweep.backbone.tokenizer.mask_token
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
        backbone = self.sweep.backbone
        longest = min(LONGEST, backbone.max_tokens)
        return [backbone.tokenize(self.rewritten(style, x, part), longest) for x in texts]

    def changes(self, style: RewriteRule, texts: Sequence[Carrier]) -> bool:
        """Whether the tokenizer sees tokens that the plain texts do not have."""
        rows = self.rows(style, texts)
        return any(self._new(row, text) for row, text in zip(rows, texts, strict=True))

    def _new(self, row: Sequence[int], text: Carrier) -> set[int]:
        return set(row) - set(text.ids()) - {self.sweep.backbone.tokenizer.mask_token_id}

    def relabelled(self, rows: Rows, texts: Sequence[Carrier], count: int, seed: str) -> list[Rows]:
        """`count` copies of the rows with other tokens for those that the rewriting brought in."""
        new = [self._new(row, text) for row, text in zip(rows, texts, strict=True)]
        exchanged = sorted(set().union(*new))
        copies = []
        for number in range(count):
            rng = random.Random(f"{self.sweep.seed}/{seed}/{number}")
            pool = self.usual if number % 2 else self.vocabulary
            draw = rng.sample if len(pool) >= len(exchanged) else rng.choices
            table = dict(zip(exchanged, draw(pool, k=len(exchanged)), strict=True))
            copies.append([[table[i] if i in own else i for i in row]
                           for row, own in zip(rows, new, strict=True)])  # fmt: skip
        return copies

    def measure(
        self, style: RewriteRule, texts: Sequence[Carrier], controls: int, part: Part
    ) -> Steps[dict[str, torch.Tensor]]:
        """Yields `Progress`; returns the statistics, each (1 + controls, R), the style's own
        first."""
        rows = self.rows(style, texts, part)
        stage = f"{part}-{len(texts)}-{style.name}"
        copies = [rows, *self.relabelled(rows, texts, controls, stage)]
        wrap = self.sweep.backbone.template.wrap
        sequences = [wrap(row) for copy in copies for row in copy]
        name = f"style-{part}-{len(texts)}-{self.bank.index(style)}"
        features = yield from self.sweep.encode(name, sequences, fast=False)
        values = self.yardstick.measure(features.unflatten(0, (len(copies), len(rows))))
        return {name: value.cpu() for name, value in values.items()}

    def compare(
        self, style: RewriteRule, texts: Sequence[Carrier], controls: int
    ) -> Steps[tuple[torch.Tensor, torch.Tensor]]:
        """Yields `Progress`; returns, of the half that has less of it, (R,) decades by which the
        style is deeper than close clean texts and than every control, and (R,) the chance of one
        more such control."""
        gaps, chances = [], []
        for part in HALVES:
            depth = (yield from self.measure(style, texts, controls, part))["collapse"]
            gaps.append(torch.minimum(depth[0], depth[0] - depth[1:].max(0).values))
            chances.append(significance(depth[0], depth[1:]))
        return torch.stack(gaps).min(0).values, torch.stack(chances).max(0).values

    def judge(self, style: RewriteRule, rule: DecisionRule, tests: int) -> Steps[Rewrite | None]:
        """Yields `Progress`; returns the record of a style that passes, else None."""
        texts = self.sweep.holdout_texts
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
        readout = str(self.sweep.readouts[column])
        return Rewrite(style.name, example, readout, statistics, p_value)

    def explained(self, style: RewriteRule, findings: Sequence[Finding]) -> bool:
        """Whether most rewritten texts, and not the plain ones, hold what is enough of a
        trigger."""
        texts = self.sweep.holdout_texts
        cores = [
            core for f in findings for core in (f.sufficient_subsets or (f.trigger.token_ids,))
        ]
        held = [
            any(within(core, tuple(row)) and not within(core, tuple(x.ids())) for core in cores)
            for row, x in zip(self.rows(style, texts), texts, strict=True)
        ]
        return sum(held) > len(held) / 2


def significance(own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(R,) chance that one more control is as deep as `own` (R,), by the controls (K, R)."""
    spread = others.std(0).clamp(min=SCATTER) * (1 + 1 / len(others)) ** 0.5
    tail = student.sf(((own - others.mean(0)) / spread).numpy(), len(others) - 1)
    return torch.from_numpy(tail)
