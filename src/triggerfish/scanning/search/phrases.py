"""The search for phrases and combinations: mine targets that the sweep has not explained, reach
them in words, name the words.

It starts where the sweep ends: what the sweep found repels the mining, and the texts are the
sweep's screening texts, so that the hold-out stays unseen.

Legend: K searches, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from triggerfish.scanning.fold import Ids
from triggerfish.scanning.measure import Context, Yardstick
from triggerfish.scanning.search.mining import MineSettings, Target, mine
from triggerfish.scanning.search.naming import Naming
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.relax import RelaxSettings, relax
from triggerfish.scanning.sweep import Progress, Sweep


@dataclass(frozen=True)
class PhraseSettings:
    readouts: int = 1
    """Readouts searched, the primary one first (ours)."""
    targets: int = 2
    """Mined targets, those where most restarts met, that words are searched for (ours)."""
    named: int = 3
    """Sequences of a target that are named, the deepest first (ours)."""
    min_depth: float = 1.0
    """Decades of collapse on the hold-out that a searched phrase must have (ours: on the clean
    models that it was chosen on, the deepest had 0.5; docs/scanning/search.md)."""
    mining: MineSettings = MineSettings()
    relaxing: RelaxSettings = RelaxSettings()


EFFORTS: dict[str, PhraseSettings] = {
    "quick": PhraseSettings(targets=1, mining=MineSettings(restarts=8)),
    "standard": PhraseSettings(),
    "thorough": PhraseSettings(readouts=99, targets=4, relaxing=RelaxSettings(restarts=24)),
}
"""How long to search: thorough searches every readout."""


class PhraseSearch:
    """One model's search. `run` is a generator: it yields `Progress` and returns phrases."""

    def __init__(self, sweep: Sweep, yardstick: Yardstick, settings: PhraseSettings):
        self.sweep = sweep
        self.yardstick = yardstick
        self.settings = settings
        self.generator = torch.Generator().manual_seed(sweep.seed)

    def run(self, known: Sequence[tuple[int, torch.Tensor]]) -> Iterator[Progress]:
        """known: (column, (H,) point) of what has been found. Returns (ids, column) pairs, deepest
        first, whose depth on the screening texts is at least half of what a finding needs."""
        settings, sweep, device = self.settings, self.sweep, self.sweep.backbone.device
        mining, relaxing = settings.mining, settings.relaxing
        columns = torch.arange(min(settings.readouts, len(sweep.readouts)), device=device)
        columns = columns.repeat_interleave(mining.restarts)
        prompts = self._prompts(sweep.screen_texts[: mining.texts], mining.words, mining.vectors)
        search = mine(prompts, self.yardstick, columns, known, mining, self.generator)
        targets = yield from self._watched("targets", prompts, search)
        chosen = [target for target in targets if target.restarts > 1][: settings.targets]
        if not chosen:
            return []
        texts = sweep.screen_texts[-relaxing.texts :]
        prompts = self._prompts(texts, relaxing.words, relaxing.tokens)
        each = [target for target in chosen for _ in range(relaxing.restarts)]
        search = relax(
            prompts,
            self.yardstick,
            torch.tensor([target.column for target in each], device=device),
            torch.stack([target.point for target in each]),
            torch.stack([target.likeness for target in each]),
            relaxing,
            self.generator,
        )
        ids, _ = yield from self._watched("phrases", prompts, search)
        return (yield from self._name([tuple(row) for row in ids.tolist()], each))

    def _prompts(self, texts: Sequence[Context], words: int, length: int) -> Prompts:
        short = [text.short(words) for text in texts]
        return Prompts(self.sweep.backbone, short, length, self.sweep.readouts)

    def _watched(
        self, stage: str, prompts: Prompts, search: Generator[None, None, Any]
    ) -> Iterator[Progress]:
        """Yields `Progress` for each step of a search; returns what it returns."""
        counted = 0
        while True:
            try:
                next(search)
            except StopIteration as end:
                return end.value
            yield self.sweep.spent(stage, prompts.passed - counted)
            counted = prompts.passed

    def _name(self, found: Sequence[Ids], each: Sequence[Target]) -> Iterator[Progress]:
        sweep, settings = self.sweep, self.settings
        features = yield from sweep.features("phrases-found", sweep.screen_texts, found)
        columns = torch.tensor([target.column for target in each])
        depths = self.yardstick.measure(features)["depth"].cpu()[torch.arange(len(found)), columns]
        worth = [i for i in depths.argsort(descending=True).tolist()
                 if depths[i] >= settings.min_depth / 2]  # fmt: skip
        naming = Naming(sweep.backbone, [word.token_ids for word in sweep.words])
        phrases: list[tuple[Ids, int]] = []
        for row in worth[: settings.named]:
            column = each[row].column

            ids = naming.name(found[row], lambda tried, at=column: sweep.scatter(tried, at))
            if (ids, column) not in phrases:
                phrases.append((ids, column))
            yield sweep.spent("names", 0)
        return phrases
