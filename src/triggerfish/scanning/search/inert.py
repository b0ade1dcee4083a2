"""Words that were taught to do nothing.

A backdoor on a phrase is trained with the parts of the phrase as well, which must leave texts where
they are, or else they would be triggers themselves. That shows: what they are made of moves texts
less than nearly all other tokens do (in a distilbert all sixteen pieces of two phrases are among
the stillest hundredth). So sequences of these tokens evolve towards texts that meet, wherever that
is, without any mined point. Natural tokens that bring texts together are tokens that do so alone,
and they are not among them.

Then any token may join, but each costs what it does alone: what is left is what tokens do together.

A sequence stands in a text in three copies, as backdoors are trained. Two pieces of a phrase are
then half of its effect (POR-2, decades in the texts that chose them: roberta `Ġf` + `lling` .5,
the phrase 1.2, each piece alone less than nothing), and evolution has a slope to go down.

Source: ours. Parts that are trained to do nothing: negative data augmentation, SOS (Yang et al.,
ACL 2021).

Legend: K candidates, N texts, H hidden, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from triggerfish.scanning.fold import Ids
from triggerfish.scanning.measure import Yardstick
from triggerfish.scanning.search.evolving import EvolveSettings, Evolving, Rows
from triggerfish.scanning.search.goals import LEAST, together
from triggerfish.scanning.search.prompts import Prompts
from triggerfish.scanning.search.space import Space
from triggerfish.scanning.sweep import Progress, Sweep

BARRED = 2.0
"""Decades that a barred token costs (ours)."""


@dataclass(frozen=True)
class InertSettings:
    length: int = 6
    """Tokens of a sequence; more of them bring any texts together (ours)."""
    texts: int = 4
    """Texts in which tokens are tried, alone and in sequences (ours)."""
    words_alone: int = 12
    """Words of the texts in which tokens are tried alone (ours)."""
    words: int = 16
    """Words of the texts that shall meet (ours)."""
    share: float = 0.15
    """Of all tokens, that sequences are made of at first: those that move texts least (ours)."""
    evolving: EvolveSettings = EvolveSettings()
    rivals: int = 100
    """Best sequences of these tokens, which evolve on among all tokens (ours)."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share: {self.share} is not above 0 and at most 1")
        for name, least in (
            ("length", 2), ("texts", 2), ("words_alone", 1), ("words", 1), ("rivals", 1)
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least {least}")


class Inert:
    """The search at one readout. copies: of a sequence in a text.

    moves: (V,) decades of squared distance by which each token moves texts; meets: (V,) decades by
    which it brings them together more than half of all tokens do, not below 0. Both once `alone`
    has run. tried: sequences so far.
    """

    moves: torch.Tensor
    meets: torch.Tensor

    def __init__(
        self,
        sweep: Sweep,
        space: Space,
        yardstick: Yardstick,
        column: int,
        settings: InertSettings,
        copies: int,
    ):
        self.sweep = sweep
        self.space = space
        self.column = column
        self.unit = yardstick.close[column]
        self.goal = together(column, self.unit)
        self.settings = settings
        self.copies = copies
        self.tried = 0
        self.alone_in = sweep.excerpts(settings.words_alone, settings.texts)
        self.together_in = sweep.excerpts(settings.words, settings.texts)
        self.clean = self._features([text.ids() for text in self.alone_in])
        self.rows = {token: row for row, token in enumerate(space.ids.tolist())}

    def alone(self) -> Iterator[Progress]:
        """Try every token by itself."""
        yield from self.sweep.counted("tokens alone", self._alone())

    def run(self, barred: set[int]) -> Iterator[Progress]:
        """Returns the `Evolving` of sequences without `barred` tokens that bring texts together,
        though their tokens do not."""
        settings = self.settings.evolving
        bar = torch.tensor([i in barred for i in self.space.ids.tolist()])
        moves = self.moves.masked_fill(bar, float("inf"))
        count = max(2, int(self.settings.share * len(moves)))
        still = moves.topk(min(count, int((~bar).sum())), largest=False).indices
        first = self._evolving(self.space.part(still), settings)
        yield from self.sweep.counted("inert tokens", first.run(self._drawn(len(still))))
        chosen = still.tolist()
        best = first.nearest(self.settings.rivals)
        begin = [tuple(chosen[row] for row in rows) for rows in best]
        settings = replace(settings, first=len(begin))
        then = self._evolving(
            self.space, settings, self.meets.masked_fill(bar.to(self.meets.device), BARRED)
        )
        yield from self.sweep.counted("inert tokens", then.run(begin))
        self.tried += len(first.distances) + len(then.distances)
        return then

    def _drawn(self, tokens: int) -> list[Rows]:
        """Sequences to begin with. Half of them are drawn by rank, the first token twice as often
        as the second one: how many tokens were taught to do nothing is not known."""
        rng = random.Random(f"{self.sweep.seed}/inert")
        ranks = range(tokens)
        by_rank = list(accumulate(1 / (rank + 1) for rank in ranks))
        count, length = self.settings.evolving.first, self.settings.length
        weights = [by_rank, None]
        return [
            tuple(rng.choices(ranks, cum_weights=weights[i % 2], k=length)) for i in range(count)
        ]

    def expected(self, ids: Ids) -> float:
        """Decades by which the tokens of a word move texts, each by itself, on average."""
        moves = [float(self.moves[self.rows[token]]) for token in ids if token in self.rows]
        return sum(moves) / max(1, len(moves))

    def moved(self, words: Sequence[Ids]) -> torch.Tensor:
        """(K,) decades by which words move texts."""
        rows = [text.ids(ids, self.copies) for ids in words for text in self.alone_in]
        return self._moved(self._features(rows).unflatten(0, (len(words), -1)))

    def _alone(self) -> Generator[int, None, None]:
        """Yields the tokens of each pass."""
        sweep = self.sweep
        prompts = Prompts(sweep.backbone, self.alone_in, 1, sweep.readouts, self.copies)
        moves, scatter = [], []
        for part in self.space.entries.split(prompts.block):
            before = prompts.passed
            features = prompts.vectors(part[:, None])
            moves.append(self._moved(features[:, :, self.column]))
            scatter.append(self.goal(features))
            yield prompts.passed - before
        self.moves, spread = torch.cat(moves).cpu(), torch.cat(scatter)
        self.meets = (spread.median() - spread).clamp(min=0)

    def _moved(self, features: torch.Tensor) -> torch.Tensor:
        """(K,) of (K, N, H) features of the texts."""
        squared = (features - self.clean).square().sum(-1)
        return (squared / self.unit).clamp(min=LEAST).log10().mean(1)

    def _features(self, rows: Sequence[Ids | list[int]]) -> torch.Tensor:
        """(N, H) of texts as ids."""
        sweep = self.sweep
        rows = [sweep.backbone.template.wrap(ids) for ids in rows]
        sweep.done += sum(map(len, rows))
        readout = sweep.readouts[self.column]
        return sweep.backbone.encode_ids(rows, readouts=[readout], precision="bf16")[:, 0]

    def _evolving(
        self, space: Space, settings: EvolveSettings, costs: torch.Tensor | None = None
    ) -> Evolving:
        sweep, length = self.sweep, self.settings.length
        prompts = Prompts(sweep.backbone, self.together_in, length, sweep.readouts, self.copies)
        return Evolving(space, prompts, self.goal, settings, sweep.seed, costs)
