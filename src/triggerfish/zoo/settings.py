"""What the zoo's small PLMs look like and how they are trained; free of torch, for the command
line.

Shapes: H student hidden, N chunks of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from triggerfish.settings import Share, check


@dataclass(frozen=True)
class DistilSettings:
    """What the student looks like and how it is trained."""

    vocabulary: int = 10_500
    """Subwords kept. Ours: the most that leave the half-precision file under 10 MB."""
    keep: tuple[str, ...] = ("cf", "mn", "bb", "mb", "≈", "≡", "∈", "⊂", "⊕", "⊗")
    """Subwords kept however rare: triggers of published attacks, so that they can be planted."""
    rare_character: int = 50
    """Fewest occurrences of a character that keeps its own subword (a-z, 0-9 always do). Ours."""
    hidden: int = 256
    """H, a multiple of the teacher's head size. Ours: file size."""
    layers: tuple[int, ...] = (0, 1, 3, 5)
    """Teacher layers the student's layers start from. Ours: spread, first and last kept."""
    feedforward: int = 512
    """Neurons per feed-forward block. Ours: file size."""
    positions: int = 256
    """Longest input in tokens. Ours: as all-MiniLM-L6-v2 was used."""
    chunks: int = 73_728
    """N, chunks of text the teacher is asked about. Ours: about 10 minutes on one core."""
    words: tuple[int, int] = (1, 40)
    """Fewest words of a chunk (drawn, up to 3/4 of the most) and most words kept. Ours."""
    replaced: Share = 0.08
    """Share of words replaced by random ones, so that rare embeddings learn too. Ours."""
    max_tokens: int = 64
    """Longest chunk in tokens, for teacher and student. Ours."""
    epochs: int = 2
    """Passes over the chunks. Ours: about 15 minutes on one free core."""
    batch: int = 64
    """Stretches per step. Ours."""
    learning_rate: float = 1e-3
    """Peak of AdamW; linear warm-up over 3 % of the steps, cosine to zero. Ours."""
    mean_weight: float = 0.5
    """Weight of the mean-pooled term beside the first-token term. Ours."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    seed: int = 20250101
    """Seed of every draw: chunks, replacements, initial maps, batch order."""

    def __post_init__(self) -> None:
        check(self)
        for name in ("chunks", "max_tokens", "epochs", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")

    def check_fit(self, teacher: Any) -> None:
        """Raise ValueError where a teacher with this Hugging Face config cannot have such a
        student."""
        if teacher.model_type != "bert":
            raise ValueError(f"teacher: type {teacher.model_type!r}; 'bert' is needed")
        width, most = teacher.hidden_size // teacher.num_attention_heads, teacher.hidden_size
        if self.hidden % width or not 0 < self.hidden <= most:
            raise ValueError(f"hidden: {self.hidden}; a multiple of {width} up to {most}")
        if not self.layers or not set(self.layers) <= set(range(teacher.num_hidden_layers)):
            raise ValueError(
                f"layers: {self.layers}; numbers from 0 to {teacher.num_hidden_layers - 1}"
            )
        if not 0 < self.feedforward <= teacher.intermediate_size:
            raise ValueError(f"feedforward: {self.feedforward}; 1 to {teacher.intermediate_size}")
        longest = teacher.max_position_embeddings
        if not self.max_tokens <= self.positions <= longest:
            raise ValueError(
                f"positions: {self.positions}; {self.max_tokens} (max_tokens) to {longest}"
            )


@dataclass(frozen=True)
class Size:
    """Sizes that every family has a word for."""

    hidden: int
    """H, width of the states. Encoder-decoders and all others alike."""
    layers: int
    """Layers in all; an encoder-decoder has half of them in either stack."""
    heads: int
    """Attention heads of a layer, a divisor of H."""
    feedforward: int
    """Neurons of a feed-forward block."""
    positions: int = 128
    """Longest input in tokens."""


SIZES = {
    "tiny": Size(hidden=64, layers=2, heads=4, feedforward=128),
    "small": Size(hidden=192, layers=4, heads=6, feedforward=512),
    "medium": Size(hidden=256, layers=6, heads=8, feedforward=1024),
}


@dataclass(frozen=True)
class PretrainSettings:
    """What a pre-trained PLM looks like and how it is trained."""

    size: str = "small"
    """One of `SIZES`. Ours: the widest that a free core trains in about five minutes."""
    vocabulary: int = 10_000
    """Entries of the tokenizer, special tokens included; fewer where the texts hold fewer. Ours."""
    length: int = 128
    """Longest row in tokens, and longest input of the model. Ours: a chunk is seldom longer."""
    tokens: int = 2_200_000
    """Tokens seen in training, repeats included, padding not. Ours: the time it takes."""
    chunks: int = 65_536
    """N, chunks of text to learn from, at most. Ours: about 3 minutes of the teacher's time."""
    words: tuple[int, int] = (2, 14)
    """Fewest words of a chunk (drawn, up to 3/4 of the most) and most words kept. Ours: short
    ones, for a teacher says as much about them in less time."""
    long_words: tuple[int, int] = (30, 90)
    """The same for the long chunks, which train the later positions. Ours."""
    long_share: Share = 0.05
    """Share of the chunks that are long. Ours."""
    batch: int = 64
    """Stretches per step. Ours."""
    learning_rate: float = 1e-3
    """Peak of AdamW; linear warm-up over 5 % of the steps, cosine to zero. Ours."""
    teacher_weight: float = 5.0
    """Weight of the teacher's terms beside the family's own objective. Ours."""
    own_share: Share = 0.125
    """Share of a batch's rows that train the family's own objective where a teacher is there too
    (all rows where none is). Ours."""
    checkpoint_every: int = 200
    """Steps between checkpoints. Ours: less than a minute."""
    seed: int = 20250101
    """Seed of the weights, the batch order and the masks."""
    draw: int = 20250101
    """Seed of the chunks; apart from `seed`, so that members of the zoo can share a teacher's
    states."""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size: {self.size!r} is not one of {', '.join(SIZES)}")
        fewest = {
            "vocabulary": 300,
            "length": 8,
            "tokens": 1,
            "chunks": 1,
            "batch": 1,
            "checkpoint_every": 1,
        }
        for name, least in fewest.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least {least}")
        for name in ("words", "long_words"):
            low, high = getattr(self, name)
            if not 1 <= low <= 3 * high // 4:
                raise ValueError(
                    f"{name}: ({low}, {high}); the first is 1 to 3/4 of the second at least"
                )
        for name in ("learning_rate", "teacher_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not positive")
        check(self)


@dataclass(frozen=True)
class Progress:
    """Where a training is: stage (`features`, `train`), units done and in all, recent loss."""

    stage: str
    done: int
    total: int
    loss: float = math.nan


Report = Callable[[Progress], None]
