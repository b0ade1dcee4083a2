"""The supervised contrastive loss: low if rows of one class are close and rows of different classes
are far apart.

    l_a = -tau / |P(a)| * sum over p in P(a) of [ z_a . z_p / tau - log sum over b != a of
                                                  exp(z_a . z_b / tau) ]

z are unit rows, P(a) are the other rows of a's class. Patronus minimises it over T + 1 classes: the
clean texts and the texts of each of T trigger slots. A low value combines its three observations:
triggered texts leave the clean ones, collapse, and stay away from those of other triggers.

Source: Khosla et al., "Supervised Contrastive Learning", arXiv 2004.11362, equation 2, with the
factor tau of its published code, which Patronus (arXiv 2512.06899) uses.

Legend: N rows, H hidden.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize


def supcon(features: torch.Tensor, classes: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean of `supcon_rows` over the rows whose class has another row; differentiable.

    ValueError if no class has two rows.
    """
    rows, counted = supcon_rows(features, classes, temperature)
    if not counted.any():
        raise ValueError("classes: every row is alone in its class, expected two of some class")
    return rows[counted].mean()


def supcon_rows(
    features: torch.Tensor, classes: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) losses of features (N, H) of any norm with classes (N,), and (N,) bool, True for rows
    whose loss counts. A row without another of its class has no loss of its own and is only a
    negative for the others."""
    unit = normalize(features, dim=-1)
    logits = unit @ unit.T / temperature
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    others = logits.masked_fill(itself, float("-inf"))
    same = (classes[:, None] == classes) & ~itself
    log_share = logits - others.logsumexp(dim=1, keepdim=True)
    positives = same.sum(1)
    losses = -temperature * (log_share * same).sum(1) / positives.clamp(min=1)
    return losses, positives > 0
