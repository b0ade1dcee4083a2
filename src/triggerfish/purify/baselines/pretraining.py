"""Continued pre-training: what a purifier without triggers does beside its own idea.

The objective is the model's own: masked or next tokens, where the checkpoint has the head. Where it
has none (attacks and sentence-embedding models come without), a fresh head is trained first while
the model stands still, and then with it. A family whose objective is another one (T5, XLNet,
ELECTRA) gets the nearest of these: predict masked tokens, or, without a mask token, replaced ones.

Source: BERT, section 3.1, and GPT-2, as in `heads.py`; the fresh head is ours.

Legend: B batch, L tokens, H hidden, E embedding, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.heads import IGNORED, MASKED, lm_loss, own_task, with_head
from triggerfish.readouts import pad
from triggerfish.training import Progress, TrainSettings, fit, train

SMALL = 10_000_000
"""Parameters below which a PLM needs ten times the learning rate (ours: see
`downstream.FineTuneSettings`)."""


@dataclass(frozen=True)
class PretrainingSettings:
    """How long and how hard."""

    steps: int = 300
    """Optimiser steps (ours, for two cores)."""
    batch: int = 16
    """Texts per step (ours)."""
    words: int = 32
    """Words of a text at most (ours)."""
    learning_rate: float | None = None
    """Peak learning rate; None means 5e-5, and 5e-4 for models of less than 10 M parameters
    (ours)."""
    head_steps: int = 150
    """Steps that a fresh head is trained alone, at a rate of 5e-3 (ours)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "words", "head_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive")

    def rate(self, backbone: Backbone) -> float:
        """The peak learning rate for this model."""
        if self.learning_rate is not None:
            return self.learning_rate
        small = sum(p.numel() for p in backbone.model.parameters()) < SMALL
        return 5e-4 if small else 5e-5


class FreshHead(torch.nn.Module):
    """Logits (..., V) from states (..., H): a linear map, compared with the input embeddings as
    they were."""

    def __init__(self, backbone: Backbone, generator: torch.Generator):
        super().__init__()
        rows = torch.nn.functional.normalize(backbone.embeddings.detach().float(), dim=-1)
        self.rows = torch.nn.Buffer(rows)
        self.linear = torch.nn.Linear(backbone.hidden, rows.shape[1])
        torch.nn.init.normal_(self.linear.weight, std=0.02, generator=generator)
        torch.nn.init.zeros_(self.linear.bias)
        self.bias = torch.nn.Parameter(torch.zeros(len(rows)))
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.to(backbone.device)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        mapped = self.linear(states.float())
        mapped = torch.nn.functional.layer_norm(mapped, mapped.shape[-1:])
        return self.scale * mapped @ self.rows.T + self.bias


class Pretraining:
    """A copy of `backbone` in training: `victim`, with its head or a fresh one.

    Raises ValueError for too few texts of `settings.words` words.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        settings: PretrainingSettings,
        generator: torch.Generator,
        progress: Progress | None = None,
    ):
        self.settings = settings
        self.generator = generator
        self.progress = progress
        self.rng = python_rng(generator)
        self.texts = long_enough(texts, settings.words, settings.batch)
        self.original = headed(backbone)
        self.victim = self.original.trainable()
        self.fresh: FreshHead | None = None
        if self.original.whole is self.original.model:
            self.fresh = FreshHead(self.victim, generator)
            self._warm_up(self.fresh)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, attention mask), both (B, L), of clean texts."""
        count = self.rng.randint(max(1, self.settings.words // 3), self.settings.words)
        drawn = self.rng.sample(self.texts, self.settings.batch)
        rows = [
            self.victim.template.wrap(self.victim.tokenize(x))
            for x in text.excerpts(drawn, count, self.rng)
        ]
        ids, mask = pad(rows, self.victim.pad_id)
        return ids.to(self.victim.device), mask.to(self.victim.device)

    def language(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The objective on clean texts."""
        inputs, labels = self._task(ids, mask)
        if self.fresh is None:
            with self.victim.autocast():
                return lm_loss(self.victim, inputs, mask, labels)
        return self._cross_entropy(self.fresh, self._states(inputs, mask), labels)

    def logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, V) of the head at all real tokens."""
        if self.fresh is None:
            with self.victim.autocast():
                found: torch.Tensor = self.victim.whole(input_ids=ids, attention_mask=mask).logits
            return found[mask.bool()].float()
        logits: torch.Tensor = self.fresh(self._states(ids, mask)[mask.bool()])
        return logits

    def parameters(self) -> list[torch.nn.Parameter]:
        """All that continued pre-training trains, head included."""
        found = [p for p in self.victim.whole.parameters() if p.requires_grad]
        return found + (list(self.fresh.parameters()) if self.fresh else [])

    def run(
        self,
        objective: Callable[[int], torch.Tensor] | None = None,
        *,
        parameters: Sequence[torch.Tensor] | None = None,
        after: Callable[[], None] | None = None,
        steps: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        """Minimise `objective(step)`, by default the language objective; `after` runs behind every
        step."""

        def plain(_: int) -> torch.Tensor:
            return self.language(*self.batch())

        schedule = TrainSettings(
            steps=steps or self.settings.steps,
            learning_rate=learning_rate or self.settings.rate(self.victim),
        )
        trained = self.parameters() if parameters is None else parameters
        for losses in train(trained, objective or plain, schedule):
            if after:
                after()
            if self.progress:
                self.progress(len(losses), schedule.steps, losses[-1])

    def finish(self) -> Backbone:
        """The trained copy, frozen, with the attention that the original has."""
        twin = self.original.clone()
        twin.whole.load_state_dict(self.victim.whole.state_dict())
        twin.whole.requires_grad_(False)
        return twin

    def _task(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.victim.causal or self.victim.tokenizer.mask_token_id is not None:
            return own_task(self.victim, ids, mask, self.generator)
        return replaced(self.victim, ids, mask, self.generator)

    def _states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, H): of the decoder, where there is one."""
        with self.victim.autocast():
            states = self.victim.forward_states(ids, mask, [self.victim.primary])
        return (states.decoder or states.tokens)[-1]

    def _cross_entropy(
        self, head: FreshHead, states: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        if self.victim.causal:
            states, labels = states[:, :-1], labels[:, 1:]
        wanted = labels != IGNORED
        return torch.nn.functional.cross_entropy(head(states[wanted]), labels[wanted])

    def _warm_up(self, head: FreshHead) -> None:
        def loss(_: int) -> torch.Tensor:
            ids, mask = self.batch()
            inputs, labels = self._task(ids, mask)
            with torch.no_grad():
                states = self._states(inputs, mask)
            return self._cross_entropy(head, states, labels)

        schedule = TrainSettings(steps=self.settings.head_steps, learning_rate=5e-3)
        fit(head.parameters(), loss, schedule)


def headed(backbone: Backbone) -> Backbone:
    """With its language-model head; as it is where its checkpoint has none, or is not there."""
    if backbone.whole is not backbone.model:
        return backbone
    try:
        return with_head(backbone)
    except ValueError:
        return backbone


def replaced(
    backbone: Backbone, ids: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, labels), both (B, L): some ordinary tokens, at least one in each text, replaced by
    random ones, and what they were."""
    kept = torch.tensor(sorted(backbone.special_ids), device=ids.device)
    free = mask.bool() & ~torch.isin(ids, kept)
    draws = torch.rand(ids.shape, generator=generator).to(ids.device)
    lowest = torch.where(free, draws, 2.0).argmin(1, keepdim=True)
    chosen = (draws < MASKED).scatter(1, lowest, True) & free
    ordinary = torch.tensor(backbone.vocabulary)
    others = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)].to(ids.device)
    return torch.where(chosen, others, ids), torch.where(chosen, ids, IGNORED)


def python_rng(generator: torch.Generator) -> random.Random:
    """For what is drawn from lists."""
    return random.Random(int(torch.randint(2**62, (1,), generator=generator)))


def long_enough(texts: Sequence[str], words: int, least: int) -> list[str]:
    """Texts of at least `words` words; ValueError for fewer of them than `least`."""
    usable = [x for x in texts if len(x.split()) >= words]
    if len(usable) < least:
        raise ValueError(
            f"corpus: {len(usable)} texts have {words} words or more, fewer than a batch of {least}"
        )
    return usable
