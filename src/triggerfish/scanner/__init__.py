"""Scan a backbone for transferable backdoors: `scan` returns a result, `events` streams the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.facts import environment, facts, weights_hash
from triggerfish.hashing import digest
from triggerfish.records import Finding, ScanResult
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.pipeline import Pipeline
from triggerfish.scanner.predictions import damage
from triggerfish.scanner.reference import Reference
from triggerfish.scanner.result import result_of
from triggerfish.scanner.screening import Progress, Screening, ScreeningSettings
from triggerfish.scanner.search.efforts import SearchSettings

__all__ = ["DecisionRule", "Progress", "ScreeningSettings", "SearchSettings", "events", "scan"]


def events(
    model: Backbone,
    texts: Sequence[str] | None = None,
    *,
    words: Sequence[str] | None = None,
    settings: ScreeningSettings = ScreeningSettings(),
    rule: DecisionRule = DecisionRule(),
    search: SearchSettings | None = None,
    seed: int = 0,
    state: Path | None = None,
    batch_tokens: int | None = None,
    reference: Backbone | None = None,
) -> Iterator[Progress | Finding | ScanResult]:
    """Scan for transferable backdoors. Yields `Progress` throughout, each `Finding` once it is
    confirmed, and a `ScanResult` at the end.

    texts: ordinary texts, about 600 or more of at least 20 words (default: the bundled sample).
    words: candidates in addition to the vocabulary, the words of the texts and all pairs of letters
    (default: the bundled word list). search: settings of the search for triggers that no list
    contains; None runs the screening only. state: folder that keeps the activations of an
    interrupted scan; the same scan resumes from it. They are removed when the iterator is asked for
    more after the result, so that nothing is lost where the result could not be saved.
    batch_tokens: tokens per forward pass (default: by device); it changes the run time, not the
    findings. reference: the trusted original that the model was fine-tuned from (`reference.py`).

    ValueError for a reference with another architecture or tokenizer.
    """
    texts = text.bundled_corpus() if texts is None else list(texts)
    words = text.bundled_words() if words is None else list(words)
    listed = list(dict.fromkeys([*text.corpus_words(texts), *text.short_words(), *words]))
    key = _key(model, texts, listed, settings, rule, search, seed, reference) if state else ""
    store = ActivationCache(state / key if state else None, model.name)
    screening = Screening(
        model,
        texts,
        listed,
        settings,
        seed=seed,
        store=store,
        batch_tokens=batch_tokens,
        reference=Reference(model, reference) if reference else None,
    )
    pipeline = Pipeline(screening, rule, search)
    yield from pipeline.run()
    degrading = yield from damage(pipeline)
    yield from degrading.findings
    yield result_of(pipeline, degrading)
    if not pipeline.problems:
        store.clear()


def scan(
    model: Backbone,
    texts: Sequence[str] | None = None,
    *,
    words: Sequence[str] | None = None,
    settings: ScreeningSettings = ScreeningSettings(),
    rule: DecisionRule = DecisionRule(),
    search: SearchSettings | None = None,
    seed: int = 0,
    reference: Backbone | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ScanResult:
    """Run `events` to the end and return its `ScanResult`. The arguments are those of `events`;
    progress: called with each `Progress`."""
    for event in events(
        model,
        texts,
        words=words,
        settings=settings,
        rule=rule,
        search=search,
        seed=seed,
        reference=reference,
    ):
        if isinstance(event, ScanResult):
            return event
        if progress and isinstance(event, Progress):
            progress(event)
    raise AssertionError("unreachable: events end with a result")


def _key(
    model: Backbone,
    texts: Sequence[str],
    words: Sequence[str],
    settings: ScreeningSettings,
    rule: DecisionRule,
    search: SearchSettings | None,
    seed: int,
    reference: Backbone | None,
) -> str:
    """A hash of everything that the result of a scan depends on."""
    parts = [
        asdict(settings) | {"budget_seconds": None},
        asdict(rule),
        asdict(search) if search else None,
        seed,
        texts,
        words,
        _identity(model),
        _identity(reference) if reference else None,
        version("tokenizers"),
    ]
    return digest(json.dumps(parts, sort_keys=True, default=str))


def _identity(backbone: Backbone) -> list[Any]:
    """What a model computes with: the files that it was loaded from, the weights as they were
    loaded, whatever was decided on the way, config, tokenizer, versions, device and precision."""
    known, measured = facts(backbone), environment(backbone)
    return [
        known.weights_sha256,
        weights_hash(backbone.model),
        backbone.model.config.to_dict(),
        [backbone.untrained, backbone.unread],
        known.tokenizer_sha256,
        repr(backbone.tokenizer),
        {name: value for name, value in measured.items() if name != "threads"},
    ]
