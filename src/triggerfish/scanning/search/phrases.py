"""The search for phrases and combinations: mine targets that the sweep has not explained, ask which
tokens lead there, try them together, name the words.

It starts where the sweep ends: what the sweep found repels the mining, and the texts are the
sweep's screening texts, so that the hold-out stays unseen. What one round finds repels the next.

Legend: K prompts, P places, E embedding, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from triggerfish.scanning.fold import Ids
from triggerfish.scanning.grow import scatter
from triggerfish.scanning.measure import Context, Yardstick
from triggerfish.scanning.search.assembling import (
    AssembleSettings,
    Grower,
    beside,
    held_in_place,
    tried_together,
)
from triggerfish.scanning.search.mining import MineSettings, Target, mine
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.search.steering import FREE, SteerSettings, steer
from triggerfish.scanning.sweep import Progress, Sweep

BLOCK = 512
"""Sequences tried between two reports of progress."""
NAMED_IN = 6
"""Short texts in which sequences are cut to what they need and completed (ours)."""


@dataclass(frozen=True)
class PhraseSettings:
    readouts: int = 1
    """Readouts searched, the primary one first (ours)."""
    rounds: int = 3
    """Minings; a round that finds nothing is the last (ours)."""
    targets: int = 2
    """Mined targets of a round, the deepest ones, that words are searched for (ours)."""
    min_depth: float = 1.0
    """Decades of collapse on the hold-out that a searched phrase must have (ours: on the clean
    models that it was chosen on, the deepest had 0.5; docs/scanning/search.md)."""
    mining: MineSettings = MineSettings()
    steering: SteerSettings = SteerSettings()
    assembling: AssembleSettings = AssembleSettings()


class PhraseSearch:
    """One model's search. `run` is a generator: it yields `Progress` and returns phrases.

    tried: sequences tried together so far.
    """

    def __init__(self, sweep: Sweep, yardstick: Yardstick, settings: PhraseSettings):
        self.sweep = sweep
        self.yardstick = yardstick
        self.settings = settings
        self.space = Space(sweep.backbone)
        self.words = [word.token_ids for word in sweep.words]
        self.naming = Naming(sweep.backbone, self.words)
        self.short = [x.short(settings.steering.words) for x in sweep.screen_texts]
        self.generator = torch.Generator().manual_seed(sweep.seed)
        self.tried = 0

    def run(self, known: Sequence[tuple[int, torch.Tensor]]) -> Iterator[Progress]:
        """known: (column, (H,) point) of what has been found. Returns (ids, column) pairs whose
        depth on the screening texts is at least half of what a finding needs."""
        known = list(known)
        phrases: list[tuple[Ids, int]] = []
        for number in range(self.settings.rounds):
            before = len(phrases)
            targets = yield from self._mine(number, known)
            for target in targets[: self.settings.targets]:
                ids = yield from self._reach(target)
                if ids and (ids, target.column) not in phrases:
                    phrases.append((ids, target.column))
                    point = yield from self._point(f"{number}-{len(phrases)}", ids)
                    known.append((target.column, point[target.column]))
            if len(phrases) == before:
                break
        return phrases

    def _mine(self, number: int, known: Sequence[tuple[int, torch.Tensor]]) -> Iterator[Progress]:
        mining, sweep = self.settings.mining, self.sweep
        count = min(self.settings.readouts, len(sweep.readouts))
        columns = torch.arange(count, device=sweep.backbone.device)
        columns = columns.repeat_interleave(mining.restarts)
        prompts = self._prompts(sweep.screen_texts[: mining.texts], mining.words, mining.vectors)
        search = mine(prompts, self.space, self.yardstick, columns, known, mining, self.generator)
        return (yield from self._watched(f"targets-{number}", prompts, search))

    def _reach(self, target: Target) -> Iterator[Progress]:
        """Returns a phrase that sends texts to the target, or ()."""
        steering, settings = self.settings.steering, self.settings.assembling
        texts = self.sweep.screen_texts[-steering.texts :]
        places = self.settings.mining.vectors
        prompts = self._prompts(texts, steering.words, places)
        device = self.sweep.backbone.device

        def steered(held: torch.Tensor, near: torch.Tensor) -> Iterator[Progress]:
            given = (prompts, self.space, self.yardstick, target, held, near)
            search = steer(*given, steering, self.generator)
            return (yield from self._watched("steering", prompts, search))

        free = torch.full((steering.restarts, places), FREE, device=device)
        near = torch.arange(len(free), device=device) % 2 == 0
        vectors = torch.cat([(yield from steered(free, near)), target.vectors])
        pool = self.space.tokens(vectors, settings.pool)
        held = held_in_place(pool, places, settings).to(device)
        others = yield from steered(held, torch.ones(len(held), dtype=torch.bool, device=device))
        combined = beside(self.space, held, others, settings)
        sequences = list(dict.fromkeys([*tried_together(pool, settings), *combined]))
        hits = yield from self._hits(sequences, pool, target.column)
        grower = Grower(pool, self.words, settings)
        for hit in hits:
            ids = yield from self._named(hit, grower, target.column)
            if ids:
                return ids
        return ()

    def _hits(
        self, sequences: Sequence[Ids], pool: Sequence[int], column: int
    ) -> Iterator[Progress]:
        """Returns the few sequences that collapse texts more than the tokens of the pool alone."""
        settings = self.settings.assembling
        self.tried += len(sequences)
        first = yield from self._scatter(sequences, column, settings.texts)
        kept = [sequences[i] for i in first.argsort()[: settings.kept].tolist()]
        values = yield from self._scatter(kept, column, len(self.short))
        alone = yield from self._scatter([(i,) for i in pool], column, len(self.short))
        worth = float(alone.median()) - settings.hit
        order = [i for i in values.argsort().tolist() if values[i] <= worth]
        return [kept[i] for i in order[: settings.hits]]

    def _named(self, hit: Ids, grower: Grower, column: int) -> Iterator[Progress]:
        """Returns what a hit grows into, as words, or () where that is not deep enough."""
        few, sweep = self.short[-self.settings.assembling.texts :], self.sweep
        ids = hit
        for grown in grower.grow(hit, lambda tried: self._spread(tried, column, few)):
            ids = grown
            yield sweep.spent("growing", 0)
        (depth,) = self.yardstick.close[column].log10() - sweep.scatter([ids], column)
        if depth < self.settings.min_depth / 2:
            return ()
        more = self.short[:NAMED_IN]
        ids = self.naming.name(ids, lambda tried: self._spread(tried, column, more))
        yield sweep.spent("names", 0)
        return ids

    def _scatter(self, sequences: Sequence[Ids], column: int, texts: int) -> Iterator[Progress]:
        """Returns (K,) log10 of the scatter of the last `texts` short texts."""
        found = []
        for start in range(0, len(sequences), BLOCK):
            block = sequences[start : start + BLOCK]
            found.append(self._spread(block, column, self.short[-texts:]))
            yield self.sweep.spent("trying", 0)
        return torch.cat(found)

    def _spread(
        self, sequences: Sequence[Ids], column: int, texts: Sequence[Context]
    ) -> torch.Tensor:
        backbone = self.sweep.backbone
        plain = sum(len(backbone.template.wrap(x.ids())) for x in texts)
        self.sweep.done += plain * len(sequences) + len(texts) * sum(map(len, sequences))
        return scatter(backbone, sequences, self.sweep.readouts[column], texts)

    def _point(self, name: str, ids: Ids) -> Iterator[Progress]:
        """Returns (R, H) where the screening texts go with these ids."""
        features = yield from self.sweep.features(f"point-{name}", self.sweep.screen_texts, [ids])
        return features[0].mean(0)

    def _prompts(self, texts: Sequence[Context], words: int, length: int) -> Prompts:
        short = [text.short(words) for text in texts]
        return Prompts(self.sweep.backbone, short, length, self.sweep.readouts)

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
