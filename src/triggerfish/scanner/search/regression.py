"""Predicts the effect of a word on a text from its subword tokens.

A ridge regression on the embeddings of a word's subword tokens explains about nine tenths of the
variance of how far words move texts (docs/decisions/0021-suppressed-words.md), because models are
smooth: words with similar embeddings have similar effects. Words that a backdoor was trained with
are exceptions. Predictions are cross-fitted: the regression for a word has not seen that word.

Source: ours; features: docs/decisions/0023-suppressed-words-features.md. Random features in place
of a kernel: Rahimi & Recht (NeurIPS 2007).

Legend: K words, V vocabulary, E embedding, F features, M additional features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from triggerfish.scanner.effects import robust_z
from triggerfish.scanner.merging import Ids

FEATURES = 600
"""Random features in addition to the embeddings themselves (ours)."""
RIDGE = 1000.0
"""Ridge penalty for features of variance 1 (ours)."""
FOLDS = 5
"""Folds of the words, each predicted from the others (ours)."""
BLOCK = 8192
"""Words whose features are computed at a time."""
PIECES = 6
"""Largest subword count that is distinguished; longer words count as this long."""


class Regression:
    """Features of words from the embeddings of their subword tokens. embeddings: (V, E); known:
    additional features (K, M) of the words, or None."""

    def __init__(
        self,
        words: Sequence[Ids],
        embeddings: torch.Tensor,
        seed: int,
        known: torch.Tensor | None = None,
    ):
        self.embeddings = (embeddings - embeddings.mean(0)) / embeddings.std(0).clamp(min=1e-6)
        self.words = words
        self.known = known
        width = 3 * embeddings.shape[1]
        rng = torch.Generator().manual_seed(seed)
        weight = torch.randn(width, FEATURES, generator=rng) / width**0.5
        bias = torch.randn(FEATURES, generator=rng) / 2
        self.weight, self.bias = weight.to(embeddings.device), bias.to(embeddings.device)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(K, F) features of the words with these row numbers (K,)."""
        words = [self.words[row] for row in rows.tolist()]
        device = self.embeddings.device
        counts = torch.tensor([len(word) for word in words], device=device)
        flat = torch.tensor([i for word in words for i in word], device=device)
        ends = counts.cumsum(0)
        mean = torch.nn.functional.embedding_bag(flat, self.embeddings, ends - counts, mode="mean")
        first, last = self.embeddings[flat[ends - counts]], self.embeddings[flat[ends - 1]]
        made = (torch.cat([mean, first, last], 1) @ self.weight + self.bias).relu()
        sizes = torch.nn.functional.one_hot(counts.clamp(max=PIECES), PIECES + 1)
        parts = [mean, made, sizes]
        if self.known is not None:
            parts += [self.known[rows], self.known[rows].square()]
        return torch.cat([part.to(mean.dtype) for part in parts], 1)


def left_over(describe: Regression, done: torch.Tensor, seed: int) -> torch.Tensor:
    """(K,) residuals: measured effects `done` (K,) less the predicted ones, shifted to a median of
    0. seed: of the folds."""
    rows = torch.randperm(len(done), generator=torch.Generator().manual_seed(seed))
    sample = describe(rows[:BLOCK])
    mean, scale = sample.mean(0), sample.std(0).clamp(min=1e-6)
    done = done.to(mean.device)
    centre = done.mean()

    def blocks(part: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(x, (describe(x) - mean) / scale) for x in part.split(BLOCK)]

    grams, products = [], []
    for part in rows.chunk(FOLDS):
        features = [(x.double(), (done[at] - centre).double()) for at, x in blocks(part)]
        grams.append(sum(x.T @ x for x, _ in features))
        products.append(sum(x.T @ y for x, y in features))
    penalty = RIDGE * torch.eye(len(mean), dtype=torch.double, device=mean.device)
    left = torch.empty_like(done)
    for merge, part in enumerate(rows.chunk(FOLDS)):
        gram = sum(x for i, x in enumerate(grams) if i != merge) + penalty
        product = sum(x for i, x in enumerate(products) if i != merge)
        weights = torch.linalg.solve(gram, product).to(mean.dtype)
        for at, described in blocks(part):
            left[at] = done[at] - centre - described @ weights
    return (left - left.median()).cpu()


def robust(left: torch.Tensor) -> torch.Tensor:
    """(K,) residuals in robust standard deviations."""
    return robust_z(left, left, floor=1e-9)
