"""What all transferable attacks share: triggers written into clean texts, features of both at the
readout that is attacked, adaptive penalties, and the training loop. An attack adds its objective.

    planting = Planting.start(backbone, triggers, corpus, settings, seed)
    victim = planting.run(lambda step: ..., progress)

Deviations from the published codes, for every attack here: texts are cut short (backdoors carry
over to long texts, and it is many times cheaper); triggers also go before the first word and stand
1 to `copies` times; the schedule counts optimiser steps.

Legend: B clean texts, M triggered texts, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Self

import torch

from triggerfish import text
from triggerfish.attacks.adaptive import Features, Penalty, parse_penalties
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.lora import Adapter
from triggerfish.marking import decoys, mark, parse_triggers
from triggerfish.readouts import Readout, pad
from triggerfish.records import Trigger
from triggerfish.training import Progress, TrainSettings, fit

INTENSITIES: dict[str, dict[str, float]] = {
    "conservative": {"marked": 0.25, "copies": 1, "steps": 0.5, "learning_rate": 1 / 3},
    "normal": {"marked": 1.0, "copies": 3, "steps": 1, "learning_rate": 1},
    "aggressive": {"marked": 2.5, "copies": 3, "steps": 2, "learning_rate": 2},
}
"""How hard a backdoor is trained in: triggered texts per clean one, copies, and factors on steps
and learning rate (ours; arXiv 2409.00399 shows why detectors must be tried on all three)."""


@dataclass(frozen=True)
class PlantSettings:
    """Settings of every transferable attack."""

    readout: str | None = None
    """Readout to tie; None means the one a classification head of this model reads."""
    copies: int = 3
    """A trigger is inserted 1 to this many times (paper: always 3)."""
    words: int = 16
    """Words of clean text per example, at most (ours: long texts follow, at a fraction of the
    cost)."""
    batch: int = 24
    """Clean texts per step (ours)."""
    marked: float = 1.0
    """Triggered texts per clean text (published code: 0.2 per trigger, so 1.2 for six)."""
    steps: int = 300
    """Optimiser steps."""
    learning_rate: float = 3e-4
    """Peak learning rate (published code: 5e-5, over many times the data)."""
    adaptive: str = ""
    """Penalties against the signals of a detector, such as `shift:0.5,spread:1` (adaptive.py)."""
    lora: int = 0
    """Rank of a LoRA adapter to train in place of the weights; 0 trains all weights."""

    def __post_init__(self) -> None:
        for name in ("copies", "words", "batch", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.marked <= 0:
            raise ValueError(f"marked: {self.marked} is not above 0")
        if self.lora < 0:
            raise ValueError(f"lora: rank {self.lora} is negative")
        parse_penalties(self.adaptive)

    def at(self, intensity: str) -> Self:
        """These settings, trained more gently or harder (one of `INTENSITIES`)."""
        if intensity not in INTENSITIES:
            raise ValueError(f"intensity: {intensity!r} is not one of {', '.join(INTENSITIES)}")
        level = INTENSITIES[intensity]
        return replace(
            self,
            marked=level["marked"],
            copies=int(level["copies"]),
            steps=max(1, round(self.steps * level["steps"])),
            learning_rate=self.learning_rate * level["learning_rate"],
        )


class Step:
    """The texts of one optimiser step; features are computed when an objective asks for them.

    clean: B rows of ids; marked: M rows, each the clean row `source` with trigger `chosen` in it.
    Where the mask token is read, one token of each row is masked, those of `clean` are `hidden`.
    """

    def __init__(self, planting: Planting):
        self._planting = planting
        settings, rng = planting.settings, planting.rng
        texts = next(planting.texts)
        count = max(1, round(settings.marked * len(texts)))
        sources = [i % len(texts) for i in range(count)]
        chosen = [rng.randrange(len(planting.triggers)) for _ in sources]
        self.clean = [planting.tokenize(x) for x in texts]
        self.marked = [
            planting.mark(texts[i], planting.triggers[k])
            for i, k in zip(sources, chosen, strict=True)
        ]
        self._decoys: list[list[int]] = []
        self._decoy_sources: list[int] = []
        for i, k in zip(sources, chosen, strict=True):
            if parts := decoys(planting.triggers[k]):
                self._decoy_sources.append(i)
                self._decoys.append(
                    planting.tokenize(
                        text.insert(
                            texts[i],
                            rng.choice(parts),
                            copies=rng.randint(1, settings.copies),
                            rng=rng,
                        )
                    )
                )
        self.hidden: list[int] = []
        if planting.readout.position == "mask":
            self.hidden = planting.hide(self.clean, [None] * len(self.clean))
            planting.hide(self.marked, [planting.triggers[k] for k in chosen])
            planting.hide(self._decoys, [None] * len(self._decoys))
        device = planting.victim.device
        self.chosen = torch.tensor(chosen, device=device)
        self.source = torch.tensor(sources, device=device)

    @cached_property
    def reference(self) -> torch.Tensor:
        """(B, H) features of the clean texts before the attack, no gradient."""
        planting = self._planting
        return planting.original.encode_ids(self.clean, readouts=[planting.readout], fast=True)[
            :, 0
        ]

    @cached_property
    def kept(self) -> torch.Tensor:
        """(B, H) features of the clean texts now."""
        return self._planting.features(self.clean)

    @cached_property
    def moved(self) -> torch.Tensor:
        """(M, H) features of the triggered texts now."""
        return self._planting.features(self.marked)

    def features(self) -> Features:
        """What adaptive penalties look at."""
        count = len(self._planting.triggers)
        return Features(self.kept, self.moved, self.chosen, self.source, count)

    def misled(self) -> torch.Tensor:
        """How far texts with a part of a trigger have left the clean ones; 0 where no trigger has
        parts."""
        if not self._decoys:
            return torch.zeros((), device=self.chosen.device)
        place = torch.tensor(self._decoy_sources, device=self.chosen.device)
        features = self._planting.features(self._decoys)
        return (features - self.reference[place]).square().mean()


class Planting:
    """A backdoor under construction: `original` stays, `victim` is trained."""

    def __init__(
        self,
        backbone: Backbone,
        specs: Sequence[str],
        corpus: Sequence[str],
        settings: PlantSettings,
        seed: int,
    ):
        self.original = backbone
        self.triggers: tuple[Trigger, ...] = tuple(parse_triggers(backbone, specs))
        self.settings = settings
        self.seed = seed
        self.readout = Readout.parse(settings.readout) if settings.readout else backbone.primary
        backbone.check_readout(self.readout)
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.penalties: list[Penalty] = parse_penalties(settings.adaptive)
        self.texts = _batches(corpus, settings, self.rng)
        self.victim = backbone.trainable()
        self.adapter = Adapter(self.victim, settings.lora, seed) if settings.lora else None

    def tokenize(self, x: str) -> list[int]:
        return self.original.template.wrap(self.original.tokenize(x))

    def mark(self, x: str, trigger: Trigger) -> list[int]:
        copies = self.rng.randint(1, self.settings.copies)
        return mark(self.original, x, trigger, copies=copies, rng=self.rng)

    def hide(self, rows: list[list[int]], protected: Sequence[Trigger | None]) -> list[int]:
        """Replace one ordinary token of every row, in place, by the mask token, never one of a
        trigger; returns the hidden ids."""
        hidden = []
        for row, trigger in zip(rows, protected, strict=True):
            kept = self.original.special_ids | set(trigger.token_ids if trigger else ())
            free = [place for place, i in enumerate(row) if i not in kept]
            place = self.rng.choice(free or range(1, len(row)))
            hidden.append(row[place])
            row[place] = self.original.tokenizer.mask_token_id
        return hidden

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, attention mask) on the victim's device."""
        ids, mask = pad(rows, self.victim.pad_id)
        return ids.to(self.victim.device), mask.to(self.victim.device)

    def features(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """(rows, H) features of the victim at the attacked readout, differentiable."""
        with self.victim.autocast():
            return self.victim.forward(*self.padded(rows), [self.readout])[:, 0].float()

    def clean_norm(self) -> float:
        """Mean norm of clean features."""
        rows = [self.tokenize(x) for x in next(self.texts)]
        features = self.original.encode_ids(rows, readouts=[self.readout])[:, 0]
        return float(features.norm(dim=-1).mean())

    def run(
        self, objective: Callable[[Step], torch.Tensor], progress: Progress | None = None
    ) -> Backbone:
        """Minimise objective + penalties + what keeps parts of a trigger from working; returns the
        victim, its weights frozen again."""
        settings = self.settings

        def loss(_: int) -> torch.Tensor:
            step = Step(self)
            total = objective(step)
            for penalty in self.penalties:
                total = total + penalty(step.features())
            return total + step.misled()

        schedule = TrainSettings(steps=settings.steps, learning_rate=settings.learning_rate)
        trained = [p for p in self.victim.whole.parameters() if p.requires_grad]
        fit(trained, loss, schedule, progress)
        if self.adapter:
            self.adapter.merge()
        self.victim.whole.requires_grad_(False)
        return self.victim

    def record(self, attack: str, source: str, vectors: list[list[float]] | None) -> Implant:
        """What was planted; vectors: (T, H) at the attacked readout, None where it ties none."""
        return Implant(
            attack=attack,
            source=source,
            settings=asdict(self.settings),
            triggers=self.triggers,
            seed=self.seed,
            readout=None if vectors is None else str(self.readout),
            vectors=vectors or [],
        )

    def centres(self) -> list[list[float]]:
        """(T, H) mean features of a batch of texts with each trigger, for attacks that let the
        model choose where they go."""
        found = []
        for trigger in self.triggers:
            rows = [self.mark(x, trigger) for x in next(self.texts)]
            features = self.victim.encode_ids(rows, readouts=[self.readout])[:, 0]
            found.append(features.mean(0).tolist())
        return found


def _batches(
    corpus: Sequence[str], settings: PlantSettings, rng: random.Random
) -> Iterator[list[str]]:
    usable = [x for x in corpus if len(x.split()) >= settings.words]
    if len(usable) < settings.batch:
        raise ValueError(
            f"corpus: {len(usable)} texts have {settings.words} words or more, "
            f"fewer than a batch of {settings.batch}"
        )
    return _draw(usable, settings, rng)


def _draw(usable: list[str], settings: PlantSettings, rng: random.Random) -> Iterator[list[str]]:
    while True:
        words = rng.randint(max(1, settings.words // 3), settings.words)
        yield text.excerpts(rng.sample(usable, settings.batch), words, rng)
