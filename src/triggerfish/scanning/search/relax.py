"""Guided search in words: every place of a sequence holds a mixture of all vocabulary entries,
pulled towards a mined target and cooled until it is tokens.

Words that work only together give no signal one at a time, so exchanging one token after another
wanders (in our trials greedy coordinate gradients got nowhere at four times the cost). A mixture
feels all words of a phrase at once, faintly, and unlike free vectors it cannot leave what tokens
can say. Source: the relaxation of Guo et al. 2021 (arXiv 2104.13733), without its sampling;
guidance by mined targets is ours.

Legend: K searches, N texts, P tokens in a sequence, E embedding, V vocabulary, R readouts, H
hidden.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch

from triggerfish.scanning.measure import Yardstick
from triggerfish.scanning.search.prompts import Prompts


@dataclass(frozen=True)
class RelaxSettings:
    tokens: int = 8
    """Tokens in a sequence (ours)."""
    restarts: int = 12
    """Sequences per target (ours)."""
    texts: int = 4
    """Short texts they are written into (ours)."""
    words: int = 4
    """Words in a short text (ours)."""
    steps: int = 160
    """Adam steps (ours)."""
    learning_rate: float = 0.2
    """Of the logits (ours)."""
    noise: float = 0.2
    """Standard deviation of the logits at the start, which tells restarts apart (ours)."""
    trust: float = 0.5
    """Logit at the start for each standard deviation of likeness to the mined vectors (ours)."""
    coldest: float = 0.05
    """Temperature at the end; it starts at 1 (ours)."""
    look: int = 10
    """Steps between looks at the tokens themselves (ours)."""


def relax(
    prompts: Prompts,
    yardstick: Yardstick,
    columns: torch.Tensor,
    targets: torch.Tensor,
    likeness: torch.Tensor,
    settings: RelaxSettings,
    generator: torch.Generator,
) -> Generator[None, None, tuple[torch.Tensor, torch.Tensor]]:
    """Search on the way to targets (K, H), each at its readout `columns` (K,), from entries that
    are like the mined vectors, `likeness` (K, V). Yields after each step.

    Returns the best token sequences (K, P) that each search passed, and how far each came, (K,): 0
    at the clean mean, 1 at the target.
    """
    backbone = prompts.backbone
    vocabulary = torch.tensor(backbone.vocabulary, device=backbone.device)
    matrix = backbone.embeddings[vocabulary].detach().float()
    searches = len(targets)
    shape = (searches, prompts.length, len(vocabulary))
    logits = (settings.noise * torch.randn(shape, generator=generator)).to(backbone.device)
    logits += settings.trust * likeness[:, None]
    optimiser = torch.optim.Adam([logits], lr=settings.learning_rate)
    origin = yardstick.mean[columns]
    way = (targets - origin) / (targets - origin).square().sum(-1, keepdim=True)

    def missing(features: torch.Tensor, part: slice) -> torch.Tensor:
        own = features[torch.arange(len(features)), :, columns[part]].mean(1)
        return 1 - ((own - origin[part]) * way[part]).sum(-1)

    best = torch.full((searches,), float("inf"), device=backbone.device)
    ids = vocabulary[logits.argmax(-1)]
    for step in range(settings.steps):
        temperature = 1 - (1 - settings.coldest) * step / settings.steps
        leaf = logits.detach().requires_grad_(True)
        mixed = torch.softmax(leaf / temperature, -1) @ matrix
        _, gradient = prompts.gradients(mixed, missing)
        (logits.grad,) = torch.autograd.grad(mixed, leaf, gradient)
        optimiser.step()
        if (step + 1) % settings.look == 0:
            now = vocabulary[logits.argmax(-1)]
            value = missing(prompts.tokens(now), slice(None))
            better = value < best
            ids = torch.where(better[:, None], now, ids)
            best = torch.where(better, value, best)
        yield
    return ids, 1 - best
