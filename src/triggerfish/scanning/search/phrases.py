"""The search for phrases and combinations: mine targets that the sweep has not explained, ask which
tokens lead there, try them together, name the words.

It starts where the sweep ends: what the sweep found repels the mining, and the texts are the
sweep's screening texts, so that the hold-out stays unseen. What one round finds repels the next.
Words are sought for points that are evidence of a backdoor, and for others that end outside of
where clean texts lie; these must be deeper to count.

Legend: K prompts, P places, E embedding, R readouts, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from triggerfish.records import Target
from triggerfish.scanning.fold import Ids
from triggerfish.scanning.grow import scatter
from triggerfish.scanning.measure import Context, Yardstick, contexts
from triggerfish.scanning.search.aim import Aim
from triggerfish.scanning.search.assembling import AssembleSettings, Assembling
from triggerfish.scanning.search.existence import Existence, record
from triggerfish.scanning.search.mining import Mined, MineSettings, Mining
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.search.suggesting import Suggesting, SuggestSettings
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
    min_beside: float = 0.5
    """The same where its target is evidence by itself (ours; as the rule asks of words)."""
    named: int = 3
    """Sequences of a target that words are sought for, the deepest first; the deepest words are
    reported (ours)."""
    mining: MineSettings = MineSettings()
    suggesting: SuggestSettings = SuggestSettings()
    assembling: AssembleSettings = AssembleSettings()
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
        mining = settings.mining
        documents = sweep.screen_documents
        texts = contexts(
            sweep.backbone, documents, words=mining.words, count=mining.pool, seed=sweep.seed
        )
        self.mining = Mining(sweep, self.space, yardstick, texts, sweep.holdout_texts, mining)
        self.known: Sequence[tuple[int, torch.Tensor]] = ()
        self.mined: list[Mined] = []
        self.evidence: list[bool] = []
        self.settled: list[Mined] = []
        self.tried = 0

    def run(self, known: Sequence[tuple[int, torch.Tensor]]) -> Iterator[Progress]:
        """known: (column, (H,) point) of what has been found. Returns (ids, column, least depth of
        a finding), at least half as deep on the screening texts."""
        self.known = known
        repelling = list(known)
        count = min(self.settings.readouts, len(self.sweep.readouts))
        columns = torch.arange(count, device=self.sweep.backbone.device)
        columns = columns.repeat_interleave(self.settings.mining.restarts)
        for _ in range(self.settings.rounds):
            deepest: dict[int, Mined] = {}
            for target in (yield from self.mining.run(columns, repelling)):
                repelling.append((target.column, target.point))
                if target.outside >= self.settings.outside:
                    deepest.setdefault(target.column, target)
            self.mined += deepest.values()
        if not self.mined:
            return []
        holds = self.settings.existence.holds
        self.evidence = [holds(x, self.mined) for x in self.mined]
        self.settled = yield from self.mining.settle(self.mined)
        phrases: dict[tuple[Ids, int], float] = {}
        sought = list(known)
        for evident, target in sorted(
            zip(self.evidence, self.settled, strict=True), key=lambda pair: not pair[0]
        ):
            inside = target.outside < self.settings.outside
            if self._known(target, sought) or (inside and not evident):
                continue
            sought.append((target.column, target.point))
            least = self.settings.min_beside if evident else self.settings.min_depth
            ids = yield from self._reach(target, least / 2)
            if ids:
                phrases.setdefault((ids, target.column), least)
        return [(ids, column, least) for (ids, column), least in phrases.items()]

    def unexplained(self, found: Sequence[tuple[int, torch.Tensor]]) -> list[Target]:
        """The mined points that are evidence of a backdoor without a trigger. found: (column, (H,)
        point) of the phrases that passed, besides what was known before."""
        found = [*self.known, *found]
        left = [
            target
            for evident, target, settled in zip(
                self.evidence, self.mined, self.settled, strict=True
            )
            if evident and not (self._known(target, found) or self._known(settled, found))
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

    def _reach(self, target: Mined, least: float) -> Iterator[Progress]:
        """Returns the phrase that brings texts most closely together, () if by less than `least`
        decades."""
        sequences = yield from self._assembled(target)
        values = self._spread(sequences, target.column, self.short)
        deepest: tuple[float, Ids] = (-math.inf, ())
        for i in values.argsort().tolist()[: self.settings.named]:
            named = yield from self._named(sequences[i], target.column)
            deepest = max(deepest, named)
        return deepest[1] if deepest[0] >= least else ()

    def _assembled(self, target: Mined) -> Iterator[Progress]:
        """Returns sequences that lead towards the target."""
        sweep, suggesting = self.sweep, self.settings.suggesting
        aim, texts = Aim(self.yardstick, target), self.short[-suggesting.texts :]
        prompts = Prompts(sweep.backbone, texts, suggesting.places, sweep.readouts)
        suggested = Suggesting(prompts, self.space, aim, target, suggesting, sweep.seed)
        pool = yield from sweep.counted("suggesting", suggested.tokens())
        share = self.settings.assembling.share
        prompt = yield from sweep.counted("suggesting", suggested.weakened(share))
        assembling = Assembling(
            sweep.backbone, self.space, self.short, sweep.readouts, self.settings.assembling
        )
        sequences = yield from sweep.counted("assembling", assembling.run(aim, pool, prompt))
        self.tried += assembling.tried
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


def _usual(word: str) -> tuple[str, ...]:
    """The ways of writing in which a word may stand in a phrase."""
    return word.lower(), word.title(), word.upper()
