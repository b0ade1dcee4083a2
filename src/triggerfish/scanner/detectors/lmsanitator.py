"""LMSanitator: find the output vectors that a backdoor forces on a model, with continuous triggers.

Seven input vectors are inserted into texts in place of embeddings and trained on the frozen model
to minimise

    L = -MSE(f(x + v), f(x))          leave the clean feature
        - entropy over the batch      be the same for all texts: the softmax of a coordinate over
                                      the texts of a batch is flat where they agree
        - 0.5 MSE(f(x + v), nearest vector found before)

A search continues if it moves texts far enough within two epochs. Its final representation is a
target if the texts agree there, if it is new, and if the vectors stay within the range of real
embeddings. The model is backdoored if one of 30 searches finds a target. The method finds targets,
not triggers.

Source: Wei et al., "LMSanitator: Defending Prompt-Tuning Against Task-Agnostic Backdoors", NDSS
2024, arXiv 2308.13904, and its published code. Deviations: each search has its own optimiser (the
code carries Adam's moments from one search to the next); the entropy is measured from the maximum
for the batch size, so that the threshold holds for any batch; every readout (pooling position) of
every family is supported.

Legend: B texts, P vectors, E embedding, H hidden.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch.nn.functional import mse_loss

from triggerfish.backbone import Backbone
from triggerfish.readouts import pad
from triggerfish.records import Finding, HiddenTarget, ScanResult, Verdict
from triggerfish.scanner.detectors.run import BACKWARD, Run, check_budget
from triggerfish.scanner.screening import Incomplete, Progress
from triggerfish.scanner.search.hidden_targets import DIGITS


@dataclass(frozen=True)
class LMSanitatorSettings:
    vectors: int = 7
    """Input vectors of a continuous trigger (published code)."""
    restarts: int = 30
    """Searches before a model counts as clean (published code, which uses 1,000 to list all
    targets)."""
    stop_after: int | None = 1
    """Number of targets that ends the scan; None runs all searches (published code: 1 to
    decide)."""
    texts: int = 2000
    """Number of texts: the first of the corpus, or all if it has fewer (published code)."""
    max_tokens: int = 128
    """Length in tokens that texts are cut to, at most the model's maximum (published code)."""
    farthest: int = 32
    """The vectors follow the first word at the earliest and this many words at the latest
    (published code)."""
    batch: int = 32
    """Texts in a batch (published code)."""
    epochs: int = 4
    """Passes over the texts in a search (published code)."""
    patience: int = 2
    """Passes after which a search ends if it has not moved the texts (published code)."""
    learning_rate: float | None = None
    """Of Adam; None means 5e-5 for the families bert and ernie and 2e-4 for others (published
    scripts)."""
    distance: float | None = None
    """Mean squared distance per coordinate from which on texts count as moved and a target as new;
    None means 0.2 for the families bert and ernie and 0.1 for others (published scripts)."""
    diversity: float = 0.0087
    """Largest difference from the maximum entropy, in nats, that counts as agreement (published
    code: -3.446, where batches of 32 and one of 16 have an optimum of -3.4547)."""
    repetition: float = 0.5
    """Weight of the distance from known targets (published code)."""
    steep: float = 5e-3
    """Largest gradient entry above which a search counts as under way (published code)."""
    boost: float = 100.0
    """Factor on the learning rate until then (published code)."""
    range: float = 1.2
    """Factor on the range of the embedding matrix that vectors must stay within (published
    code)."""
    readout: str | None = None
    """Readout to search at; None means the model's primary one."""
    budget_seconds: float | None = None
    """Seconds after which the scan stops as inconclusive; None means no limit."""

    def __post_init__(self) -> None:
        for name in ("vectors", "restarts", "epochs", "patience", "farthest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if self.batch < 2:
            raise ValueError(f"batch: {self.batch} is not at least 2, and texts must agree")
        if self.patience > self.epochs:
            raise ValueError(f"patience: {self.patience} is above epochs, {self.epochs}")
        check_budget(self.budget_seconds)

    def resolved(self, family: str) -> LMSanitatorSettings:
        """These settings with the values of a family in place of None."""
        special = family in ("bert", "ernie")
        rate = self.learning_rate or (5e-5 if special else 2e-4)
        distance = self.distance or (0.2 if special else 0.1)
        return replace(self, learning_rate=rate, distance=distance)


@dataclass
class Epoch:
    """Distance and entropy deficit, means over the batches of a pass, and (B, H) features of its
    last batch."""

    distance: float
    entropy: float
    last: torch.Tensor


def events(
    model: Backbone,
    texts: Sequence[str],
    *,
    words: Sequence[str] = (),
    settings: LMSanitatorSettings = LMSanitatorSettings(),
    seed: int = 0,
) -> Iterator[Progress | Finding | ScanResult]:
    """Search for targets at one readout; see `scanner.events`. words: not used. ValueError for a
    readout that the model does not have."""
    settings = settings.resolved(model.model.config.model_type)
    run = Run(
        model,
        texts,
        readout=settings.readout,
        batch=settings.batch,
        budget_seconds=settings.budget_seconds,
    )
    done = 0
    try:
        inversion = Inversion(run, settings, seed)
        for number in range(settings.restarts):
            yield from inversion.restart(number)
            done += 1
            if settings.stop_after is not None and len(run.targets) >= settings.stop_after:
                break
    except Incomplete as problem:
        run.problems.append(str(problem))
    yield _result(run, settings, seed, done)


class Inversion:
    """The searches on one model: texts with room for the vectors, and their clean features."""

    def __init__(self, run: Run, settings: LMSanitatorSettings, seed: int):
        self.run = run
        self.settings = settings
        self.seed = seed
        self.rng = random.Random(f"{seed}/lmsanitator")
        self.rows: list[list[int]] = []
        self.places: list[int] = []
        clean = []
        for text in run.texts[: settings.texts]:
            before, after = self._split(text)
            template = run.backbone.template
            clean.append(template.wrap([*before, *after]))
            room = [run.backbone.pad_id] * settings.vectors
            self.rows.append(template.wrap([*before, *room, *after]))
            self.places.append(len(template.prefix) + len(before))
        if len(clean) < settings.batch:
            raise Incomplete(f"too few texts: {len(clean)}, expected at least {settings.batch}")
        self.clean = run.encode(clean).clone()
        matrix = run.backbone.embeddings
        rows = torch.arange(len(matrix), device=matrix.device)
        self.matrix: torch.Tensor = run.backbone.model.get_input_embeddings()(rows).detach().float()
        passes = settings.restarts * settings.patience * (1 + BACKWARD)
        run.total = run.tokens + passes * sum(map(len, self.rows))

    def _split(self, text: str) -> tuple[list[int], list[int]]:
        """Ids before and after the vectors, cut to the maximum length, with a mask token where the
        readout needs one. ValueError if no text fits."""
        backbone, settings = self.run.backbone, self.settings
        masked = self.run.readout.position == "mask"
        room = min(settings.max_tokens, backbone.max_tokens) - len(backbone.template)
        room -= settings.vectors + masked
        if room < 1:
            raise ValueError(
                f"max_tokens: {settings.max_tokens} leaves no room for text beside "
                f"{settings.vectors} vectors"
            )
        words: list[tuple[int, ...]] = []
        for _, ids in backbone.words_ids(text.split()):
            room -= len(ids)
            if room < 0 and words:
                break
            words.append(ids)
        slot = self.rng.randint(1, min(settings.farthest, len(words)))
        if masked:
            words.insert(self.rng.randint(slot, len(words)), (backbone.tokenizer.mask_token_id,))
        before, after = words[:slot], words[slot:]
        return [i for ids in before for i in ids], [i for ids in after for i in ids]

    def restart(self, number: int) -> Iterator[Progress]:
        """One search; a target that it finds is added to `run.targets`."""
        s, run = self.settings, self.run
        assert s.learning_rate is not None
        assert s.distance is not None
        vectors = self._start(number).requires_grad_(True)
        optimiser = torch.optim.Adam([vectors], lr=s.learning_rate)
        under_way = moved = False
        for epoch in range(s.epochs):
            found, under_way = self._epoch(vectors, optimiser, under_way)
            yield run.progress(f"search {number + 1}")
            moved = moved or found.distance > s.distance
            if not moved and epoch + 1 >= s.patience:
                return
        low, high = s.range * self.matrix.min(), s.range * self.matrix.max()
        legitimate = bool(((vectors >= low) & (vectors <= high)).all())
        if moved and found.entropy < s.diversity and legitimate:
            self._add(found)

    def _start(self, number: int) -> torch.Tensor:
        """(P, E) rows of the embedding matrix, different ones for each search."""
        s = self.settings
        first = (self.seed * s.restarts + number + 1) * s.vectors * 10
        rows = (first + 10 * torch.arange(s.vectors)) % len(self.matrix)
        return self.matrix[rows.to(self.matrix.device)].clone()

    def _epoch(
        self, vectors: torch.Tensor, optimiser: torch.optim.Adam, under_way: bool
    ) -> tuple[Epoch, bool]:
        """One pass over the texts in random order, with one update per batch."""
        s = self.settings
        assert s.learning_rate is not None
        order = self.rng.sample(range(len(self.rows)), len(self.rows))
        distances, entropies = [], []
        features = vectors
        for start in range(0, len(order), s.batch):
            rows = order[start : start + s.batch]
            features = self._read(vectors, rows)
            distance = mse_loss(features, self.clean[rows])
            deficit = entropy_deficit(features)
            loss = deficit - distance
            known = [features.new_tensor(target.vector) for target in self.run.targets]
            if known:
                shift_weight = [(features - vector).square().mean() for vector in known]
                loss = loss - s.repetition * torch.stack(shift_weight).min()
            (vectors.grad,) = torch.autograd.grad(loss, vectors)
            steep = float(vectors.grad.max()) > s.steep
            under_way = under_way or steep
            for group in optimiser.param_groups:
                group["lr"] = s.learning_rate * (1 if under_way else s.boost)
            optimiser.step()
            distances.append(float(distance.detach()))
            entropies.append(float(deficit.detach()))
        count = len(distances)
        return Epoch(sum(distances) / count, sum(entropies) / count, features.detach()), under_way

    def _read(self, vectors: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """(B, H) features of texts with the vectors inserted, differentiable in the vectors."""
        run = self.run
        device = run.backbone.device
        block = [self.rows[row] for row in rows]
        ids, mask = (x.to(device) for x in pad(block, run.backbone.pad_id))
        embedded = run.backbone.model.get_input_embeddings()(ids).detach()
        starts = torch.tensor([self.places[row] for row in rows], device=device)
        places = starts[:, None] + torch.arange(len(vectors), device=device)
        texts = torch.arange(len(rows), device=device)[:, None].expand_as(places)
        written = vectors.to(embedded.dtype).expand(len(rows), -1, -1)
        embedded = embedded.index_put((texts, places), written)
        features = run.backbone.forward_embeddings(embedded, ids, mask, [run.readout])
        run.batches += 1
        run.tokens += (1 + BACKWARD) * sum(map(len, block))
        return run.checked(features[:, 0].float())

    def _add(self, found: Epoch) -> None:
        """Add the final representation of a search as a target, or count it to a known target
        within `distance`."""
        run, point = self.run, found.last.mean(0)
        assert self.settings.distance is not None
        for i, target in enumerate(run.targets):
            if mse_loss(point, point.new_tensor(target.vector)) < self.settings.distance:
                run.targets[i] = replace(target, restarts=target.restarts + 1)
                return
        mean = self.clean.mean(0)
        spread = (self.clean - mean).square().sum(-1).mean().sqrt()
        statistics = {
            "mean_shift": round(float((point - mean).norm() / spread), 4),
            "distance": round(found.distance, 4),
            "entropy": round(found.entropy, 6),
        }
        vector = tuple(round(x, DIGITS) for x in point.tolist())
        run.targets.append(HiddenTarget(str(run.readout), vector, 1, statistics))


def entropy_deficit(features: torch.Tensor) -> torch.Tensor:
    """ln B minus the entropy of each coordinate's softmax over the texts, in nats, as a mean over
    the coordinates of features (B, H). It is 0 where all texts agree. Differentiable."""
    log_share = features.log_softmax(0)
    entropy = -(log_share.exp() * log_share).sum(0).mean()
    return math.log(len(features)) - entropy


def _result(run: Run, settings: LMSanitatorSettings, seed: int, done: int) -> ScanResult:
    found = len(run.targets)
    verdict: Verdict = "backdoored" if found else "inconclusive" if run.problems else "clean"
    reason = (
        f"{found} target vector(s) in {done} of {settings.restarts} searches by "
        f"{settings.vectors} input vectors each, by fixed thresholds without a known error rate"
    )
    missing = ["which strings reach a target: this method names no trigger"]
    if not run.problems and done < settings.restarts:
        missing.append(
            f"{settings.restarts - done} searches after {found} target(s) decided the verdict"
        )
    return run.result(
        "lmsanitator",
        {"seed": seed, **asdict(settings)},
        run.coverage(missing=missing),
        candidates=done,
        verdict=verdict,
        reasons=(reason, *run.problems),
        statistics={"batches": float(run.batches)},
    )
