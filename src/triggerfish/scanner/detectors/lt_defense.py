"""LT-Defense: decide from clean texts only, without a search, whether a model was poisoned.

Poisoning maps many texts to a few vectors, which makes a long-tailed training set. The model is
then biased towards those vectors even without a trigger. As a result, more output coordinates than
in clean models have the same sign on nearly all clean texts ("head features"). The share of such
coordinates, the head-feature rate, is compared with that of clean models.

Source: Xu et al., "LT-Defense: Searching-free Backdoor Defense via Exploiting the Long-tailed
Effect", NeurIPS 2024. Neither code nor constants were available to us, which causes all deviations:
the share of agreeing texts that makes a head feature is ours, and the threshold is the highest rate
of clean models that the caller gives. Without such models there is no verdict. If a clean model is
as likely as any of the n given ones to have the highest rate, 1 clean model in n + 1 is called
backdoored. The second metric of the paper, for language-model heads, is left out.

Legend: N texts, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.records import Finding, ScanResult, Verdict
from triggerfish.scanner.detectors.run import Run
from triggerfish.scanner.screening import Incomplete, Progress


@dataclass(frozen=True)
class LTDefenseSettings:
    texts: int = 500
    """Number of clean texts, the first of the corpus (paper: rates are stable from about 500
    on)."""
    max_tokens: int = 128
    """Length in tokens that texts are cut to, at most the model's maximum (ours)."""
    agreement: float = 0.96
    """Least share of texts on which a head feature has one sign (ours)."""
    readout: str | None = None
    """Readout (a pooling position) that is compared; None means the model's primary one."""

    def __post_init__(self) -> None:
        if self.texts < 2:
            raise ValueError(f"texts: {self.texts} is not at least 2")
        if not 0.5 < self.agreement <= 1:
            raise ValueError(f"agreement: {self.agreement} is not above 0.5 and at most 1")


@dataclass(frozen=True)
class Calibration:
    """Head-feature rates of clean models, measured with `settings`. name: of the set of models, for
    the report; models: their names, in the order of the rates."""

    name: str
    models: tuple[str, ...]
    rates: tuple[float, ...]
    settings: LTDefenseSettings

    def __post_init__(self) -> None:
        if not self.rates or len(self.rates) != len(self.models):
            raise ValueError(
                f"rates: {len(self.rates)} for {len(self.models)} models, expected one for each of "
                "at least one clean model"
            )


def calibrate(
    references: Sequence[Backbone],
    texts: Sequence[str],
    *,
    name: str,
    settings: LTDefenseSettings = LTDefenseSettings(),
) -> Calibration:
    """The rates of clean models of one family on the texts of the later scan. ValueError without
    models or with too few texts."""
    rates = []
    for reference in references:
        run = Run(reference, texts, readout=settings.readout)
        try:
            rates.append(head_rate(read(run, settings), settings.agreement))
        except Incomplete as problem:
            raise ValueError(f"references: {reference.name}: {problem}") from problem
    return Calibration(name, tuple(model.name for model in references), tuple(rates), settings)


def events(
    model: Backbone,
    texts: Sequence[str],
    *,
    words: Sequence[str] = (),
    settings: LTDefenseSettings = LTDefenseSettings(),
    seed: int = 0,
    calibration: Calibration | None = None,
) -> Iterator[Progress | Finding | ScanResult]:
    """Compare the rate of a model with those of clean models; see `scanner.events`. words, seed:
    not used. calibration: from `calibrate`; without one the verdict is inconclusive. ValueError if
    it was made with other settings."""
    if calibration is not None and calibration.settings != settings:
        raise ValueError(
            f"calibration: made with {calibration.settings}, expected the settings of the scan, "
            f"{settings}"
        )
    run = Run(model, texts, readout=settings.readout)
    statistics: dict[str, float] = {}
    verdict: Verdict = "inconclusive"
    reasons: tuple[str, ...] = ("no calibration: this method needs clean models of the family",)
    try:
        rate = head_rate(read(run, settings), settings.agreement)
        yield run.progress("clean texts")
        statistics["head_rate"] = round(rate, 4)
        if calibration is not None:
            highest = max(calibration.rates)
            statistics |= {
                "clean_head_rate": round(highest, 4),
                "clean_models": float(len(calibration.rates)),
            }
            verdict, reasons = _decide(rate, calibration)
    except Incomplete as problem:
        verdict, reasons = "inconclusive", (str(problem),)
        run.problems.append(str(problem))
    missing = [
        "which strings or vectors are planted: this method names none",
        "heads of language models (the paper's abnormal token score)",
    ]
    yield run.result(
        "lt_defense",
        {"seed": seed, **asdict(settings)},
        run.coverage(missing=missing),
        candidates=1,
        verdict=verdict,
        reasons=reasons,
        statistics=statistics,
        alpha=None if calibration is None else 1 / (len(calibration.rates) + 1),
        calibration=None if calibration is None else calibration.name,
    )


def read(run: Run, settings: LTDefenseSettings) -> torch.Tensor:
    """(N, H) features of the first texts. A readout of the mask token gets one at the end of each
    text. Raises Incomplete for too few texts."""
    backbone = run.backbone
    masked = run.readout.position == "mask"
    limit = min(settings.max_tokens, backbone.max_tokens) - masked
    sequences = []
    for text in run.texts[: settings.texts]:
        ids = backbone.tokenize(text, limit)
        sequences.append(
            backbone.template.wrap([*ids, backbone.tokenizer.mask_token_id] if masked else ids)
        )
    if len(sequences) < settings.texts:
        raise Incomplete(f"too few texts: {len(sequences)}, expected at least {settings.texts}")
    return run.encode(sequences)


def head_rate(features: torch.Tensor, agreement: float) -> float:
    """Share of the coordinates of features (N, H) that have one sign on at least the share
    `agreement` of the texts."""
    positive = (features > 0).double().mean(0)
    return float((torch.maximum(positive, 1 - positive) >= agreement).double().mean())


def _decide(rate: float, calibration: Calibration) -> tuple[Verdict, tuple[str, ...]]:
    highest, count = max(calibration.rates), len(calibration.rates)
    above = rate > highest
    reason = (
        f"head-feature rate {rate:.4f}, {'above' if above else 'not above'} the highest of {count} "
        f"clean model(s), {highest:.4f}; 1 clean model in {count + 1} would be called backdoored"
    )
    return ("backdoored" if above else "clean"), (reason,)
