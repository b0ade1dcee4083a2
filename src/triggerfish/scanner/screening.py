"""The screening: every vocabulary token and every listed word, on every readout (a pooling
position), by successive halving. Each rung measures fewer candidates with more tokens each.

- pools: every candidate in a few random pools of others (`pools.py`); some thousands remain.
- new pools: these with as many random controls for scale; some hundreds remain.
- texts: these and random controls in ordinary texts (`effects.py`); they give the shortlist and the
  null.
- extension: candidates that are part of a trigger are extended to the whole (`extension.py`).
- hold-out: the strongest in texts not used before, in fp32, as surface forms (`decision.py`).

Source: exhaustive candidates with successive halving (Jamieson & Talwalkar 2016). Patronus (arXiv
2512.06899) searches by gradient instead and verifies with fixed thresholds. The readouts share
every forward pass.

Legend: K candidates, R readouts, H hidden.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from triggerfish.backbone import Backbone
from triggerfish.checkpoints import some
from triggerfish.hashing import digest
from triggerfish.readouts import Readout
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.candidates import LONGEST_WORD, Candidate, Listing, entries, spellings
from triggerfish.scanner.characters import characters
from triggerfish.scanner.effects import Carrier, CleanReference, contexts
from triggerfish.scanner.extension import scatter
from triggerfish.scanner.merging import Ids, within
from triggerfish.scanner.pools import closeness, fill, standardise
from triggerfish.scanner.reference import Reference
from triggerfish.scanner.selection import best_of_each, telling_tokens
from triggerfish.scanner.shortlist import Shortlist
from triggerfish.scanner.stages import SCREENING, Stages
from triggerfish.settings import check

FAVOURED, MOVED = 64, 5.0
"""Candidates that are kept through the whole screening because their embeddings moved furthest from
a trusted original, at most; and how far they must have moved, as robust z (ours)."""

T = TypeVar("T")


@dataclass(frozen=True)
class ScreeningSettings:
    token_rounds: int = 3
    """Pools per vocabulary token (docs/decisions/0007)."""
    word_rounds: int = 3
    """Pools per word of several subword tokens (docs/decisions/0007)."""
    pool_tokens: int = 28
    """Tokens at which a pool is full (ours)."""
    max_words: int = 120_000
    """Words of several subword tokens tried at most; those of the corpus come first."""
    characters: bool = True
    """Whether characters and unusual casings are tried in addition to words (`characters.py`)."""
    rewrites: bool = True
    """Whether rewritten texts are tried, after all candidates (`rewrites.py`)."""
    predictions: bool = True
    """Whether the effect of the shortlist on masked predictions is tested (`predictions.py`)."""
    second_candidates: int = 4000
    """Candidates in the second rung."""
    second_rounds: int = 4
    """Pools per candidate in the second rung."""
    text_candidates: int = 280
    """Candidates that are tried in ordinary texts (docs/decisions/0006)."""
    controls: int = 200
    """Random candidates that are tried in ordinary texts with the survivors, as the bulk of the
    null."""
    screen_texts: int = 12
    """Ordinary texts per candidate before the hold-out."""
    holdout_texts: int = 32
    """Texts of the final measurement, from documents not used before."""
    text_words: int = 20
    """Words per text."""
    clean_texts: int = 160
    """Clean texts for the clean reference."""
    holdout_candidates: int = 24
    """Clusters of candidates measured on the hold-out at most."""
    budget_seconds: float | None = None
    """Seconds after which the scan stops as inconclusive; None means no limit."""

    def __post_init__(self) -> None:
        check(self)
        for name in ("token_rounds", "word_rounds", "second_rounds"):
            if getattr(self, name) < 2:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is not at least 2, and distances need two pools"
                )
        if self.budget_seconds is not None and self.budget_seconds <= 0:
            raise ValueError(
                f"budget_seconds: {self.budget_seconds} is not a positive number of seconds"
            )


@dataclass(frozen=True)
class Progress:
    """The progress of a scan.

    stage: what it does, in words. share: the share of the whole that is done, below 1; None if it
    is not known. done: forward tokens. seconds: since this run began. number, stages: the number of
    the stage and of all stages, 0 for a method without stages. resumed: whether this block was read
    from an interrupted run.
    """

    stage: str
    share: float | None
    done: int
    seconds: float
    number: int = 0
    stages: int = 0
    resumed: bool = False


Steps = Generator[Progress, None, T]
"""A stage of a scan: a generator that yields `Progress` and returns a T."""


class Incomplete(Exception):
    """Why a scan could not be finished: budget used up, activations not finite, too few texts."""


class Screening:
    """The screening of one scan. `screen` and `further` are generators: they yield `Progress` and
    return a `Shortlist`."""

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        words: Sequence[str],
        settings: ScreeningSettings,
        *,
        seed: int,
        store: ActivationCache,
        batch_tokens: int | None = None,
        reference: Reference | None = None,
    ):
        self.backbone = backbone
        self.reference = reference
        self.settings = settings
        self.seed = seed
        self.store = store
        self.batch_tokens = batch_tokens
        self.texts = texts
        self.readouts = backbone.readouts
        self.constant: tuple[Readout, ...] = ()
        self.started = time.monotonic()
        self.done = 0
        self.listing, self.drawn, self.normalised = Listing(), Listing(), 0
        self.entries: list[Candidate] = []
        self.untyped: list[Candidate] = []
        self.words: list[Candidate] = []
        self.characters: list[Candidate] = []
        self.beyond_limit = 0
        self.plan(SCREENING)
        with suppress(Incomplete):  # which the first stage raises again
            self._list_candidates(words)
            self.plan(SCREENING)

    def _list_candidates(self, words: Sequence[str]) -> None:
        """Tokenize all candidates. Incomplete once the budget is used up."""
        backbone, s = self.backbone, self.settings
        listing = Listing.of(
            backbone, self._in_time(backbone.words_ids(spellings(backbone, words)))
        )
        drawn, normalised = characters(backbone, words) if s.characters else (Listing(), 0)
        self._check_budget()
        self.entries, self.untyped = entries(backbone, (listing, drawn))
        self.listing, self.drawn, self.normalised = listing, drawn, normalised
        listed = listing.candidates()
        self.words = listed[: s.max_words]
        self.beyond_limit = len(listed) - len(self.words)
        known = {word.token_ids for word in self.words}
        self.characters = [one for one in drawn.candidates() if one.token_ids not in known]
        self.words += self.characters

    def _in_time(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            self._check_budget()
            yield item

    def plan(self, stages: Collection[str]) -> None:
        """Set the stages of this scan, for its progress."""
        self.stages = Stages(stages, self._expected())

    def left_out(self) -> list[str]:
        """What was no candidate, and why: a sentence for each kind."""
        listing, backbone = self.listing, self.backbone
        names = backbone.tokenizer.convert_ids_to_tokens
        readable = set(backbone.readable)
        unreadable = sorted(set(backbone.tokenizer.get_vocab().values()) - readable)
        unused = set(range(len(backbone.embeddings))) - readable
        untyped = [i for x in self.untyped for i in x.token_ids]
        counted = (
            (
                listing.too_long + self.drawn.too_long,
                f"listed words and strings of more than {LONGEST_WORD} subword tokens",
            ),
            (
                self.beyond_limit,
                f"listed words beyond the limit of {self.settings.max_words}",
            ),
            (
                listing.unknown,
                "listed words that the tokenizer does not know; the model reads each of them as "
                f"{backbone.tokenizer.unk_token}, which was examined",
            ),
            (listing.empty, "listed words that the tokenizer leaves nothing of"),
            (
                listing.unreadable + self.drawn.unreadable,
                "listed words and strings with a token that has no embedding",
            ),
            (
                len(unreadable),
                f"tokens without an embedding, which stop the model: {some(names(unreadable))}",
            ),
            (len(unused), "rows of the embedding matrix without a token, which no text gives"),
            (
                len(untyped),
                "tokens that none of the tried strings gives, which were examined by their ids "
                f"alone: {some(names(untyped))}",
            ),
        )
        return [f"{count:,} {what}" for count, what in counted if count]

    def _expected(self) -> int:
        """A rough number of forward tokens of the screening, for the remaining time."""
        s, extra = self.settings, len(self.backbone.template) + 1
        pool = 1 + extra / s.pool_tokens
        subwords = sum(len(word.token_ids) for word in self.words) / max(1, len(self.words))
        first = (
            len(self.entries) * s.token_rounds * pool
            + len(self.words) * subwords * s.word_rounds * pool
        )
        second = 1.5 * s.second_candidates * 2 * s.second_rounds * pool
        per_text = 1.4 * s.text_words + extra + 2
        texts = (s.text_candidates + s.controls) * s.screen_texts * per_text
        return round(first + second + texts + 2 * s.holdout_candidates * s.holdout_texts * per_text)

    def encode(
        self,
        stage: str,
        sequences: Sequence[Sequence[int]],
        *,
        fast: bool = True,
    ) -> Steps[torch.Tensor]:
        """Yields `Progress` block by block. Returns (N, R, H) features at `readouts`.

        Incomplete if an activation is not finite.
        """
        blocks = []
        for number, block in enumerate(_blocks(sequences, tokens=40_000)):
            compute = partial(
                self.backbone.encode_ids,
                block,
                readouts=self.readouts,
                fast=fast,
                batch_tokens=self.batch_tokens,
            )
            asked = digest(json.dumps([block, list(map(str, self.readouts)), fast]))
            shape = (len(block), len(self.readouts), self.backbone.hidden)
            features, resumed = self.store.features(f"{stage}-{number}-{asked}", shape, compute)
            if not torch.isfinite(features).all():
                raise Incomplete(
                    f"the model answered with NaN or infinite activations in stage {self.stages}"
                )
            blocks.append(features.to(self.backbone.device))
            yield self.spent(sum(map(len, block)), resumed)
        return torch.cat(blocks)

    def begin(self, stage: str) -> Progress:
        """Begin the stage of that name in `stages.STAGES`."""
        self.stages.begin(stage, self.done)
        return self.spent(0)

    def spent(self, tokens: int, resumed: bool = False) -> Progress:
        """Count forward tokens. Incomplete once the budget is used up."""
        self.done += tokens
        self._check_budget()
        return Progress(
            self.stages.words,
            self.stages.position(self.done),
            self.done,
            time.monotonic() - self.started,
            self.stages.number,
            len(self.stages.names),
            resumed,
        )

    def counted(self, work: Generator[int, None, T]) -> Steps[T]:
        """Run a generator that yields the tokens of each of its passes. Returns its result."""
        while True:
            try:
                tokens = next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            yield self.spent(tokens)

    def _check_budget(self) -> None:
        budget_seconds = self.settings.budget_seconds
        if budget_seconds and time.monotonic() - self.started > budget_seconds:
            raise Incomplete(f"the budget of {budget_seconds:g} s ended in stage {self.stages}")

    def _closeness(
        self, stage: str, candidates: Sequence[Candidate], rounds: int
    ) -> Steps[torch.Tensor]:
        if not candidates:
            return torch.empty(0, len(self.readouts))
        features: list[torch.Tensor] = []
        owners: list[torch.Tensor] = []
        for number in range(rounds):
            rng = random.Random(f"{self.seed}/{stage}/{number}")
            sequences, owner = fill(self.backbone, candidates, self.settings.pool_tokens, rng)
            features.append((yield from self.encode(f"{stage}-{number}", sequences)))
            owners.append(owner)
        return closeness(features, owners)

    def cut_texts(self) -> None:
        """Draw texts from three disjoint sets of documents, for the screening, the hold-out and the
        clean reference.

        Incomplete if there are too few, or if the budget is used up. ValueError if a text has a
        token without an embedding.
        """
        self._check_budget()
        docs = list(dict.fromkeys(self.texts))
        random.Random(f"{self.seed}/documents").shuffle(docs)
        s = self.settings
        counts = (s.screen_texts, s.holdout_texts, s.clean_texts)
        self.screen_documents = docs[::3]
        try:
            self.screen_texts, self.holdout_texts, self.clean_texts = (
                contexts(self.backbone, docs[i::3], words=s.text_words, count=count, seed=self.seed)
                for i, count in enumerate(counts)
            )
        except ValueError as error:
            raise Incomplete(f"too few texts: {error}") from error
        for text in (*self.screen_texts, *self.holdout_texts, *self.clean_texts):
            self.backbone.check_ids(text.ids())

    def measure_clean(self) -> Steps[CleanReference]:
        """Returns the clean reference. Readouts that are constant over clean texts are dropped;
        Incomplete if all are."""
        clean = (yield from self.features("clean", self.clean_texts, [()]))[0]
        varies = clean.var(0).sum(-1) > 1e-6 * clean.square().sum(-1).mean(0)
        if not varies.any():
            raise Incomplete("the model answers all clean texts alike at every readout")
        self.constant = tuple(r for r, v in zip(self.readouts, varies, strict=True) if not v)
        self.readouts = tuple(r for r, v in zip(self.readouts, varies, strict=True) if v)
        return CleanReference.of(clean[:, varies], self.seed)

    def screen(self) -> Steps[Shortlist]:
        """All stages before the hold-out. Returns the `Shortlist`."""
        s = self.settings
        self.cut_texts()
        clean_reference = yield from self.measure_clean()
        pool = [*self.entries, *self.words]
        subwords = torch.tensor([min(len(c.token_ids), 6) if c.kind == "word" else 0 for c in pool])
        yield self.begin("entries")
        single = yield from self._closeness("entries", self.entries, s.token_rounds)
        yield self.begin("words")
        several = yield from self._closeness("words", self.words, s.word_rounds)
        first = torch.cat([single, several])
        z = standardise(first, subwords, torch.ones(len(pool), dtype=torch.bool))

        rng = random.Random(f"{self.seed}/anchors")
        kept = sorted({*best_of_each(z, s.second_candidates), *self._favoured(pool)})
        others = sorted(set(range(len(pool))) - set(kept))
        # As many benign controls as survivors: two triggers in one pool would hide each other.
        rows = kept + rng.sample(others, min(len(others), s.second_candidates))
        yield self.begin("second")
        second = yield from self._closeness("second", [pool[i] for i in rows], s.second_rounds)
        is_control = torch.arange(len(rows)) >= len(kept)
        z2 = standardise(second, subwords[torch.tensor(rows)], is_control)[: len(kept)]

        # The better rung counts: another trigger in a pool may hide a trigger at one of them.
        looks = z.clone()
        looks[kept] = torch.maximum(z2, z[kept])
        kept = sorted({*self._best(pool, looks, kept), *self._favoured(pool)})
        controls = rng.sample(range(len(pool)), min(len(pool), s.controls))
        candidates = [pool[i] for i in kept + controls]
        yield self.begin("texts")
        collapses, means = yield from self._in_texts("texts", candidates, clean_reference)
        return Shortlist(
            candidates=candidates,
            kept=len(kept),
            collapses=collapses,
            means=means,
            z=z.max(1).values,
            looks=looks,
            clean_reference=clean_reference,
        )

    def further(self, number: int, shortlist: Shortlist, known: Sequence[Ids]) -> Steps[Shortlist]:
        """Returns the `Shortlist` with the next best candidates that contain none of the `known`
        subsets: if known triggers are part of hundreds of words, these displaced others
        (docs/decisions/0006).

        number: of the call, as key of the activation cache.
        """
        there = set(shortlist.candidates[: shortlist.kept])
        pool = [*self.entries, *self.words]
        fresh = [i for i, x in enumerate(pool) if x not in there]
        left = [i for i in fresh if not any(within(ids, pool[i].token_ids) for ids in known)]
        if not left:
            return shortlist
        found = [pool[i] for i in self._best(pool, shortlist.looks, left)]
        collapses, means = yield from self._in_texts(
            f"further-{number}", found, shortlist.clean_reference
        )
        return shortlist.joined(found, collapses, means)

    def _best(
        self, pool: Sequence[Candidate], looks: torch.Tensor, rows: Sequence[int]
    ) -> list[int]:
        """Those of the rows that go on to ordinary texts."""
        scores = looks[list(rows)]
        told = telling_tokens([pool[i] for i in rows], scores.max(1).values, pool)
        return [rows[i] for i in best_of_each(scores, self.settings.text_candidates, told)]

    def _in_texts(
        self, stage: str, candidates: Sequence[Candidate], clean_reference: CleanReference
    ) -> Steps[tuple[torch.Tensor, torch.Tensor]]:
        """Returns the collapse (K, R) and means (K, R, H)."""
        collapses, means = [], []
        for start in range(0, len(candidates), 64):
            part = [candidate.token_ids for candidate in candidates[start : start + 64]]
            features = yield from self.features(f"{stage}-{start}", self.screen_texts, part)
            collapses.append(clean_reference.measure(features)["collapse"].cpu())
            means.append(features.mean(1).cpu())
        return torch.cat(collapses), torch.cat(means)

    def _favoured(self, pool: Sequence[Candidate]) -> list[int]:
        """Rows of the candidates whose embeddings moved from the trusted original by more than
        MOVED."""
        if self.reference is None:
            return []
        prior = self.reference.prior(pool)
        return [
            i for i in prior.topk(min(FAVOURED, len(pool))).indices.tolist() if prior[i] > MOVED
        ]

    def excerpts(self, words: int, count: int) -> list[Carrier]:
        """Excerpts of another length from the screening documents."""
        return contexts(
            self.backbone, self.screen_documents, words=words, count=count, seed=self.seed
        )

    def scatter(
        self,
        candidates: Sequence[tuple[int, ...]],
        column: int,
        texts: Sequence[Carrier] = (),
        copies: int = 1,
    ) -> torch.Tensor:
        """(K,) log10 dispersion of texts, by default the screening texts, with copies of each
        candidate inserted."""
        texts = texts or self.screen_texts
        plain = sum(len(self.backbone.template.wrap(text.ids())) for text in texts)
        subwords = copies * sum(map(len, candidates))
        self.done += plain * len(candidates) + subwords * len(texts)
        return scatter(self.backbone, candidates, self.readouts[column], texts, copies)

    def features(
        self,
        stage: str,
        texts: Sequence[Carrier],
        candidates: Sequence[tuple[int, ...]],
        *,
        fast: bool = True,
        copies: int = 1,
    ) -> Steps[torch.Tensor]:
        """Yields `Progress`. Returns (K, N, R, H) features of the texts with each candidate
        inserted."""
        sequences = [
            self.backbone.template.wrap(x.ids(ids, copies)) for ids in candidates for x in texts
        ]
        flat = yield from self.encode(stage, sequences, fast=fast)
        return flat.view(len(candidates), len(texts), *flat.shape[1:])


def _blocks(sequences: Sequence[Sequence[int]], tokens: int) -> Iterator[list[Sequence[int]]]:
    """Runs of sequences of about `tokens` tokens each."""
    block: list[Sequence[int]] = []
    filled = 0
    for ids in sequences:
        block.append(ids)
        filled += len(ids)
        if filled >= tokens:
            yield block
            block, filled = [], 0
    if block:
        yield block
