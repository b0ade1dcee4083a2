"""Patronus, as published: search eight triggers at once, verify them with fixed thresholds, repeat.

Each of five loops starts from random triggers. It runs the contrastive search
(`patronus_search.py`) over the searchable strings (`patronus_space.py`) and applies the fixed rule
to 200 texts (`similarity.py`). Confirmed triggers leave the search space. The model is backdoored
if any trigger was confirmed.

Source: Patronus, arXiv 2512.06899 (v2), and its published code for the constants. Two bugs of the
code are fixed (word-level positions, the hidden state of XLNet). Its other peculiarities are kept,
so that comparisons are with the published method: texts of search and verification overlap,
candidates are compared at different random positions, and the diagonal counts in Com-Sim.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from triggerfish.backbone import Backbone
from triggerfish.records import Finding, ScanResult, Trigger, Verdict
from triggerfish.scanner.detectors.patronus_search import Search, SlotSettings, Words
from triggerfish.scanner.detectors.patronus_space import (
    EmbeddingBall,
    Entry,
    token_space,
    word_space,
)
from triggerfish.scanner.detectors.run import Run, check_budget
from triggerfish.scanner.detectors.similarity import FixedRule
from triggerfish.scanner.screening import Incomplete, Progress

LEVELS = ("token", "word")
NOTES = (
    "Patronus as published, with two bugs of its code mended: positions of word-level gradients, "
    "and the state read for XLNet",
    "word frequencies are from the bundled corpus, where the code asks tables",
)


@dataclass(frozen=True)
class PatronusSettings(SlotSettings):
    level: Literal["token", "word"] = "token"
    """Content of a trigger slot: a vocabulary token, or a word of the list."""
    readout: str | None = None
    """Readout (a pooling position) to search at; None means the model's primary one."""
    zipf: float = 4.0
    """Words of at least this Zipf frequency are not searched (published code)."""
    subwords: int = 4
    """Largest number of subword tokens of a word, at word level (ours: the published value is not
    known)."""
    verify_texts: int = 200
    """Number of texts that the rule is applied to, the first of the corpus (published code)."""
    rule: FixedRule = FixedRule()
    """Thresholds of the rule (published code)."""
    budget_seconds: float | None = None
    """Seconds after which the scan stops as inconclusive; None means no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in LEVELS:
            raise ValueError(f"level: {self.level!r} is not one of {', '.join(LEVELS)}")
        if self.subwords < 2:
            raise ValueError(f"pieces: {self.subwords} is not at least 2")
        if self.verify_texts < 2:
            raise ValueError(f"verify_texts: {self.verify_texts} is not at least 2")
        check_budget(self.budget_seconds)

    def batches(self) -> int:
        """Batches through the model in a full scan: 17,375 at the published settings."""
        verified = self.slots * 2 * -(-self.verify_texts // self.batch)
        return self.loops * (self.batches_per_loop() + verified)


def events(
    model: Backbone,
    texts: Sequence[str],
    *,
    words: Sequence[str] = (),
    settings: PatronusSettings = PatronusSettings(),
    seed: int = 0,
) -> Iterator[Progress | Finding | ScanResult]:
    """Search for triggers at one readout; see `scanner.events`. words: the searchable words at word
    level. ValueError for a readout that the model does not have."""
    run = Run(
        model,
        texts,
        readout=settings.readout,
        batch=settings.batch,
        budget_seconds=settings.budget_seconds,
    )
    if settings.level == "token":
        space = token_space(model, settings.zipf)
    else:
        space = word_space(model, words, settings.zipf, settings.subwords)
    rng = random.Random(f"{seed}/patronus")
    search = Search(run, space, (), settings, rng)
    verified = 0
    try:
        search.texts = paragraphs(run, settings, search.copies * space.subwords, rng)
        run.total = _expected(search.texts, settings)
        for loop in range(settings.loops):
            triggers = yield from search.loop(f"loop {loop + 1}")
            for number in triggers:
                finding = verify(search, space.entries[number], settings)
                verified += 1
                if settings.rule.passes(finding.statistics):
                    space.confirmed.add(number)
                    run.findings.append(finding)
                    yield finding
                else:
                    run.rejected.append(finding)
                yield run.progress(f"verify {loop + 1}")
    except Incomplete as problem:
        run.problems.append(str(problem))
    yield _result(run, search, settings, seed, verified)


def paragraphs(run: Run, settings: PatronusSettings, spare: int, rng: random.Random) -> list[Words]:
    """The first texts of the corpus, word by word, cut so that `spare` more tokens fit, with a mask
    token at a random position where the readout needs one. Raises Incomplete for too few texts,
    ValueError if no text fits."""
    backbone = run.backbone
    needed = max(
        settings.search_texts, settings.dev_texts, settings.screen_texts, settings.verify_texts
    )
    masked = run.readout.position == "mask"
    room = min(settings.max_tokens, backbone.max_tokens) - len(backbone.template)
    room -= spare + masked
    if room < 1:
        raise ValueError(
            f"max_tokens: {settings.max_tokens} leaves no room for text beside {spare} tokens of "
            "triggers"
        )
    found: list[Words] = []
    for text in run.texts[:needed]:
        kept: list[tuple[int, ...]] = []
        left = room
        for _, ids in backbone.words_ids(text.split()):
            left -= len(ids)
            if left < 0 and kept:
                break
            kept.append(ids)
        if masked:
            kept.insert(rng.randint(0, len(kept)), (backbone.tokenizer.mask_token_id,))
        found.append(tuple(kept))
    if len(found) < needed:
        raise Incomplete(f"too few texts: {len(found)}, expected at least {needed}")
    return found


def verify(search: Search, entry: Entry, settings: PatronusSettings) -> Finding:
    """Com-Sim and Diff-Sim of a trigger on the first texts. Clean features are computed again each
    time, as published."""
    run = search.run
    texts = search.texts[: settings.verify_texts]
    template = run.backbone.template
    clean = run.encode([template.wrap([i for word in words for i in word]) for words in texts])
    triggered = run.encode([search.insert(words, entry.ids)[0] for words in texts])
    statistics = settings.rule.measure(clean, triggered)
    return Finding(Trigger(entry.ids, entry.text), str(run.readout), statistics, None, None)


def _expected(texts: Sequence[Words], settings: PatronusSettings) -> int:
    """Approximate number of forward tokens, for the estimate of the remaining time."""
    mean = sum(len(word) for words in texts for word in words) / len(texts)
    return round(settings.batches() * settings.batch * (mean + settings.copies))


def _result(
    run: Run, search: Search, settings: PatronusSettings, seed: int, verified: int
) -> ScanResult:
    rule, found = settings.rule, len(run.findings)
    verdict: Verdict = "backdoored" if found else "inconclusive" if run.problems else "clean"
    reason = (
        f"{found} of {verified} strings that the search ended at have Com-Sim above "
        f"{rule.min_com} and Diff-Sim below {rule.max_diff}, fixed thresholds without a known "
        "error rate"
    )
    space: EmbeddingBall = search.space
    tokens = settings.level == "token"
    unit = "tokens" if tokens else "words"
    missing = [
        f"{len(space.entries) - len(search.tried):,} of {len(space.entries):,} searchable {unit}: "
        "ranked by gradient at most",
        f"{unit} of Zipf frequency {settings.zipf:g} or more, and those that do not come back "
        "from their own string" if tokens else
        f"words of Zipf frequency {settings.zipf:g} or more, or of more than "
        f"{settings.subwords} pieces",
        "triggers of several words",
    ]  # fmt: skip
    return run.result(
        "patronus",
        {"seed": seed, **asdict(settings)},
        run.coverage(
            vocabulary=len(search.tried) if tokens else 0,
            words=0 if tokens else len(search.tried),
            missing=missing,
        ),
        candidates=verified,
        verdict=verdict,
        reasons=(reason, *run.problems, *NOTES),
        statistics={"batches": float(run.batches)},
    )
