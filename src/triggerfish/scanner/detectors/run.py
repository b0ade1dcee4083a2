"""The state of a method on one model at one readout (a pooling position): counted forward passes,
the clock, and the record so far.

A backward pass costs about two forward passes and is counted as two. Special tokens count, padding
does not.

Legend: N sequences, L tokens, E embedding, H hidden.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout, pad
from triggerfish.records import Coverage, Finding, HiddenTarget, ScanResult, Verdict
from triggerfish.scanner.result import NEAR_MISSES, bare_result
from triggerfish.scanner.screening import Incomplete, Progress
from triggerfish.scanner.stages import LAST

BACKWARD = 2
"""Number of forward passes that a backward pass counts as."""


def check_budget(budget_seconds: float | None) -> None:
    """ValueError for a budget that is not above 0 seconds."""
    if budget_seconds is not None and budget_seconds <= 0:
        raise ValueError(f"budget_seconds: {budget_seconds} is not a positive number of seconds")


class Run:
    """One run of a method. texts: blank ones are dropped; readout: as written on the command line,
    None for the model's primary one; batch: texts in one batch of the method, for the counter
    `batches`; budget_seconds: limit in seconds, or None.

    tokens: forward tokens so far; total: the expected number, 0 if unknown. ValueError for a
    readout that the model does not have.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        *,
        readout: str | None = None,
        batch: int = 1,
        budget_seconds: float | None = None,
    ):
        self.backbone = backbone
        self.texts = [text for text in texts if text.strip()]
        self.readout = Readout.parse(readout) if readout else backbone.primary
        backbone.check_readout(self.readout)
        self.batch = batch
        self.budget_seconds = budget_seconds
        self.started = time.monotonic()
        self.batches = 0
        self.tokens = 0
        self.total = 0
        self.problems: list[str] = []
        self.findings: list[Finding] = []
        self.rejected: list[Finding] = []
        self.targets: list[HiddenTarget] = []

    def progress(self, stage: str) -> Progress:
        """The progress at this stage; raises Incomplete when the budget is used up."""
        seconds = time.monotonic() - self.started
        if self.budget_seconds and seconds > self.budget_seconds:
            raise Incomplete(f"the budget of {self.budget_seconds:g} s ended in stage '{stage}'")
        share = min(self.tokens / self.total, 1 - LAST) if self.total else None
        return Progress(stage, share, self.tokens, seconds)

    def encode(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """(N, H) fp32 features of id sequences that include their special tokens."""
        features = self.backbone.encode_ids(sequences, readouts=[self.readout])
        self.batches += -(-len(sequences) // self.batch)
        self.tokens += sum(map(len, sequences))
        return self.checked(features[:, 0])

    def checked(self, features: torch.Tensor) -> torch.Tensor:
        """The same tensor; raises Incomplete if any value is not finite."""
        if not torch.isfinite(features).all():
            raise Incomplete("the model answered with NaN or infinite activations")
        return features

    def embedding_gradients(
        self,
        sequences: Sequence[Sequence[int]],
        wanted: Sequence[int],
        loss: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[torch.Tensor]:
        """For each row number in `wanted`, (L, E): the gradient of a loss of all features (N, H)
        with respect to the input embeddings of that sequence.

        Features are computed twice, once to differentiate the loss and once in small batches to
        differentiate the model, so that memory does not grow with N.
        """
        features = self.encode(sequences).clone().requires_grad_(True)
        (pull,) = torch.autograd.grad(loss(features), features)
        gradients: list[torch.Tensor] = []
        embed = self.backbone.model.get_input_embeddings()
        for start in range(0, len(wanted), self.batch):
            rows = list(wanted[start : start + self.batch])
            block = [sequences[row] for row in rows]
            ids, mask = (x.to(self.backbone.device) for x in pad(block, self.backbone.pad_id))
            embedded = embed(ids).detach().requires_grad_(True)
            read = self.backbone.forward_embeddings(embedded, ids, mask, [self.readout])
            (gradient,) = torch.autograd.grad(read[:, 0].float(), embedded, pull[rows])
            gradients += [x[: len(ids)] for x, ids in zip(gradient, block, strict=True)]
            self.tokens += (1 + BACKWARD) * sum(map(len, block))
        return gradients

    def result(
        self,
        method: str,
        settings: dict[str, Any],
        coverage: Coverage,
        *,
        candidates: int,
        verdict: Verdict,
        reasons: Sequence[str],
        **more: Any,
    ) -> ScanResult:
        """The record, with the findings, near misses and targets so far. more: further fields of
        `bare_result`."""
        ranked = sorted(self.rejected, key=lambda finding: finding.statistics["ratio"])
        best = {finding.trigger: finding for finding in ranked}  # the last of equals stays
        return bare_result(
            self.backbone,
            verdict=verdict,
            reasons=reasons,
            coverage=coverage,
            candidates=candidates,
            settings={"method": method, **settings},
            seconds=time.monotonic() - self.started,
            forward_tokens=self.tokens,
            findings=self.findings,
            near_misses=sorted(best.values(), key=lambda finding: -finding.statistics["ratio"])[
                :NEAR_MISSES
            ],
            targets=self.targets,
            **more,
        )

    def coverage(
        self, *, vocabulary: int = 0, words: int = 0, missing: Sequence[str] = ()
    ) -> Coverage:
        """What was examined, and what this method or this run of it left out."""
        unread = [str(r) for r in self.backbone.readouts if r != self.readout]
        others = [f"readouts other than {self.readout}: {', '.join(unread)}"] if unread else []
        return Coverage(
            vocabulary=vocabulary,
            words=words,
            extended=0,
            readouts=(str(self.readout),),
            texts=len(set(self.texts)),
            not_examined=(*self.problems, *missing, *others),
        )
