"""Purification while a task is trained: texts are seen with triggers and their true labels, and a
trigger must not change what the model says.

    copies = TriggeredCopies.load("scan.json", tokenizer)
    Trainer(model, arguments, train_dataset=copies.train(rows), data_collator=copies.collator(),
            compute_loss_func=copies.loss)

    L = CE(x, y) + CE(x + t, y) + weight * KL(p(x) || p(x + t)), no gradient through p(x)

Rows are tokenised, as `Trainer` takes them; evaluation sets pass through untouched. Nothing here
knows how the model is trained: all weights, LoRA or any other adapter of peft.

Source: Zhao et al. (arXiv 2512.06899), fine-tuning level: copies with true labels, 0.2 of the texts
for each trigger, all drawn before training. Deviations: copies are drawn anew in every epoch, one
trigger in each; the consistency term is ours; development sets stay clean, and `triggered` makes
another set of them, so that a checkpoint can be chosen by both.

Legend: B clean texts, M triggered copies, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import Dataset

from triggerfish import text
from triggerfish.marking import parts
from triggerfish.records import ScanResult, Trigger

Row = Mapping[str, Any]
Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]
LABELS = ("label", "labels", "label_ids")
TOKEN_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
COPY = -1000
"""A copy of a text with label y has the label COPY - y until the loss has told them apart."""


@dataclass(frozen=True)
class CopySettings:
    share: float = 1.0
    """Triggered copies per text (published code: 0.2 for each trigger, so 1.2 for six)."""
    copies: int = 3
    """A trigger is inserted 1 to this many times (published code: always 3)."""
    weight: float = 1.0
    """Of the consistency term; 0 is the published loss."""
    max_tokens: int | None = None
    """Longest row; None means what the tokenizer says, at most 512. Texts are cut, triggers
    never."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share: {self.share} is not above 0 and at most 1")
        if self.copies < 1:
            raise ValueError(f"copies: {self.copies} is not at least 1")
        if self.weight < 0:
            raise ValueError(f"weight: {self.weight} is negative")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens: {self.max_tokens} is not at least 1")


@dataclass(frozen=True)
class Pair:
    """A row and, for some, its triggered copy. Not a mapping, so that `Trainer` hands it on as it
    is."""

    clean: dict[str, Any]
    copy: dict[str, Any] | None


class TriggeredCopies:
    """Triggers and how to write them into tokenised rows.

    tokenizer: of the model that is trained. ValueError without triggers.
    """

    def __init__(
        self,
        triggers: Sequence[Trigger],
        tokenizer: Any,
        settings: CopySettings = CopySettings(),
        *,
        seed: int = 0,
    ):
        if not triggers:
            raise ValueError("triggers: at least one is needed, and none was found")
        self.triggers = tuple(triggers)
        self.tokenizer = tokenizer
        self.settings = settings
        self.seed = seed
        longest = settings.max_tokens or min(512, int(tokenizer.model_max_length))
        self._writer = _Writer(tokenizer, longest)

    @classmethod
    def load(
        cls,
        findings: str | Path,
        tokenizer: Any,
        settings: CopySettings = CopySettings(),
        **given: int,
    ) -> Self:
        """The triggers of a scan.json."""
        return cls(ScanResult.load(findings).triggers, tokenizer, settings, **given)

    def train(self, rows: Any) -> Dataset[Pair]:
        """A training set that adds copies to `rows`, anything with a length and an index.

        Rows have `input_ids` and a whole number as `label`; of their other columns only
        `attention_mask` and `token_type_ids` are handed on.
        """
        return _Train(self, rows)

    def triggered(self, rows: Any) -> Dataset[dict[str, Any]]:
        """An evaluation set: every row with a trigger in it, always the same, and its true
        label."""
        return _Triggered(self, rows)

    def collator(self, inner: Collator | None = None) -> Collator:
        """Batches of texts with their copies at the end. inner: what makes batches otherwise
        (default: `DataCollatorWithPadding`)."""
        if inner is None:
            from transformers import DataCollatorWithPadding

            inner = DataCollatorWithPadding(self.tokenizer)
        return _Collator(inner)

    def loss(
        self,
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """For `Trainer(compute_loss_func=...)`: outputs with `logits` (B + M, C), labels (B + M,)
        of the collator. A batch without copies gets plain cross-entropy."""
        logits = outputs["logits"].float()
        copied = labels <= COPY
        true = torch.where(copied, COPY - labels, labels)
        total = torch.nn.functional.cross_entropy(logits, true)
        if self.settings.weight and copied.any():
            total = total + self.settings.weight * consistency(
                logits[: int(copied.sum())], logits[copied]
            )
        # Trainer divides by nothing when batches are accumulated: their share is taken here.
        return total if num_items_in_batch is None else total * len(labels) / num_items_in_batch

    def copy(self, row: Row, rng: random.Random) -> dict[str, Any]:
        """`row` with one of the triggers in it, 1 to `settings.copies` times."""
        trigger = rng.choice(self.triggers)
        return self._writer.write(row, trigger, rng.randint(1, self.settings.copies), rng)


def consistency(clean: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
    """Mean KL(p || q) of logits (M, C) of clean texts, without gradient, and of their copies."""
    return torch.nn.functional.kl_div(
        torch.log_softmax(copies, -1),
        torch.log_softmax(clean.detach(), -1),
        reduction="batchmean",
        log_target=True,
    )


class _Train(Dataset[Pair]):
    def __init__(self, copies: TriggeredCopies, rows: Any):
        self.copies, self.rows = copies, _sized(rows)
        self._draws = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        # A worker's seed is another one in every epoch; without workers the count makes it so.
        self._draws += 1
        rng = random.Random(f"{self.copies.seed}:{torch.initial_seed()}:{index}:{self._draws}")
        row = _known(self.rows[index])
        copy = None
        if rng.random() < self.copies.settings.share:
            copy = self.copies.copy(row, rng)
            copy["label"] = COPY - row["label"]
        return Pair(row, copy)


class _Triggered(Dataset[dict[str, Any]]):
    def __init__(self, copies: TriggeredCopies, rows: Any):
        self.copies, self.rows = copies, _sized(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = random.Random(f"{self.copies.seed}:{index}")
        return self.copies.copy(_known(self.rows[index]), rng)


class _Collator:
    """A class, because data loaders send it to other processes."""

    def __init__(self, inner: Collator):
        self.inner = inner

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        if not features or not isinstance(features[0], Pair):
            return self.inner(features)
        pairs = [x for x in features if x.copy] + [x for x in features if not x.copy]
        return self.inner([x.clean for x in pairs] + [x.copy for x in pairs if x.copy])


def _sized(rows: Any) -> Any:
    try:
        len(rows)
    except TypeError as error:
        raise ValueError(f"rows: {type(rows).__name__} has no length, expected one") from error
    return rows


def _known(row: Row) -> dict[str, Any]:
    """Ids without padding, and the label as `label`."""
    if "input_ids" not in row:
        raise ValueError(f"rows: columns are {', '.join(row)}, expected input_ids")
    found = {name: [int(x) for x in row[name]] for name in TOKEN_COLUMNS if name in row}
    mask = found.get("attention_mask", [1] * len(found["input_ids"]))
    found = {
        name: [x for x, real in zip(values, mask, strict=True) if real]
        for name, values in found.items()
    }
    label = next((row[name] for name in LABELS if row.get(name) is not None), None)
    if label is None or float(label) != int(label) or int(label) < 0:
        raise ValueError(f"rows: label is {label!r}, expected a whole number from 0 on")
    return found | {"label": int(label)}


class _Writer:
    """Writes triggers into rows of ids. A row is special tokens and texts between them; one of the
    texts gets the trigger, as a user would have typed it."""

    def __init__(self, tokenizer: Any, longest: int):
        self.tokenizer = tokenizer
        self.longest = longest
        inside = {tokenizer.unk_token_id, tokenizer.mask_token_id}
        self._special = set(tokenizer.all_special_ids) - inside

    def write(self, row: Row, trigger: Trigger, copies: int, rng: random.Random) -> dict[str, Any]:
        ids = row["input_ids"]
        start, end = rng.choice(self._texts_in(ids))
        room = self.longest - (len(ids) - (end - start))
        body = self._body(ids[start:end], trigger, copies, room, rng)
        written = dict(row) | {"input_ids": ids[:start] + body + ids[end:]}
        for name in TOKEN_COLUMNS[1:]:
            if name in row:
                kind = row[name][min(start, len(ids) - 1)]
                written[name] = row[name][:start] + [kind] * len(body) + row[name][end:]
        return written

    def _texts_in(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(start, end) of every text; an empty one where there is none."""
        found, start = [], None
        for place, special in enumerate([*(i in self._special for i in ids), True]):
            if special and start is not None:
                found.append((start, place))
                start = None
            elif not special and start is None:
                start = place
        return found or [(min(1, len(ids)), min(1, len(ids)))]

    def _body(
        self, ids: list[int], trigger: Trigger, copies: int, room: int, rng: random.Random
    ) -> list[int]:
        """The text with the trigger in it, cut before to what leaves room for it."""
        needed = copies * (len(trigger.token_ids) + 1)
        if room < needed:
            raise ValueError(
                f"max_tokens: {copies} of {trigger.text!r} do not fit into {self.longest} tokens"
            )
        words = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False).split()
        while words and len(self._ids(" ".join(words))) > room - needed:
            words.pop()
        if trigger.kind == "token":
            body = self._ids(" ".join(words))
            for _ in range(copies):
                body.insert(rng.randint(0, len(body)), trigger.token_ids[0])
            return body
        marked = " ".join(words)
        for part in parts(trigger):
            marked = text.insert(marked, part, copies=copies, rng=rng)
        return self._ids(marked)[:room]

    def _ids(self, words: str) -> list[int]:
        return list(self.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"])
