"""The texts a student learns from: short chunks of open text, with rare words mixed in, in
batches of similar length. Every draw follows from the seed.

N chunks of text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import torch

from triggerfish.zoo.settings import DistilSettings


def chunks(texts: Sequence[str], settings: DistilSettings) -> list[str]:
    """N runs of whole sentences, of varied length, in random order; the longest are cut short."""
    draw = random.Random(settings.seed)
    fewest, most = settings.words
    found: list[str] = []
    for text in texts:
        held: list[str] = []
        wanted = draw.randint(fewest, 3 * most // 4)
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            held += sentence.split()
            if len(held) >= wanted:
                found.append(" ".join(held[:most]))
                held, wanted = [], draw.randint(fewest, 3 * most // 4)
    if not found:
        raise ValueError(f"texts: none of {len(texts)} is long enough for a chunk of words")
    draw.shuffle(found)
    return found[: settings.chunks]


def mix_in_rare_words(texts: list[str], words: list[str], settings: DistilSettings) -> list[str]:
    """`texts` with a share of their words replaced, each by one of `words`."""
    draw, share = random.Random(settings.seed + 1), settings.replaced
    return [
        " ".join(draw.choice(words) if draw.random() < share else word for word in text.split())
        for text in texts
    ]


def batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Batches of similar length (little padding) in random order; another seed, other batches."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    order.sort(key=lambda i: lengths[i])
    cut = [order[start : start + size] for start in range(0, len(order), size)]
    return [cut[k] for k in torch.randperm(len(cut), generator=generator).tolist()]
