"""The search of Patronus: several trigger slots at once under one contrastive loss, candidates from
its gradient, and a beam of trigger sets.

    loss(t_1..t_T)  SupCon over the clean texts (class 0) and the texts with each t_k (class k)
    candidates      for each slot the entries with the largest -G E^T, where G is the gradient of
                    the loss, summed over the positions of the slot's trigger
    beam            slot by slot, keep the sets with the lowest loss on a few texts
    accept          the best set, if its loss on all development texts is lower than before

Source: Patronus, arXiv 2512.06899, and its published code. Two bugs of the code are fixed:
positions of word-level gradients are those of each text, and the hidden state is read where the
family has it (XLNet: at its last token).

Legend: T slots, P subword tokens, E embedding.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import torch

from triggerfish.scanner.detectors.patronus_space import EmbeddingBall
from triggerfish.scanner.detectors.run import Run
from triggerfish.scanner.detectors.supcon import supcon
from triggerfish.scanner.screening import Incomplete, Steps

GRADIENT_SCALE = 1e4
"""Factor on accumulated gradients (published code); it does not change any ranking."""

Words = tuple[tuple[int, ...], ...]
Member = tuple[tuple[int, ...], float]
"""Numbers of the entries in the slots, and their loss."""


@dataclass(frozen=True)
class SlotSettings:
    slots: int = 8
    """Triggers searched at once (published code)."""
    batch: int = 16
    """Clean texts in a batch (published code)."""
    poisoned: int = 8
    """Poisoned copies of a batch in a gradient step; each text gets the trigger of a random slot
    (published code)."""
    accumulate: int = 2
    """Gradient steps before an update of the slots (published code)."""
    updates: int = 3
    """Updates of the slots in a loop (published code)."""
    loops: int = 5
    """Searches, each from new random triggers (published code)."""
    candidates: int = 5
    """Entries tried for each slot in an update (published code)."""
    beam: int = 3
    """Trigger sets kept from slot to slot (published code)."""
    copies: int = 3
    """Copies of a trigger in a text; one for the readout `mask` (published code)."""
    max_tokens: int = 512
    """Length in tokens that texts are cut to, at most the model's maximum (published code)."""
    temperature: float = 0.5
    """Of the contrastive loss (published code)."""
    search_texts: int = 96
    """Number of texts of the gradient steps, the first of the corpus (published code)."""
    dev_texts: int = 100
    """Number of texts that decide whether an update is accepted, also the first of the corpus
    (published code)."""
    screen_texts: int = 20
    """Number of texts on which the beam compares sets, also the first of the corpus; only whole
    batches count (published code)."""

    def __post_init__(self) -> None:
        positive = ("slots", "batch", "poisoned", "accumulate", "updates", "loops", "candidates")
        for name in (*positive, "beam", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.batch < 2:
            raise ValueError(f"batch: {self.batch} is not at least 2, and a class needs two texts")
        for name in ("search_texts", "dev_texts", "screen_texts"):
            if getattr(self, name) < self.batch:
                raise ValueError(f"{name}: {getattr(self, name)} texts fill no batch of "
                                 f"{self.batch}")  # fmt: skip
        if self.temperature <= 0:
            raise ValueError(f"temperature: {self.temperature} is not above 0")

    def batches_per_loop(self) -> int:
        """Batches through the model in the search of one loop, if no candidate is skipped because
        its set already contains it."""
        shortlist = 1 + self.candidates + (self.slots - 1) * self.beam * self.candidates
        classes = 1 + self.slots
        update = (
            shortlist * (self.screen_texts // self.batch) * classes
            + (self.dev_texts // self.batch) * classes
            + self.accumulate * (1 + self.poisoned)
        )
        return self.updates * update + (self.dev_texts // self.batch) * classes


@dataclass
class Search:
    """The search of one run. `loop` is a generator; it returns the triggers of the slots. tried:
    numbers of entries tried so far; calls: loss evaluations."""

    run: Run
    space: EmbeddingBall
    texts: Sequence[Words]
    settings: SlotSettings
    rng: random.Random
    tried: set[int] = field(default_factory=set)
    calls: int = 0

    def loop(self, name: str) -> Steps[tuple[int, ...]]:
        """Yields `Progress`; returns the numbers of the T entries in the slots."""
        s = self.settings
        if len(self.space) < s.slots:
            raise Incomplete(f"{len(self.space)} searchable strings do not fill {s.slots} slots")
        current = self.space.draw(s.slots, self.rng)
        self.tried.update(current)
        dev = self.texts[: s.dev_texts]
        best = self.loss(current, dev)
        batches = self._batches()
        for update in range(s.updates):
            gradients = [self._gradients(current, next(batches)) for _ in range(s.accumulate)]
            stage = f"{name}, update {update + 1}"
            found = yield from self._beam(current, sum(gradients[1:], gradients[0]), stage)
            loss = self.loss(found, dev)
            if loss < best:
                current, best = found, loss
        return current

    def loss(self, triggers: Sequence[int], texts: Sequence[Words]) -> float:
        """Contrastive loss of the triggers, mean over the whole batches of the texts. Each trigger
        is inserted at new random positions."""
        self.calls += 1
        s = self.settings
        whole = len(texts) // s.batch * s.batch
        groups: list[list[list[int]]] = [[self._clean(words) for words in texts[:whole]]]
        for number in triggers:
            ids = self.space.entries[number].ids
            groups.append([self.insert(words, ids)[0] for words in texts[:whole]])
        features = self.run.encode([ids for group in groups for ids in group])
        by_class = features.view(len(groups), -1, s.batch, features.shape[-1])
        classes = torch.arange(len(groups), device=features.device).repeat_interleave(s.batch)
        return sum(
            float(supcon(by_class[:, i].flatten(0, 1), classes, s.temperature))
            for i in range(by_class.shape[1])
        ) / max(1, by_class.shape[1])

    def insert(self, words: Words, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """The text with a trigger at random word boundaries, with special tokens, and the positions
        at which the copies begin."""
        parts: list[tuple[int, ...] | None] = list(words)
        for _ in range(self.copies):
            parts.insert(self.rng.randint(0, len(parts)), None)
        out: list[int] = []
        starts = []
        for part in parts:
            if part is None:
                starts.append(len(out) + len(self.run.backbone.template.prefix))
            out += ids if part is None else part
        return self.run.backbone.template.wrap(out), starts

    @property
    def copies(self) -> int:
        return 1 if self.run.readout.position == "mask" else self.settings.copies

    def _clean(self, words: Words) -> list[int]:
        return self.run.backbone.template.wrap([i for word in words for i in word])

    def _batches(self) -> Iterator[list[Words]]:
        """Whole batches of the search texts in random order, without end."""
        s = self.settings
        while True:
            order = self.rng.sample(range(s.search_texts), s.search_texts)
            for start in range(0, s.search_texts - s.batch + 1, s.batch):
                yield [self.texts[i] for i in order[start : start + s.batch]]

    def _gradients(self, triggers: Sequence[int], texts: Sequence[Words]) -> torch.Tensor:
        """(T, P, E) gradients of one step.

        At token level the positions of a trigger are all tokens with its id, inserted or not, as
        published. At word level they are the inserted ones, including its padding.
        """
        s, space = self.settings, self.space
        blocks = [space.block(space.entries[number]) for number in triggers]
        rows = [self._clean(words) for words in texts]
        owners = [0] * len(rows)
        places: list[list[int]] = [[] for _ in rows]
        for _ in range(s.poisoned):
            for words in texts:
                slot = self.rng.randrange(len(triggers))
                ids, starts = self.insert(words, blocks[slot])
                rows.append(ids)
                owners.append(slot + 1)
                places.append(starts)
        classes = torch.tensor(owners, device=self.run.backbone.device)

        def loss(features: torch.Tensor) -> torch.Tensor:
            return supcon(features, classes, s.temperature) / s.accumulate

        wanted = range(len(texts), len(rows))
        gradients = self.run.embedding_gradients(rows, wanted, loss)
        total = gradients[0].new_zeros(len(triggers), space.subwords, gradients[0].shape[-1])
        for row, gradient in zip(wanted, gradients, strict=True):
            if space.subwords > 1:
                for start in places[row]:
                    total[owners[row] - 1] += gradient[start : start + space.subwords]
                continue
            tokens = torch.tensor(rows[row], device=gradient.device)
            for slot, block in enumerate(blocks):
                total[slot, 0] += gradient[tokens == block[0]].sum(0)
        return GRADIENT_SCALE * total.float()

    def _beam(
        self, current: tuple[int, ...], gradients: torch.Tensor, stage: str
    ) -> Steps[tuple[int, ...]]:
        """Yields `Progress` after each slot; returns the trigger set with the lowest loss."""
        s = self.settings
        screen = self.texts[: s.screen_texts]
        members: list[Member] = [(current, self.loss(current, screen))]
        for slot, gradient in enumerate(gradients):
            grown = list(members)
            candidates = self.space.best(gradient, s.candidates)
            self.tried.update(candidates)
            for triggers, _ in members:
                for number in candidates:
                    if number not in triggers:
                        changed = (*triggers[:slot], number, *triggers[slot + 1 :])
                        grown.append((changed, self.loss(changed, screen)))
            members = sorted(grown, key=itemgetter(1))[: s.beam]
            yield self.run.progress(stage)
        return members[0][0]
