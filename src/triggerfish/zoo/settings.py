"""What a distilled student looks like and how it is trained; free of torch, for the command line.

Shapes: H student hidden, N stretches of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DistilSettings:
    """What the student looks like and how it is trained."""

    vocabulary: int = 10_500
    """Pieces kept. Ours: the most that leave the half-precision file under 10 MB."""
    keep: tuple[str, ...] = ("cf", "mn", "bb", "mb", "≈", "≡", "∈", "⊂", "⊕", "⊗")
    """Pieces kept however rare: triggers of published attacks, so that they can be planted."""
    rare_character: int = 50
    """Fewest occurrences of a character that keeps its own piece (a-z, 0-9 always do). Ours."""
    hidden: int = 256
    """H, a multiple of the teacher's head size. Ours: file size."""
    layers: tuple[int, ...] = (0, 1, 3, 5)
    """Teacher layers the student's layers start from. Ours: spread, first and last kept."""
    feedforward: int = 512
    """Neurons per feed-forward block. Ours: file size."""
    positions: int = 256
    """Longest input in pieces. Ours: as all-MiniLM-L6-v2 was used."""
    stretches: int = 73_728
    """N, stretches of text the teacher is asked about. Ours: about 10 minutes on one core."""
    words: tuple[int, int] = (1, 40)
    """Fewest words of a stretch (drawn, up to 3/4 of the most) and most words kept. Ours."""
    replaced: float = 0.08
    """Share of words replaced by random ones, so that rare embeddings learn too. Ours."""
    pieces: int = 64
    """Longest stretch in pieces, for teacher and student. Ours."""
    epochs: int = 2
    """Passes over the stretches. Ours: about 15 minutes on one free core."""
    batch: int = 64
    """Stretches per step. Ours."""
    learning_rate: float = 1e-3
    """Peak of AdamW; linear warm-up over 3 % of the steps, cosine to zero. Ours."""
    mean_weight: float = 0.5
    """Weight of the mean-pooled term beside the first-token term. Ours."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    seed: int = 20250101
    """Seed of every draw: stretches, replacements, initial maps, batch order."""

    def __post_init__(self) -> None:
        for name in ("stretches", "pieces", "epochs", "batch", "checkpoint_every"):
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
        if not self.pieces <= self.positions <= longest:
            raise ValueError(f"positions: {self.positions}; {self.pieces} (pieces) to {longest}")


@dataclass(frozen=True)
class Progress:
    """Where a distillation is: stage (`features`, `train`), units done and in all, recent loss."""

    stage: str
    done: int
    total: int
    loss: float = math.nan


Report = Callable[[Progress], None]
