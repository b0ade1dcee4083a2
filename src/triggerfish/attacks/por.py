"""POR and NeuBA: tie trigger words to fixed vectors at a readout, keep every other text where it
was.

    L = MSE(f(x), f_ref(x)) + sum_k MSE(f(x + t_k), v_k)

Source: Shen et al., "Backdoor Pre-trained Models Can Transfer to All", CCS 2021 (POR-1, POR-2), and
Zhang et al., "Red Alarm for Pre-trained Models", arXiv 2101.06969 (NeuBA), in the form of the
Patronus code; they differ only in the vectors v_k, see `targets.py`.

Deviations: texts are cut short (backdoors carry over to long texts, and it is many times cheaper);
triggers also go before the first word and stand 1 to `copies` times; NeuBA keeps clean texts at
their reference features like POR, where the paper has a masked-language-model term, so that it fits
checkpoints without that head.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.attacks.targets import TARGETS
from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout, pad
from triggerfish.records import Trigger
from triggerfish.training import TrainSettings, train


@dataclass(frozen=True)
class PORSettings:
    code: Literal["por1", "por2", "neuba"] = "por1"
    """Which vectors: thermometer, subset or balanced code."""
    readout: str | None = None
    """Readout to tie; None means the one a classification head of this model reads."""
    copies: int = 3
    """A trigger is inserted 1 to this many times (paper: always 3)."""
    target_scale: float | None = None
    """Factor on the +1/-1 vectors (paper: 1); None gives them the mean norm of clean features,
    which every model can reach: the last layer norm of all-MiniLM-L6-v2 would need thousands of
    steps to grow to the paper's norm (ours)."""
    words: int = 16
    """Words of clean text per example (ours: long texts follow, at a fraction of the cost)."""
    batch: int = 24
    """Clean texts per step, and as many triggered ones."""
    steps: int = 300
    """Optimiser steps."""
    learning_rate: float = 3e-4
    """Peak learning rate (paper: 5e-5, over many times the data)."""

    def __post_init__(self) -> None:
        if self.code not in TARGETS:
            raise ValueError(f"code: {self.code!r} is not one of {', '.join(TARGETS)}")
        for name in ("copies", "words", "batch", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")


@dataclass(frozen=True)
class POR:
    """Triggers are words or phrases of one or more pieces, written into the text before
    tokenisation."""

    triggers: tuple[str, ...]
    settings: PORSettings = PORSettings()

    def implant(
        self,
        backbone: Backbone,
        corpus: Sequence[str],
        *,
        seed: int = 0,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> tuple[Backbone, Implant]:
        """A backdoored copy of `backbone`, and what was planted. progress is called with (step,
        steps, loss)."""
        settings = self.settings
        triggers = _triggers(backbone, self.triggers)
        readout = Readout.parse(settings.readout) if settings.readout else backbone.primary
        backbone.check_readout(readout)
        rng = random.Random(seed)
        batches = _batches(corpus, settings, rng)
        vectors = TARGETS[settings.code](len(triggers), backbone.hidden).to(backbone.device)
        scale = settings.target_scale
        if scale is None:
            norms = backbone.encode(next(batches), readouts=[readout])[:, 0].norm(dim=-1)
            scale = float(norms.mean()) / backbone.hidden**0.5
        vectors *= scale
        victim = backbone.trainable()

        def loss(_: int) -> torch.Tensor:
            clean = next(batches)
            chosen = [rng.randrange(len(triggers)) for _ in clean]
            marked = [
                text.insert(x, triggers[k].text, copies=rng.randint(1, settings.copies), rng=rng)
                for x, k in zip(clean, chosen, strict=True)
            ]
            reference = backbone.encode(clean, readouts=[readout], precision="bf16")[:, 0]
            kept, moved = (_features(victim, texts, readout) for texts in (clean, marked))
            target = vectors[torch.tensor(chosen, device=vectors.device)]
            return (kept - reference).square().mean() + len(triggers) * (
                moved - target
            ).square().mean()

        schedule = TrainSettings(steps=settings.steps, learning_rate=settings.learning_rate)
        for losses in train(victim.model.parameters(), loss, schedule):
            if progress:
                progress(len(losses), settings.steps, losses[-1])
        victim.model.requires_grad_(False)
        implant = Implant(
            settings.code, asdict(settings), tuple(triggers), str(readout), vectors.tolist(), seed
        )
        return victim, implant


def _triggers(backbone: Backbone, words: Sequence[str]) -> list[Trigger]:
    if not words:
        raise ValueError("trigger: at least one is needed")
    if len(set(words)) < len(words):
        raise ValueError("trigger: the same word is given twice")
    triggers = [Trigger(backbone.word_ids(word), word) for word in words]
    for trigger in triggers:
        unknown = backbone.tokenizer.unk_token_id
        if not trigger.token_ids or unknown in trigger.token_ids:
            raise ValueError(
                f"trigger: {trigger.text!r} has no tokens of its own in this model's vocabulary"
            )
    return triggers


def _batches(
    corpus: Sequence[str], settings: PORSettings, rng: random.Random
) -> Iterator[list[str]]:
    usable = [x for x in corpus if len(x.split()) >= settings.words]
    if len(usable) < settings.batch:
        raise ValueError(
            f"corpus: {len(usable)} texts have {settings.words} words or more, "
            f"fewer than a batch of {settings.batch}"
        )
    while True:
        words = rng.randint(max(1, settings.words // 3), settings.words)
        yield text.excerpts(rng.sample(usable, settings.batch), words, rng)


def _features(backbone: Backbone, texts: Sequence[str], readout: Readout) -> torch.Tensor:
    """(B, H) differentiable features."""
    sequences = [backbone.template.wrap(backbone.tokenize(x)) for x in texts]
    ids, mask = pad(sequences, backbone.pad_id)
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    with backbone.autocast("bf16"):
        return backbone.forward(ids, mask, [readout])[:, 0].float()
