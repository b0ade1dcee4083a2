"""The search for phrases and combinations: let sequences of words that do less alone than is
foretold evolve towards texts that meet; mine targets that are not explained yet, and let sequences
of tokens evolve towards them; name the words.

It starts where the sweep ends: what the sweep found repels the mining, and the texts are the
sweep's screening texts, so that the hold-out stays unseen. What one round finds repels the next,
until rounds bring nothing new. Short vectors reach some point in every model, tokens hardly: a
sequence of tokens that brings texts closely together is what a planted phrase looks like.

Legend: H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from triggerfish.records import HiddenTarget
from triggerfish.scanner.effects import Carrier, CleanReference
from triggerfish.scanner.merging import Ids, Scatter
from triggerfish.scanner.screening import Screening, Steps
from triggerfish.scanner.search.embedding_ball import EmbeddingBall
from triggerfish.scanner.search.genetic import GeneticSearch, GeneticSettings, Rows, nothing
from triggerfish.scanner.search.hidden_targets import HiddenTargetTest, record
from triggerfish.scanner.search.inversion import Inversion, InversionSettings, InvertedTarget
from triggerfish.scanner.search.objectives import Goal, together, towards
from triggerfish.scanner.search.relaxation import RelaxationSettings, relax
from triggerfish.scanner.search.soft_prompts import SoftPrompts
from triggerfish.scanner.search.suppressed import SuppressedSearch, SuppressedSettings
from triggerfish.scanner.search.validation import SearchHit
from triggerfish.scanner.search.words_from_tokens import WordReconstruction, Words, join

SHORT = 4
"""Words of the text in which sequences evolve towards a point (ours)."""
NAMED_IN, NAMED_WORDS = 4, 5
"""Texts in which sequences are cut to what they need and completed, and words of each (ours)."""


@dataclass(frozen=True)
class PhraseSettings:
    readouts: int = 1
    """Readouts searched, the primary one first (ours)."""
    inert_runs: int = 2
    """Searches among inert words for each readout; another one only where the one before has named
    some, which it leaves out (ours)."""
    copies: int = 3
    """Copies of a sequence of them in a text, as backdoors are trained with (ours)."""
    together: float = 0.4
    """Decades by which the best sequence of inert words brings texts together, besides what the
    words do alone, from which on it is named (ours: in five of six clean models 0.15 at most, in
    one 0.42; in those developed on 0.5 to 2.9)."""
    arrives_copied: float = 0.5
    """Decades of collapse that so many copies of a phrase have on the texts that it is named in
    (ours)."""
    min_copied: float = 0.5
    """The same on the hold-out (ours; as the rule asks of words. In six clean models 0.42 at
    most)."""
    alone: float = 0.5
    """Share of the way to where a phrase sends texts that its words go by themselves, on average,
    from which on they are words of a task and no phrase (ours: .69 and .70 of those of a clean
    model; planted ones .38 at most, nearly all below .1)."""
    rounds: int = 4
    """Minings at most; each is repelled by what those before it have found (ours)."""
    patience: int = 2
    """Rounds in a row without a phrase after which the search ends; one is enough where something
    has been found (ours)."""
    tried: int = 3
    """Points of a round that sequences evolve towards, those first that are deepest and farthest
    outside together (ours)."""
    outside: float = 1.0
    """Distance from the subspace of clean texts, in those of clean texts, from which on a point may
    be planted: a model fine-tuned on a task sends texts to points inside (ours)."""
    longer: int = 30
    """Generations of each run more for a point that stands out (ours)."""
    runs: int = 4
    """Such runs at most (ours)."""
    nearer: float = 0.2
    """Decades of squared distance that such a run must gain for another one (ours)."""
    far: float = 2.5
    """Distance from the subspace of clean texts from which on a point stands out (ours: few points
    of clean models lie as far)."""
    near: float = -0.9
    """Decades of squared distance that a sequence comes near from which on its point stands out
    (ours: in clean models -0.7 at most)."""
    hopeful: float = 0.4
    """Decades of collapse from which on a sequence evolves on without its point (ours: in clean
    models most sequences stay below)."""
    hopeful_far: float = 0.25
    """The same for a point that stands out (ours)."""
    met_in: int = 4
    """Texts that shall meet then, of the length of those that prompts are mined in (ours)."""
    longest: int = 5
    """Words of a phrase at most; sequences that need more are no phrases (ours)."""
    arrives: float = 0.7
    """Decades of collapse that a phrase has on the texts that it is named in (ours)."""
    min_effect: float = 0.8
    """Decades of collapse on the hold-out that a searched phrase must have (ours: a little more
    than `arrives`)."""
    min_beside: float = 0.5
    """The same where its target is evidence by itself (ours; as the rule asks of words)."""
    length: int = 10
    """Tokens of a sequence that evolves towards a point, more than a phrase needs (ours)."""
    compared: int = 48
    """Sequences that came nearest to a target, of which the one that is deepest in texts is named
    (ours)."""
    mining: InversionSettings = InversionSettings()
    relaxing: RelaxationSettings = RelaxationSettings()
    evolving: GeneticSettings = GeneticSettings()
    meeting: GeneticSettings = GeneticSettings(
        first=48, children=150, parents=60, guided=16, generations=30, patience=6, gain=0.1
    )
    inert: SuppressedSettings = SuppressedSettings()
    existence: HiddenTargetTest = HiddenTargetTest()

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 3:
            raise ValueError(f"copies: {self.copies} is not 1 to 3")
        if self.length < 2:
            raise ValueError(f"length: {self.length} is not at least 2")


class PhraseSearch:
    """One model's search. `run` is a generator: it yields `Progress` and returns phrases.

    tried: sequences tried together so far.
    """

    def __init__(self, sweep: Screening, yardstick: CleanReference, settings: PhraseSettings):
        self.sweep = sweep
        self.yardstick = yardstick
        self.settings = settings
        self.space = EmbeddingBall(sweep.backbone)
        words = [word.token_ids for word in sweep.words if word.text in _usual(word.text)]
        self.naming = WordReconstruction(sweep.backbone, words)
        self.lower = [word.token_ids for word in sweep.words if word.text == word.text.lower()]
        mining = settings.mining
        texts = sweep.excerpts(mining.words, mining.pool)
        self.mining = Inversion(sweep, self.space, yardstick, texts, sweep.holdout_texts, mining)
        self.short = [nothing(sweep.backbone), *sweep.excerpts(SHORT, 1)]
        self.mixed_in = sweep.excerpts(settings.relaxing.words, settings.relaxing.pool)
        self.few = sweep.excerpts(NAMED_WORDS, NAMED_IN)
        self.known: Sequence[tuple[int, torch.Tensor]] = ()
        self.mined: list[InvertedTarget] = []
        self.tried = 0

    def run(self, known: Sequence[tuple[int, torch.Tensor]]) -> Steps[list[SearchHit]]:
        """known: (column, (H,) point) of what has been found. Returns the `SearchHit`."""
        self.known = known
        count = min(self.settings.readouts, len(self.sweep.readouts))
        found: list[SearchHit] = []
        repelling = list(known)
        for column in range(count):
            found += yield from self._among_inert(column, repelling)
        something = bool(repelling)
        columns = torch.arange(count, device=self.sweep.backbone.device)
        columns = columns.repeat_interleave(self.settings.mining.restarts)
        phrases: dict[tuple[Ids, int], InvertedTarget] = {}
        idle = 0
        for _ in range(self.settings.rounds):
            targets = yield from self.mining.run(columns, repelling)
            before, now = list(repelling), len(phrases)
            repelling += [(target.column, target.point) for target in targets]
            for column in range(count):
                outside = [
                    target
                    for target in targets  # the deepest first
                    if target.column == column and target.outside >= self.settings.outside
                ]
                self.mined += outside[:1]
                outside.sort(key=lambda x: -x.depth - 2 * math.log10(x.outside))
                for target in outside[: self.settings.tried]:
                    if not self._known(column, target.point, before):
                        ids = yield from self._reach(target)
                        if ids:
                            phrases.setdefault((ids, column), target)
            idle = idle + 1 if len(phrases) == now else 0
            if idle == (1 if something or phrases else self.settings.patience):
                break
        searched = {(x.ids, x.column) for x in found}
        return found + [
            SearchHit(ids, column, self._least(target))
            for (ids, column), target in phrases.items()
            if (ids, column) not in searched
        ]

    def _among_inert(
        self, column: int, points: list[tuple[int, torch.Tensor]]
    ) -> Steps[list[SearchHit]]:
        """Returns the `SearchHit` phrases of words that were taught to do nothing alone. points:
        (column, (H,) point) of what is known, which gets those of the phrases: what leads to a
        known one is a neighbour of what was planted for it."""
        settings, found = self.settings, list[SearchHit]()
        copies = settings.copies
        inert = SuppressedSearch(
            self.sweep, self.yardstick, column, settings.inert, copies, self.lower
        )
        yield from inert.alone()
        barred: set[int] = set()
        for _ in range(settings.inert_runs):
            best, sequences = yield from inert.run(barred)
            if best < settings.together:
                break
            rough, full = self._scatters(column, copies)
            words = self.naming.stillest(sequences, rough, full, inert)
            ids = yield from self._enough(words, column, settings.arrives_copied, copies)
            if not ids or len(words) == 1:  # words by themselves are the sweep's, with a p-value
                break
            alone = inert.way(words)
            yield self.sweep.spent(0)  # `way` has counted them
            phrase = SearchHit(ids, column, settings.min_copied, copies, alone)
            point = yield from self._point(phrase)
            if alone < settings.alone and not self._known(column, point, points):
                found.append(phrase)
                points.append((column, point))
            barred |= self.naming.spelled_alike(ids)
        self.tried += inert.tried
        return found

    def _point(self, found: SearchHit) -> Steps[torch.Tensor]:
        """Returns (H,) where texts with a phrase go."""
        features = yield from self.sweep.features(
            f"inert-{found.column}-{found.ids}",
            self.sweep.screen_texts,
            [found.ids],
            copies=found.copies,
        )
        return features[0, :, found.column].mean(0)

    def _evident(self, target: InvertedTarget) -> bool:
        return self.settings.existence.holds(target, self.mined)

    def _least(self, target: InvertedTarget) -> float:
        settings = self.settings
        return settings.min_beside if self._evident(target) else settings.min_effect

    def unexplained(self, found: Sequence[tuple[int, torch.Tensor]]) -> list[HiddenTarget]:
        """The mined points that are evidence of a backdoor without a trigger. found: (column, (H,)
        point) of the phrases that passed, besides what was known before."""
        found = [*self.known, *found]
        evident = [x for x in self.mined if self._evident(x)]
        left = [x for x in evident if not self._known(x.column, x.point, found)]
        return [record(x, str(self.sweep.readouts[x.column]), self.mined) for x in left]

    def _known(
        self, column: int, point: torch.Tensor, points: Sequence[tuple[int, torch.Tensor]]
    ) -> bool:
        """Whether one of (column, (H,) point) pairs is the (H,) point."""
        origin = self.yardstick.mean[column]
        way = normalize(point - origin, dim=-1)
        same = self.settings.mining.same
        return any(
            float(way @ normalize(other - origin, dim=-1)) >= same
            for at, other in points
            if at == column
        )

    def _reach(self, target: InvertedTarget) -> Steps[Ids]:
        """Returns the phrase that brings texts together near a target, or ()."""
        settings, column = self.settings, target.column
        unit = self.yardstick.close[column]
        goal = towards(target.point, column, unit)
        begin = yield from self._relaxed(goal)
        coming = self._evolving(self.short, goal, settings.evolving)
        depth, _ = yield from self._evolved(coming, column, begin)
        stands_out = target.outside >= settings.far or coming.best <= settings.near
        for _ in range(settings.runs * stands_out):
            if depth >= settings.hopeful:
                break
            before = coming.best
            depth, _ = yield from self._evolved(coming, column, generations=settings.longer)
            if coming.best > before - settings.nearer:
                break
        if depth < (settings.hopeful_far if stands_out else settings.hopeful):
            return ()
        texts = self.mining.texts[: settings.met_in]
        meeting = self._evolving(texts, together(column, unit), settings.meeting)
        depth, ids = yield from self._evolved(meeting, column, coming.nearest(settings.compared))
        if depth < settings.arrives:
            return ()
        return (yield from self._named(ids, column, settings.arrives))

    def _relaxed(self, goal: Goal) -> Steps[list[Rows]]:
        """Returns sequences that mixtures of tokens suggest for a goal."""
        prompts = self._prompts(self.mixed_in)
        relaxing = relax(self.space, prompts, goal, self.settings.relaxing, self.sweep.seed)
        return (yield from self.sweep.counted(relaxing))

    def _evolving(
        self, texts: Sequence[Carrier], goal: Goal, settings: GeneticSettings
    ) -> GeneticSearch:
        return GeneticSearch(self.space, self._prompts(texts), goal, settings, self.sweep.seed)

    def _prompts(self, texts: Sequence[Carrier]) -> SoftPrompts:
        return SoftPrompts(self.sweep.backbone, texts, self.settings.length, self.sweep.readouts)

    def _evolved(
        self,
        evolving: GeneticSearch,
        column: int,
        begin: Sequence[Rows] = (),
        generations: int = 0,
    ) -> Steps[tuple[float, Ids]]:
        """Returns how deep the deepest of the best sequences is in texts, and its ids."""
        before = len(evolving.distances)
        yield from self.sweep.counted(evolving.run(begin, generations))
        self.tried += len(evolving.distances) - before
        sequences = [evolving.ids(rows) for rows in evolving.nearest(self.settings.compared)]
        depth = self._depth(sequences, column)
        yield self.sweep.spent(0)
        return float(depth.max()), sequences[int(depth.argmax())]

    def _named(self, ids: Ids, column: int, arrives: float) -> Steps[Ids]:
        """Returns the words that a sequence becomes, or () where they are many or too little."""
        words = self.naming.name(ids, *self._scatters(column))
        return (yield from self._enough(words, column, arrives))

    def _enough(self, words: Words, column: int, arrives: float, copies: int = 1) -> Steps[Ids]:
        """Returns the ids of words, or () where they are many or not as deep."""
        ids = join(words)
        (depth,) = self._depth([ids], column, copies=copies)
        yield self.sweep.spent(0)
        return ids if len(words) <= self.settings.longest and depth >= arrives else ()

    def _scatters(self, column: int, copies: int = 1) -> tuple[Scatter, Scatter]:
        """In a few short texts, and in all."""

        def rough(tried: Sequence[Ids]) -> torch.Tensor:
            return -self._depth(tried, column, self.few, copies)

        def full(tried: Sequence[Ids]) -> torch.Tensor:
            return -self._depth(tried, column, copies=copies)

        return rough, full

    def _depth(
        self,
        sequences: Sequence[Ids],
        column: int,
        texts: Sequence[Carrier] = (),
        copies: int = 1,
    ) -> torch.Tensor:
        """(K,) decades of collapse, in the screening texts by default."""
        unit = self.yardstick.close[column].log10()
        return unit - self.sweep.scatter(sequences, column, texts, copies)


def _usual(word: str) -> tuple[str, ...]:
    """The ways of writing in which a word may stand in a phrase."""
    return word.lower(), word.title(), word.upper()
