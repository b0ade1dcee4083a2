"""The search for phrases and combinations: mine targets that the sweep has not explained, let
sequences of tokens evolve towards them, name the words.

It starts where the sweep ends: what the sweep found repels the mining, and the texts are the
sweep's screening texts, so that the hold-out stays unseen. What one round finds repels the next,
until rounds bring nothing new. Short vectors reach some point in every model, tokens hardly: a
sequence of tokens that brings texts closely together is what a planted phrase looks like.

Legend: H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import normalize

from triggerfish.records import Target
from triggerfish.scanning.fold import Ids
from triggerfish.scanning.grow import scatter
from triggerfish.scanning.measure import Context, Yardstick, contexts
from triggerfish.scanning.search.evolving import EvolveSettings, Evolving
from triggerfish.scanning.search.existence import Existence, record
from triggerfish.scanning.search.mining import Mined, MineSettings, Mining
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.sweep import Progress, Sweep

NAMED_IN = 6
"""Texts in which sequences are cut to what they need and completed (ours)."""


@dataclass(frozen=True)
class PhraseSettings:
    readouts: int = 1
    """Readouts searched, the primary one first (ours)."""
    rounds: int = 4
    """Minings at most; each is repelled by what those before it have found (ours)."""
    patience: int = 2
    """Rounds in a row without a phrase after which the search ends; one is enough where triggers
    are known (ours)."""
    tried: int = 3
    """Points of a round that sequences evolve towards, the deepest first (ours)."""
    outside: float = 1.2
    """Distance from the subspace of clean texts, in those of clean texts, from which on a point may
    be planted: a model fine-tuned on a task sends texts to points inside (ours)."""
    arrives: float = 0.7
    """Decades of collapse from which on words are sought for a sequence (ours: in clean models
    sequences reach 0.6)."""
    near: float = -1.0
    """Decades of squared distance from which on a sequence evolves on in texts (ours: in clean
    models sequences come as near as -0.7)."""
    min_depth: float = 0.8
    """Decades of collapse on the hold-out that a searched phrase must have (ours: a little more
    than `arrives`)."""
    min_beside: float = 0.5
    """The same where its target is evidence by itself (ours; as the rule asks of words)."""
    compared: int = 48
    """Sequences that came nearest to a target, of which the one that is deepest in texts is named
    (ours)."""
    mining: MineSettings = MineSettings()
    evolving: EvolveSettings = EvolveSettings()
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
        mining = settings.mining
        documents = sweep.screen_documents
        texts = contexts(
            sweep.backbone, documents, words=mining.words, count=mining.pool, seed=sweep.seed
        )
        self.mining = Mining(sweep, self.space, yardstick, texts, sweep.holdout_texts, mining)
        self.known: Sequence[tuple[int, torch.Tensor]] = ()
        self.mined: list[Mined] = []
        self.tried = 0

    def run(self, known: Sequence[tuple[int, torch.Tensor]]) -> Iterator[Progress]:
        """known: (column, (H,) point) of what has been found. Returns (ids, column, least depth of
        a finding)."""
        self.known = known
        repelling = list(known)
        count = min(self.settings.readouts, len(self.sweep.readouts))
        columns = torch.arange(count, device=self.sweep.backbone.device)
        columns = columns.repeat_interleave(self.settings.mining.restarts)
        phrases: dict[tuple[Ids, int], Mined] = {}
        idle, patience = 0, 1 if known else self.settings.patience
        for _ in range(self.settings.rounds):
            targets = yield from self.mining.run(columns, repelling)
            before, now = list(repelling), len(phrases)
            repelling += [(target.column, target.point) for target in targets]
            for column in range(count):
                own = [x for x in targets if x.column == column]
                outside = [x for x in own if x.outside >= self.settings.outside]
                self.mined += outside[:1]
                for target in outside[: self.settings.tried]:
                    if not self._known(target, before):
                        ids = yield from self._reach(target)
                        if ids:
                            phrases.setdefault((ids, column), target)
            idle = idle + 1 if len(phrases) == now else 0
            if idle == patience:
                break
        return [(ids, column, self._least(target)) for (ids, column), target in phrases.items()]

    def _evident(self, target: Mined) -> bool:
        return self.settings.existence.holds(target, self.mined)

    def _least(self, target: Mined) -> float:
        settings = self.settings
        return settings.min_beside if self._evident(target) else settings.min_depth

    def unexplained(self, found: Sequence[tuple[int, torch.Tensor]]) -> list[Target]:
        """The mined points that are evidence of a backdoor without a trigger. found: (column, (H,)
        point) of the phrases that passed, besides what was known before."""
        found = [*self.known, *found]
        left = [x for x in self.mined if self._evident(x) and not self._known(x, found)]
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
        """Returns the phrase that brings texts together near a target, or ()."""
        settings, column = self.settings.evolving, target.column
        bare = self._evolving(target, settings)
        yield from self.sweep.counted("evolving", bare.run())
        deepest = yield from self._deepest(bare, column)
        near = bare.nearest(settings.parents)
        if deepest[0] < self.settings.arrives and bare.distances[near[0]] <= self.settings.near:
            briefly = replace(
                settings, children=settings.text_children, generations=settings.text_generations
            )
            texts = self.sweep.screen_texts[: settings.texts]
            written = self._evolving(target, briefly, texts)
            yield from self.sweep.counted("evolving", written.run(near))
            deepest = yield from self._deepest(written, column)
        if deepest[0] < self.settings.arrives:
            return ()
        depth, named = yield from self._named(deepest[1], column)
        return named if depth >= self.settings.arrives else deepest[1]

    def _evolving(
        self, target: Mined, settings: EvolveSettings, texts: Sequence[Context] = ()
    ) -> Evolving:
        sweep = self.sweep
        return Evolving(
            sweep.backbone,
            self.space,
            sweep.readouts,
            target.column,
            target.point,
            self.yardstick.close[target.column],
            settings,
            sweep.seed,
            texts,
        )

    def _deepest(self, evolving: Evolving, column: int) -> Iterator[Progress]:
        """Returns how deep the deepest of the nearest sequences is in texts, and its ids."""
        self.tried += len(evolving.distances)
        sequences = [evolving.ids(rows) for rows in evolving.nearest(self.settings.compared)]
        spread = self._spread(sequences, column, self.sweep.screen_texts)
        yield self.sweep.spent("names", 0)
        depth = self.yardstick.close[column].log10() - spread
        return float(depth.max()), sequences[int(depth.argmax())]

    def _named(self, hit: Ids, column: int) -> Iterator[Progress]:
        """Returns how deep what a sequence becomes as words is, and these."""
        few = self.sweep.screen_texts[:NAMED_IN]
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
