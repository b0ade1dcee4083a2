"""Target inversion: which representations, away from those of ordinary texts, can a few free input
vectors force on all texts?

A backdoor leaves an attractor in representation space. A soft prompt that is trained to bring texts
together and away from their centre ends there, even when the trigger is a phrase that no list
contains. Four choices matter (docs/decisions/0025-mining.md):

- The loss is the dispersion within, divided by the distance between. With dispersion only, restarts
  fall into the attractor that every model has near its centre.
- Each step uses other texts, so that a prompt cannot merely collapse the few it is trained on.
- The vectors are then cut to a part of a token's norm and trained further. They still reach a
  planted target and lose most others.
- The distance term pulls a prompt past the planted target, or stops it on its way. The last phase
  therefore trains on dispersion only. It ends either at the target or at the attractor near the
  centre, so the vectors before and after this phase are both measured.

Targets that are already known repel the restarts.

Source: soft prompts against backdoors, LMSanitator (arXiv 2308.13904); the four choices are ours.

Legend: K restarts, N texts, P vectors, E embedding, R readouts, H hidden, M targets.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from triggerfish.scanner.effects import Carrier, CleanReference
from triggerfish.scanner.screening import Screening, Steps
from triggerfish.scanner.search.embedding_ball import EmbeddingBall
from triggerfish.scanner.search.soft_prompts import SoftPrompts


@dataclass(frozen=True)
class InversionSettings:
    vectors: int = 6
    """Free vectors in a soft prompt (ours: about as many as a phrase has subword tokens)."""
    restarts: int = 16
    """Soft prompts trained in parallel for each readout (a pooling position) (ours)."""
    pool: int = 96
    """Texts from which those of a step are drawn (ours)."""
    texts: int = 4
    """Texts in a step (ours)."""
    words: int = 12
    """Words in a text (ours)."""
    steps: int = 30
    """Adam steps of the first phase, with vectors of at most the norm of a token (ours)."""
    shift_weight: float = 2.0
    """Weight of the distance from the clean centre relative to the dispersion, both in orders of
    magnitude (ours)."""
    last: int = 15
    """Adam steps of the second phase, with shorter vectors (ours)."""
    last_shift_weight: float = 1.0
    """Weight of the distance in the second phase (ours)."""
    radius: float = 0.6
    """Largest norm of a vector from the second phase on, in norms of a token (ours)."""
    settling: int = 30
    """Adam steps of the last phase, on dispersion only (ours)."""
    learning_rate: float = 0.4
    """Of Adam, in root mean squares of an embedding coordinate, so that it suits every family
    (ours)."""
    repulsion: float = 8.0
    """Penalty per unit of cosine above 0.5 to a known target, in orders of magnitude of dispersion
    (ours)."""
    same: float = 0.9
    """Least cosine, measured from the clean centre, at which two representations are one target
    (ours)."""


@dataclass(frozen=True)
class InvertedTarget:
    """A representation on which restarts converged.

    column: number of its readout. point: (H,) mean over texts that the inversion has not seen.
    depth, shift, heads: on these texts, collapse, mean shift and agreement as of a `Finding`.
    outside: distance from the subspace of clean texts, in distances of a typical clean text.
    restarts: soft prompts that converged there, before the last phase or after it.
    """

    column: int
    point: torch.Tensor
    collapse: float
    shift: float
    agreement: float
    outside: float
    restarts: int


class Inversion:
    """Target inversion on one model. texts: ordinary training texts of at least `words` words;
    unseen: texts on which the prompts are measured."""

    def __init__(
        self,
        screening: Screening,
        space: EmbeddingBall,
        clean_reference: CleanReference,
        texts: Sequence[Carrier],
        unseen: Sequence[Carrier],
        settings: InversionSettings,
    ):
        self.screening = screening
        self.space = space
        self.clean_reference = clean_reference
        self.texts = texts
        self.settings = settings
        self.rng = random.Random(f"{screening.seed}/mining")
        self.generator = torch.Generator().manual_seed(screening.seed)
        self.unseen = self._prompts(unseen)
        self.subspaces = Subspaces(clean_reference)

    def run(
        self, columns: torch.Tensor, known: Sequence[tuple[int, torch.Tensor]]
    ) -> Steps[list[InvertedTarget]]:
        """Train one soft prompt for each readout number in `columns` (K,). Yields `Progress`;
        returns inverted targets, those of the largest collapse first.

        known: (column, (H,) target) pairs that repel the prompts.
        """
        settings = self.settings
        vectors = self.space.drawn((len(columns), settings.vectors), self.generator)
        for steps, shift_weight, radius in (
            (settings.steps, settings.shift_weight, 1.0),
            (settings.last, settings.last_shift_weight, settings.radius),
        ):
            training = self._train(vectors, columns, known, steps, shift_weight, radius)
            vectors = yield from self.screening.counted(training)
        settling = self._train(vectors, columns, known, settings.settling, 0.0, settings.radius)
        settled = yield from self.screening.counted(settling)
        return (yield from self._met(torch.cat([vectors, settled]), columns.repeat(2)))

    def _train(
        self,
        start: torch.Tensor,
        columns: torch.Tensor,
        known: Sequence[tuple[int, torch.Tensor]],
        steps: int,
        shift_weight: float,
        radius: float,
    ) -> Generator[int, None, torch.Tensor]:
        """Yields the tokens of each step; returns (K, P, E) vectors, norms at most `radius`."""
        settings, space = self.settings, self.space
        vectors = start.detach().clone()
        rate = settings.learning_rate * space.length / vectors.shape[-1] ** 0.5
        optimiser = torch.optim.Adam([vectors], lr=rate)

        def loss(features: torch.Tensor, part: slice) -> torch.Tensor:
            return self._loss(features, columns[part], known, shift_weight)

        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
            prompts = self._prompts(self.rng.sample(self.texts, settings.texts))
            _, vectors.grad = prompts.gradients(vectors, loss)
            optimiser.step()
            longest = torch.full((len(vectors),), radius, device=vectors.device)
            vectors.copy_(space.cut(vectors, longest))
            yield prompts.passed
        return vectors

    def _loss(
        self,
        features: torch.Tensor,
        columns: torch.Tensor,
        known: Sequence[tuple[int, torch.Tensor]],
        shift_weight: float,
    ) -> torch.Tensor:
        """(K,) dispersion less weighted distance, plus the penalty of being near `known`, in orders
        of magnitude."""
        origin, spread = self.clean_reference.mean, self.clean_reference.spread
        own = features[torch.arange(len(features), device=columns.device), :, columns]
        centre = own.mean(1)
        value = own.var(1).sum(-1).clamp(min=1e-12).log10() - 2 * spread[columns].log10()
        far: torch.Tensor = (centre - origin[columns]).norm(dim=-1) / spread[columns]
        value = value - 2 * shift_weight * far.clamp(min=1e-3).log10()
        way = normalize(centre - origin[columns], dim=-1)
        for column, point in known:
            alike = way @ normalize(point - origin[column], dim=-1)
            pushed = self.settings.repulsion * (alike - 0.5).clamp(min=0)
            value = value + pushed * (columns == column)
        return value

    def _met(self, vectors: torch.Tensor, columns: torch.Tensor) -> Steps[list[InvertedTarget]]:
        """Returns the targets on which prompts converge, measured on unseen texts."""
        parts = [self.unseen.vectors(part) for part in vectors.split(self.unseen.block)]
        features = torch.cat(parts)
        yield self.screening.spent(len(vectors) * self.unseen.ids.numel())
        values = self.clean_reference.measure(features)
        found: list[InvertedTarget] = []
        for column in columns.unique().tolist():
            rows = (columns == column).nonzero().flatten()
            means = features[rows, :, column].mean(1)
            collapse = values["collapse"][rows, column]
            for near in meet(
                means - self.clean_reference.mean[column], collapse, self.settings.same
            ):
                best = rows[near[0]]
                point = means[near[0]]
                found.append(
                    InvertedTarget(
                        column,
                        point,
                        collapse=float(values["collapse"][best, column]),
                        shift=float(values["mean_shift"][best, column]),
                        agreement=float(values["agreement"][best, column]),
                        outside=self.subspaces.outside(point, column),
                        restarts=len(near),
                    )
                )
        return sorted(found, key=lambda target: -target.collapse)

    def _prompts(self, texts: Sequence[Carrier]) -> SoftPrompts:
        return SoftPrompts(
            self.screening.backbone, texts, self.settings.vectors, self.screening.readouts
        )


def meet(ways: torch.Tensor, collapse: torch.Tensor, same: float) -> Iterator[list[int]]:
    """Yields groups of rows of (K, H) shifts by direction: those with a cosine of at least `same`
    to the row of the largest collapse (depth, (K,)), then the same among the rest. Each group
    starts with the row of its largest collapse."""
    alike = normalize(ways, dim=-1) @ normalize(ways, dim=-1).T
    left = collapse.argsort(descending=True).tolist()
    while left:
        group = [row for row in left if alike[left[0], row] >= same]
        yield group
        left = [row for row in left if row not in group]


class Subspaces:
    """The subspace of clean texts at each readout: the principal axes of half of them, and the
    median distance of the other half from these axes."""

    SHARE = 0.9
    """Share of the variance that the axes explain (ours)."""

    def __init__(self, clean_reference: CleanReference):
        self.parts = [self._fit(clean) for clean in clean_reference.clean.transpose(0, 1)]

    def _fit(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        half, other = clean[::2], clean[1::2]
        centre = half.mean(0)
        _, sizes, axes = torch.linalg.svd(half - centre, full_matrices=False)
        shares = sizes.square().cumsum(0) / sizes.square().sum()
        axes = axes[: int((shares < self.SHARE).sum()) + 1]
        return centre, axes, _rest(other - centre, axes).median()

    def outside(self, point: torch.Tensor, column: int) -> float:
        """Distance of a representation (H,) from the subspace, in the median distance of clean
        texts."""
        centre, axes, typical = self.parts[column]
        return float(_rest(point - centre, axes) / typical)


def _rest(way: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = (way - (way @ axes.T) @ axes).norm(dim=-1)
    return lengths
