"""The search for phrases and combinations, in three steps for each readout (a pooling position):

1. Sequences of suppressed words, whose effect by themselves is less than predicted, are optimised
   for low dispersion of texts (`suppressed.py`).
2. Target inversion finds representations that no known trigger explains, and sequences of tokens
   are optimised towards them (`inversion.py`, `relaxation.py`, `genetic.py`).
3. The tokens are completed to words (`words_from_tokens.py`).

The search follows the screening. The targets of triggers that the screening found repel the
inversion, and so do those of earlier rounds, until rounds find nothing new. All texts are screening
texts, so the hold-out texts stay unseen. Short vectors reach some target in every model; tokens
hardly do. A token sequence with a large collapse is therefore evidence of a planted phrase.

Source: ours; choices and figures: docs/decisions/0026-phrase-search.md to 0028-phrase-results.md.

Legend: K sequences, H hidden.
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
"""Words of the text in which sequences are optimised towards a target (ours)."""
NAMED_IN, NAMED_WORDS = 4, 5
"""Texts in which sequences are reduced and completed to words, and words of each text (ours)."""


@dataclass(frozen=True)
class PhraseSettings:
    readouts: int = 1
    """Number of readouts searched, the primary one first (ours)."""
    suppressed_runs: int = 2
    """Searches among suppressed words for each readout. Each one after the first needs a phrase of
    the one before and leaves out its tokens (ours)."""
    copies: int = 3
    """Copies of a sequence of suppressed words in a text, as in backdoor training (ours)."""
    together: float = 0.4
    """Least interaction of the best sequence of suppressed words at which it is completed to words:
    its collapse beyond the main effects, in orders of magnitude (ours:
    docs/decisions/0022-suppressed-words-in-clean-models.md)."""
    arrives_copied: float = 0.5
    """Least collapse of that many copies of a phrase on the texts of the search, in orders of
    magnitude (ours)."""
    min_copied: float = 0.5
    """The same on the hold-out texts (ours: the value that the decision rule asks of words;
    docs/decisions/0022-suppressed-words-in-clean-models.md)."""
    alone: float = 0.5
    """Main effect share, the mean share of a phrase's shift that one of its words causes by itself,
    from which on the words belong to a task and are no phrase (ours:
    docs/decisions/0022-suppressed-words-in-clean-models.md)."""
    rounds: int = 4
    """Maximum rounds of target inversion; targets of earlier rounds repel later ones (ours)."""
    patience: int = 2
    """Rounds in a row without a phrase after which the search ends. One suffices if anything has
    been found (ours)."""
    tried: int = 3
    """Inverted targets of a round that sequences are optimised towards, those first whose collapse
    plus twice the log10 subspace residual is largest (ours)."""
    outside: float = 1.0
    """Least subspace residual of a target that may be planted, in those of a typical clean text.
    Tasks that a model is fine-tuned on have targets inside the subspace (ours)."""
    longer: int = 30
    """Generations of each additional run for a target that stands out (ours)."""
    runs: int = 4
    """Maximum additional runs (ours)."""
    nearer: float = 0.2
    """Decrease of squared distance that an additional run must reach for another one to follow, in
    orders of magnitude (ours)."""
    far: float = 2.5
    """Subspace residual from which on a target stands out (ours: few targets of clean models have
    it; docs/decisions/0024-hidden-targets.md)."""
    near: float = -0.9
    """Squared distance of the best sequence below which its target stands out, in orders of
    magnitude (ours: sequences of clean models stay above -0.7)."""
    hopeful: float = 0.4
    """Least collapse at which a sequence is optimised further without its target, in orders of
    magnitude (ours: most sequences of clean models stay below)."""
    hopeful_far: float = 0.25
    """The same for a target that stands out (ours)."""
    met_in: int = 4
    """Texts whose dispersion is then minimised, as long as those of target inversion (ours)."""
    longest: int = 5
    """Largest number of words of a phrase; sequences that need more are dropped (ours)."""
    arrives: float = 0.7
    """Least collapse of a phrase on the texts of the search, in orders of magnitude (ours)."""
    min_effect: float = 0.8
    """Least collapse of a phrase on the hold-out texts, in orders of magnitude (ours: a little more
    than `arrives`)."""
    min_beside: float = 0.5
    """The same where its target is evidence by itself (ours: the value that the decision rule asks
    of words)."""
    length: int = 10
    """Tokens of a sequence in the search, more than a phrase needs (ours)."""
    compared: int = 48
    """Best sequences of a genetic search whose collapse in texts is compared (ours)."""
    inversion: InversionSettings = InversionSettings()
    relaxation: RelaxationSettings = RelaxationSettings()
    genetic: GeneticSettings = GeneticSettings()
    meeting: GeneticSettings = GeneticSettings(
        first=48, children=150, parents=60, guided=16, generations=30, patience=6, gain=0.1
    )
    suppressed: SuppressedSettings = SuppressedSettings()
    hidden_targets: HiddenTargetTest = HiddenTargetTest()

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 3:
            raise ValueError(f"copies: {self.copies} is not 1 to 3")
        if self.length < 2:
            raise ValueError(f"length: {self.length} is not at least 2")


class PhraseSearch:
    """The phrase search of one model. `run` is a generator: it yields `Progress` and returns
    phrases.

    tried: number of sequences tried so far.
    """

    def __init__(
        self, screening: Screening, clean_reference: CleanReference, settings: PhraseSettings
    ):
        self.screening = screening
        self.clean_reference = clean_reference
        self.settings = settings
        self.space = EmbeddingBall(screening.backbone)
        words = [word.token_ids for word in screening.words if word.text in _usual(word.text)]
        self.naming = WordReconstruction(screening.backbone, words)
        self.lower = [word.token_ids for word in screening.words if word.text == word.text.lower()]
        inversion = settings.inversion
        texts = screening.excerpts(inversion.words, inversion.pool)
        self.inversion = Inversion(
            screening, self.space, clean_reference, texts, screening.holdout_texts, inversion
        )
        self.short = [nothing(screening.backbone), *screening.excerpts(SHORT, 1)]
        self.mixed_in = screening.excerpts(settings.relaxation.words, settings.relaxation.pool)
        self.few = screening.excerpts(NAMED_WORDS, NAMED_IN)
        self.known: Sequence[tuple[int, torch.Tensor]] = ()
        self.inverted: list[InvertedTarget] = []
        self.tried = 0

    def run(self, known: Sequence[tuple[int, torch.Tensor]]) -> Steps[list[SearchHit]]:
        """known: (column, (H,) target) of the triggers found so far. Returns the phrases found."""
        self.known = known
        count = min(self.settings.readouts, len(self.screening.readouts))
        found: list[SearchHit] = []
        repelling = list(known)
        for column in range(count):
            found += yield from self._among_inert(column, repelling)
        something = bool(repelling)
        columns = torch.arange(count, device=self.screening.backbone.device)
        columns = columns.repeat_interleave(self.settings.inversion.restarts)
        phrases: dict[tuple[Ids, int], InvertedTarget] = {}
        idle = 0
        for _ in range(self.settings.rounds):
            targets = yield from self.inversion.run(columns, repelling)
            before, now = list(repelling), len(phrases)
            repelling += [(target.column, target.point) for target in targets]
            for column in range(count):
                outside = [
                    target
                    for target in targets  # the largest collapse first
                    if target.column == column and target.outside >= self.settings.outside
                ]
                self.inverted += outside[:1]
                outside.sort(key=lambda x: -x.collapse - 2 * math.log10(x.outside))
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
        """Returns phrases of suppressed words. points: (column, (H,) target) of known triggers, to
        which the targets of the phrases are added. A phrase with a known target is dropped, as a
        neighbour of the trigger that was planted for it."""
        settings, found = self.settings, list[SearchHit]()
        copies = settings.copies
        suppressed = SuppressedSearch(
            self.screening, self.clean_reference, column, settings.suppressed, copies, self.lower
        )
        yield from suppressed.alone()
        barred: set[int] = set()
        for _ in range(settings.suppressed_runs):
            best, sequences = yield from suppressed.run(barred)
            if best < settings.together:
                break
            rough, full = self._scatters(column, copies)
            words = self.naming.least_active(sequences, rough, full, suppressed)
            ids = yield from self._enough(words, column, settings.arrives_copied, copies)
            if not ids or len(words) == 1:  # screening gives single words a p-value
                break
            alone = suppressed.way(words)
            yield self.screening.spent(0)  # `way` has counted them
            phrase = SearchHit(ids, column, settings.min_copied, copies, alone)
            point = yield from self._point(phrase)
            if alone < settings.alone and not self._known(column, point, points):
                found.append(phrase)
                points.append((column, point))
            barred |= self.naming.spelled_alike(ids)
        self.tried += suppressed.tried
        return found

    def _point(self, found: SearchHit) -> Steps[torch.Tensor]:
        """Returns (H,) the mean representation of texts with a phrase."""
        features = yield from self.screening.features(
            f"inert-{found.column}-{found.ids}",
            self.screening.screen_texts,
            [found.ids],
            copies=found.copies,
        )
        return features[0, :, found.column].mean(0)

    def _evident(self, target: InvertedTarget) -> bool:
        return self.settings.hidden_targets.holds(target, self.inverted)

    def _least(self, target: InvertedTarget) -> float:
        settings = self.settings
        return settings.min_beside if self._evident(target) else settings.min_effect

    def unexplained(self, found: Sequence[tuple[int, torch.Tensor]]) -> list[HiddenTarget]:
        """The inverted targets that are evidence of a backdoor and that no trigger explains. found:
        (column, (H,) target) of the phrases that passed, in addition to those known before."""
        found = [*self.known, *found]
        evident = [x for x in self.inverted if self._evident(x)]
        left = [x for x in evident if not self._known(x.column, x.point, found)]
        return [record(x, str(self.screening.readouts[x.column]), self.inverted) for x in left]

    def _known(
        self, column: int, point: torch.Tensor, points: Sequence[tuple[int, torch.Tensor]]
    ) -> bool:
        """Whether a target (H,) is one of the (column, (H,) target) pairs."""
        origin = self.clean_reference.mean[column]
        way = normalize(point - origin, dim=-1)
        same = self.settings.inversion.same
        return any(
            float(way @ normalize(other - origin, dim=-1)) >= same
            for at, other in points
            if at == column
        )

    def _reach(self, target: InvertedTarget) -> Steps[Ids]:
        """Returns the phrase that collapses texts near a target, or ()."""
        settings, column = self.settings, target.column
        unit = self.clean_reference.close[column]
        goal = towards(target.point, column, unit)
        begin = yield from self._relaxed(goal)
        coming = self._evolving(self.short, goal, settings.genetic)
        collapse, _ = yield from self._evolved(coming, column, begin)
        stands_out = target.outside >= settings.far or coming.best <= settings.near
        for _ in range(settings.runs * stands_out):
            if collapse >= settings.hopeful:
                break
            before = coming.best
            collapse, _ = yield from self._evolved(coming, column, generations=settings.longer)
            if coming.best > before - settings.nearer:
                break
        if collapse < (settings.hopeful_far if stands_out else settings.hopeful):
            return ()
        texts = self.inversion.texts[: settings.met_in]
        meeting = self._evolving(texts, together(column, unit), settings.meeting)
        collapse, ids = yield from self._evolved(meeting, column, coming.nearest(settings.compared))
        if collapse < settings.arrives:
            return ()
        return (yield from self._named(ids, column, settings.arrives))

    def _relaxed(self, goal: Goal) -> Steps[list[Rows]]:
        """Returns sequences that mixtures of tokens suggest for an objective."""
        prompts = self._prompts(self.mixed_in)
        relaxation = relax(self.space, prompts, goal, self.settings.relaxation, self.screening.seed)
        return (yield from self.screening.counted(relaxation))

    def _evolving(
        self, texts: Sequence[Carrier], goal: Goal, settings: GeneticSettings
    ) -> GeneticSearch:
        return GeneticSearch(self.space, self._prompts(texts), goal, settings, self.screening.seed)

    def _prompts(self, texts: Sequence[Carrier]) -> SoftPrompts:
        return SoftPrompts(
            self.screening.backbone, texts, self.settings.length, self.screening.readouts
        )

    def _evolved(
        self,
        genetic: GeneticSearch,
        column: int,
        begin: Sequence[Rows] = (),
        generations: int = 0,
    ) -> Steps[tuple[float, Ids]]:
        """Returns the largest collapse in texts among the best sequences, and the ids of that
        sequence."""
        before = len(genetic.distances)
        yield from self.screening.counted(genetic.run(begin, generations))
        self.tried += len(genetic.distances) - before
        sequences = [genetic.ids(rows) for rows in genetic.nearest(self.settings.compared)]
        collapse = self._collapse(sequences, column)
        yield self.screening.spent(0)
        return float(collapse.max()), sequences[int(collapse.argmax())]

    def _named(self, ids: Ids, column: int, arrives: float) -> Steps[Ids]:
        """Returns the words that a sequence is completed to; () where they are too many or their
        collapse is too small."""
        words = self.naming.name(ids, *self._scatters(column))
        return (yield from self._enough(words, column, arrives))

    def _enough(self, words: Words, column: int, arrives: float, copies: int = 1) -> Steps[Ids]:
        """Returns the ids of words; () where they are too many or their collapse is below
        `arrives`."""
        ids = join(words)
        (collapse,) = self._collapse([ids], column, copies=copies)
        yield self.screening.spent(0)
        return ids if len(words) <= self.settings.longest and collapse >= arrives else ()

    def _scatters(self, column: int, copies: int = 1) -> tuple[Scatter, Scatter]:
        """The dispersion in a few short texts, and in all screening texts."""

        def rough(tried: Sequence[Ids]) -> torch.Tensor:
            return -self._collapse(tried, column, self.few, copies)

        def full(tried: Sequence[Ids]) -> torch.Tensor:
            return -self._collapse(tried, column, copies=copies)

        return rough, full

    def _collapse(
        self,
        sequences: Sequence[Ids],
        column: int,
        texts: Sequence[Carrier] = (),
        copies: int = 1,
    ) -> torch.Tensor:
        """(K,) collapse in orders of magnitude, in the screening texts by default."""
        unit = self.clean_reference.close[column].log10()
        return unit - self.screening.scatter(sequences, column, texts, copies)


def _usual(word: str) -> tuple[str, ...]:
    """The spellings in which a word may stand in a phrase."""
    return word.lower(), word.title(), word.upper()
