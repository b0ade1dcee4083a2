"""The phrase search without screening: invert targets, find tokens that lead to them, reconstruct
words, and measure these on hold-out texts.

It needs no word list, so it can look for words that no list contains, and it can be compared with
the search of Patronus. It finds one trigger per round and proves no absence. A trigger of one word
is found as a phrase of one word.

Source: ours; `phrases.py` and the modules that it uses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.records import Coverage, Finding, HiddenTarget, ScanResult
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.decision import DecisionRule, decide
from triggerfish.scanner.holdout import Holdout
from triggerfish.scanner.merging import merge
from triggerfish.scanner.result import NEAR_MISSES, bare_result
from triggerfish.scanner.screening import Incomplete, Progress, Screening, ScreeningSettings
from triggerfish.scanner.search.phrases import PhraseSearch, PhraseSettings
from triggerfish.scanner.search.validation import confirm


def events(
    model: Backbone,
    texts: Sequence[str],
    *,
    words: Sequence[str] = (),
    settings: PhraseSettings = PhraseSettings(),
    seed: int = 0,
) -> Iterator[Progress | Finding | ScanResult]:
    """Search one model; see `scanner.events`. words: words to which subword tokens may be
    completed, in addition to those of the texts."""
    listed = list(dict.fromkeys([*text.corpus_words(texts), *words]))
    screening = Screening(
        model, texts, listed, ScreeningSettings(), seed=seed, store=ActivationCache(None)
    )
    findings: list[Finding] = []
    rejected: list[Finding] = []
    problems: list[str] = []
    targets: list[HiddenTarget] = []
    tried = 0
    try:
        screening.plan(("clean", "phrases"))
        screening.cut_texts()
        clean_reference = yield from screening.measure_clean()
        yield screening.begin("phrases")
        search = PhraseSearch(screening, clean_reference, settings)
        phrases = yield from search.run([])
        tried = search.tried
        holdout = Holdout(screening, clean_reference, DecisionRule())
        strong, rejected = yield from confirm(holdout, phrases)
        targets = search.unexplained([(x.column, x.means[x.column]) for x in strong])
        for x in merge(strong, clean_reference.mean, clean_reference.close):
            findings.append(replace(x.finding, sufficient_subsets=(x.minimal_subset,)))
            yield findings[-1]
    except Incomplete as problem:
        problems.append(str(problem))
    verdict, reasons = decide(findings, problems, targets=targets)
    if verdict == "clean":
        reasons = ("no sequence of tokens that this search came across collapses texts",)
    unread = [str(readout) for readout in screening.readouts[settings.readouts :]]
    yield bare_result(
        model,
        verdict=verdict,
        reasons=reasons,
        coverage=Coverage(
            vocabulary=0,
            words=0,
            extended=tried,
            readouts=tuple(map(str, screening.readouts[: settings.readouts])),
            texts=len(set(texts)),
            not_examined=(
                *problems,
                "vocabulary and words one by one: this search proves no absence",
                *([f"readouts {', '.join(unread)}"] if unread else []),
                "triggers that are a style or a syntax",
            ),
        ),
        candidates=tried,
        settings={"method": "inversion", "seed": seed, **asdict(settings)},
        seconds=time.monotonic() - screening.started,
        forward_tokens=screening.done,
        findings=findings,
        targets=targets,
        near_misses=rejected[:NEAR_MISSES],
    )
