"""The search for phrases and combinations: mine targets that the sweep has not explained, ask which
tokens lead there, try them together, name the words.

It starts where the sweep ends: what the sweep found repels the mining, and the texts are the
sweep's screening texts, so that the hold-out stays unseen. What one round finds repels the next.
Words are sought only for points that are evidence of a backdoor.

Legend: K prompts, P places, E embedding, R readouts, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from triggerfish.records import Target
from triggerfish.scanning.fold import Ids
from triggerfish.scanning.grow import scatter
from triggerfish.scanning.measure import Context, Yardstick, contexts
from triggerfish.scanning.search.existence import Existence, record
from triggerfish.scanning.search.mining import Mined, MineSettings, Mining
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.search.swapping import Swapping, SwapSettings
from triggerfish.scanning.sweep import Progress, Sweep

NAMED_IN, SHORT = 6, 8
"""Short texts in which sequences are cut to what they need and completed, and words in them
(ours)."""


@dataclass(frozen=True)
class PhraseSettings:
    readouts: int = 1
    """Readouts searched, the primary one first (ours)."""
    rounds: int = 3
    """Minings; each is repelled by what those before it have found (ours)."""
    outside: float = 1.2
    """Distance from the subspace of clean texts, in those of clean texts, from which on a point may
    be planted: a model fine-tuned on a task sends texts to points inside (ours)."""
    min_depth: float = 1.0
    """Decades of collapse on the hold-out that a searched phrase must have (ours)."""
    attempts: int = 3
    """Searches for the words of one target at most, each from other tokens (ours)."""
    named: int = 3
    """Sequences of a target that words are sought for, the deepest first; the deepest words are
    reported (ours)."""
    mining: MineSettings = MineSettings()
    swapping: SwapSettings = SwapSettings()
    existence: Existence = Existence()


class PhraseSearch:
    """One model's search. `run` is a generator: it yields `Progress` and returns phrases.

    tried: sequences tried together so far.
    """

    def __init__(self, sweep: Sweep, yardstick: Yardstick, settings: PhraseSettings):
        self.sweep = sweep
        self.yardstick = yardstick
        self.settings = settings
        self.space = Space(sweep.backbone)
        words = [word.token_ids for word in sweep.words if word.text in _usual(word.text)]
        self.naming = Naming(sweep.backbone, words)
        self.short = [x.short(SHORT) for x in sweep.screen_texts]
        self.generator = torch.Generator().manual_seed(sweep.seed)
        mining = settings.mining
        documents = sweep.screen_documents
        texts = contexts(
            sweep.backbone, documents, words=mining.words, count=mining.pool, seed=sweep.seed
        )
        self.mining = Mining(sweep, self.space, yardstick, texts, sweep.holdout_texts, mining)
        self.mined: list[Mined] = []
        self.evidence: list[Mined] = []
        self.settled: list[Mined] = []
        self.tried = 0

    def run(self, known: Sequence[tuple[int, torch.Tensor]]) -> Iterator[Progress]:
        """known: (column, (H,) point) of what has been found. Returns (ids, column) pairs whose
        depth on the screening texts is at least half of what a finding needs."""
        known = list(known)
        count = min(self.settings.readouts, len(self.sweep.readouts))
        columns = torch.arange(count, device=self.sweep.backbone.device)
        columns = columns.repeat_interleave(self.settings.mining.restarts)
        for _ in range(self.settings.rounds):
            deepest: dict[int, Mined] = {}
            for target in (yield from self.mining.run(columns, known)):
                known.append((target.column, target.point))
                if target.outside >= self.settings.outside:
                    deepest.setdefault(target.column, target)
            self.mined += deepest.values()
        self.evidence = [x for x in self.mined if self.settings.existence.holds(x, self.mined)]
        if not self.evidence:
            return []
        self.settled = yield from self.mining.settle(self.evidence)
        phrases: list[tuple[Ids, int]] = []
        sought: list[tuple[int, torch.Tensor]] = []
        for target in self.settled:
            if not self._known(target, sought):
                sought.append((target.column, target.point))
                ids = yield from self._reach(target)
                if ids and (ids, target.column) not in phrases:
                    phrases.append((ids, target.column))
        return phrases

    def unexplained(self, found: Sequence[tuple[int, torch.Tensor]]) -> list[Target]:
        """The mined points that are evidence of a backdoor without a trigger. found: (column, (H,)
        point) of the phrases that passed."""
        left = [
            target
            for target, settled in zip(self.evidence, self.settled, strict=True)
            if not (self._known(target, found) or self._known(settled, found))
        ]
        return [record(x, str(self.sweep.readouts[x.column]), self.mined) for x in left]

    def _known(self, target: Mined, points: Sequence[tuple[int, torch.Tensor]]) -> bool:
        """Whether one of (column, (H,) point) pairs is the target."""
        origin = self.yardstick.mean[target.column]
        way = normalize(target.point - origin, dim=-1)
        same = self.settings.mining.same
        return any(
            float(way @ normalize(point - origin, dim=-1)) >= same
            for column, point in points
            if column == target.column
        )

    def _reach(self, target: Mined) -> Iterator[Progress]:
        """Returns the phrase that sends texts to the target most closely, or ()."""
        deepest: tuple[float, Ids] = (-math.inf, ())
        for _ in range(self.settings.attempts):
            sequences = yield from self._swapped(target)
            values = self._spread(sequences, target.column, self.short)
            for i in values.argsort().tolist()[: self.settings.named]:
                named = yield from self._named(sequences[i], target.column)
                deepest = max(deepest, named)
            if deepest[0] >= self.settings.min_depth:
                break
        return deepest[1] if deepest[0] >= self.settings.min_depth / 2 else ()

    def _swapped(self, target: Mined) -> Iterator[Progress]:
        """Returns sequences that lead towards the target."""
        swapping = self.settings.swapping
        texts = [x.short(swapping.words) for x in self.sweep.screen_texts[-swapping.texts :]]
        prompts = Prompts(self.sweep.backbone, texts, swapping.places, self.sweep.readouts)
        search = Swapping(prompts, self.space, self.yardstick, target, swapping, self.generator)
        sequences = yield from self._watched("swapping", prompts, search.run())
        self.tried += search.tried
        return sequences

    def _named(self, hit: Ids, column: int) -> Iterator[Progress]:
        """Returns how deep what a sequence becomes as words is, and these."""
        few = self.short[:NAMED_IN]
        ids = self.naming.name(hit, lambda tried: self._spread(tried, column, few))
        yield self.sweep.spent("names", 0)
        (depth,) = self.yardstick.close[column].log10() - self.sweep.scatter([ids], column)
        return float(depth), ids

    def _spread(
        self, sequences: Sequence[Ids], column: int, texts: Sequence[Context]
    ) -> torch.Tensor:
        backbone = self.sweep.backbone
        plain = sum(len(backbone.template.wrap(x.ids())) for x in texts)
        self.sweep.done += plain * len(sequences) + len(texts) * sum(map(len, sequences))
        return scatter(backbone, sequences, self.sweep.readouts[column], texts)

    def _watched(
        self, stage: str, prompts: Prompts, search: Generator[None, None, Any]
    ) -> Iterator[Progress]:
        """Yields `Progress` for each step of a search; returns what it returns."""
        counted = prompts.passed
        while True:
            try:
                next(search)
            except StopIteration as end:
                return end.value
            yield self.sweep.spent(stage, prompts.passed - counted)
            counted = prompts.passed


def _usual(word: str) -> tuple[str, ...]:
    """The ways of writing in which a word may stand in a phrase."""
    return word.lower(), word.title(), word.upper()
