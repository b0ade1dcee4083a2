"""One hunt from the funnel to confirmed findings: families, growth, hold-out, evidence.

A `Hunt` is a generator with a memory: `run` yields progress and findings, and what it has seen so
far makes a result at any time, so a scan that ends early still reports.

Legend: K candidates, N texts, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from triggerfish.marking import AND
from triggerfish.records import Finding, Projection, Trigger
from triggerfish.scanning import evidence, verdict
from triggerfish.scanning.families import WHOLE, Family, contains, families
from triggerfish.scanning.fold import Cored, core, fold
from triggerfish.scanning.grow import grow, inflect, typable
from triggerfish.scanning.search.phrases import PhraseSearch, PhraseSettings
from triggerfish.scanning.sweep import Incomplete, Progress, Screened, Sweep
from triggerfish.scanning.verdict import Rule
from triggerfish.stats import Tail, benjamini_hochberg

SHOWN = 3
"""Families measured, to be shown, where none is near the rule."""
APART = 0.5
"""Decades of depth that the words of a combination may lose when they stand apart (ours)."""
SEARCHED, SHORT = 4, 8
"""Screening texts in which pieces are tried on, the others must agree; their length in words
(ours)."""


class Hunt:
    """phrases: how to search for what cannot be listed, or None for the sweep alone."""

    def __init__(self, sweep: Sweep, rule: Rule, phrases: PhraseSettings | None):
        self.sweep = sweep
        self.rule = rule
        self.phrases = phrases
        self.searched = False
        self.strong: list[Cored] = []
        self.problems: list[str] = []
        self.screened: Screened | None = None
        self.tails: list[Tail] = []
        self.findings: list[Finding] = []
        self.rejected: list[Finding] = []
        self.grown = 0
        self.projection: Projection | None = None

    @property
    def tests(self) -> int:
        """Candidates tried times readouts: what p-values are corrected for."""
        tried = len(self.sweep.entries) + len(self.sweep.words) + self.grown
        return tried * len(self.sweep.readouts)

    def run(self) -> Iterator[Progress | Finding]:
        """Yields as it goes; an incomplete scan leaves its reason in `problems`."""
        try:
            self.screened = yield from self.sweep.screen()
            self.tails = verdict.null_tails(
                self.screened.candidates, self.screened.depths, self.rule
            )
            yield from self._measure_all(self._finalists())
            yield from self._report(self._folded(self.strong))
            if self.phrases:
                found = yield from self._search(self.phrases)
                yield from self._report(self._folded(found))
                self.searched = True
            yield from self._project()
        except Incomplete as problem:
            self.problems.append(str(problem))
            named = [finding.trigger for finding in self.findings]
            left = self._folded(self.strong) if self.strong else []
            self.findings += [finding for finding in left if finding.trigger not in named]
        self._correct()

    def _folded(self, strong: Sequence[Cored]) -> list[Finding]:
        assert self.screened is not None
        return fold(strong, self.screened.yardstick.mean, self.screened.yardstick.close)

    def _report(self, findings: Sequence[Finding]) -> Iterator[Progress | Finding]:
        """Yields `Progress`, and each finding once its checks are done."""
        for finding in findings:
            checks = yield from self._checks(str(len(self.findings)), finding)
            self.findings.append(replace(finding, evidence=checks | finding.evidence))
            yield self.findings[-1]

    def _finalists(self) -> list[Family]:
        """Families of survivors, those first that lie most decades above their readout's null."""
        screened = self.screened
        assert screened is not None
        depths = screened.depths[: screened.survivors]
        starts = torch.tensor([tail.start for tail in self.tails])
        close, origin = screened.yardstick.close.cpu(), screened.yardstick.mean.cpu()
        survivors, means = (
            screened.candidates[: screened.survivors],
            screened.means[: screened.survivors],
        )
        most = self.sweep.settings.finalists
        found = families(survivors, depths - starts, means, origin, close, most, self._core)
        depth = {c: float(values.max()) for c, values in zip(survivors, depths, strict=True)}
        worth = [family for family in found if depth[family.head] >= self.rule.min_depth / 2]
        return worth or found[:SHOWN]

    def _whole(self, family: Family) -> tuple[int, ...]:
        """The ids of the trigger that the head of a family is, or is a part of."""
        screened, sweep, column = self.screened, self.sweep, family.readout
        assert screened is not None
        ids = family.head.token_ids
        depth = float(screened.depths[screened.candidates.index(family.head), column])
        # Only what is significant as it stands may grow: among all phrases of several pieces, some
        # collapse any model. And a string that collapses texts to a point is a whole trigger.
        if depth <= self.tails[column].threshold(self.rule.alpha / self.tests):
            return ids
        readout = sweep.readouts[column]
        if depth < WHOLE or not typable(sweep.backbone, ids):
            short = [context.short(SHORT) for context in sweep.screen_texts]
            ids = grow(sweep.backbone, ids, readout, short[:SEARCHED], short[SEARCHED:])
        if typable(sweep.backbone, ids):
            ids = inflect(sweep.backbone, ids, readout, sweep.screen_texts)
        self.grown += ids != family.head.token_ids
        return ids

    def _surface(self, family: Family, ids: tuple[int, ...]) -> str:
        """How a user would type it, in lower case where the tokenizer makes no difference."""
        backbone, listed = self.sweep.backbone, family.head.text
        if family.head.kind == "entry" or ids != family.head.token_ids:
            return backbone.surface(ids)
        return listed.lower() if backbone.word_ids(listed.lower()) == ids else listed

    def _measure_all(self, finalists: Sequence[Family]) -> Iterator[Progress]:
        """Yields `Progress`; leaves those that pass the rule, with their cores, in `strong`."""
        for number, family in enumerate(finalists):
            ids, column = self._whole(family), family.readout
            surface = self._surface(family, ids)
            known = [*(x.finding.trigger for x in self.strong), *(f.trigger for f in self.rejected)]
            grown = ids != family.head.token_ids
            if any(surface == t.text or (grown and contains(ids, t.token_ids)) for t in known):
                continue
            finding, means = yield from self._measure(str(number), ids, column, surface)
            p_value = self.tails[column].p_value(finding.statistics["depth"])
            finding = replace(finding, p_value=p_value, q_value=1.0)
            if not verdict.passes(finding, self.tests, self.rule):
                self.rejected.append(finding)
                continue
            typed = yield from self._typed(str(number), surface, column)
            finding = replace(finding, evidence=typed | evidence.names(self.sweep, family, ids))
            self.strong.append(Cored(finding, self._core(ids, column), column, means))

    def _core(self, ids: tuple[int, ...], column: int) -> tuple[int, ...]:
        return core(ids, lambda tried: self.sweep.scatter(tried, column))

    def _search(self, settings: PhraseSettings) -> Iterator[Progress]:
        """Yields `Progress`; returns the phrases that collapse texts, measured on the hold-out."""
        assert self.screened is not None
        backbone = self.sweep.backbone
        known = [(x.column, x.means[x.column]) for x in self.strong]
        search = PhraseSearch(self.sweep, self.screened.yardstick, settings)
        strong: list[Cored] = []
        for number, (ids, column) in enumerate((yield from search.run(known))):
            name, surface = f"phrase-{number}", backbone.surface(ids)
            finding, means = yield from self._measure(name, ids, column, surface)
            deep = finding.statistics["depth"] >= settings.min_depth
            if not deep or finding.statistics["heads"] < self.rule.min_heads:
                self.rejected.append(finding)
                continue
            pieces = backbone.tokenizer.convert_ids_to_tokens(list(ids))
            typed = yield from self._typed(name, surface, column)
            kind = yield from self._kind(name, ids, column, finding.statistics["depth"])
            trigger = replace(finding.trigger, kind=kind)
            if kind == "combination":
                trigger = replace(trigger, text=AND.join(surface.split()))
            checks = typed | {"pieces": list(pieces), "searched": True}
            strong.append(
                Cored(replace(finding, trigger=trigger, evidence=checks), ids, column, means)
            )
        return strong

    def _kind(
        self, name: str, ids: tuple[int, ...], column: int, depth: float
    ) -> Iterator[Progress]:
        """Yields `Progress`; returns what kind of trigger words are: do they work apart?"""
        assert self.screened is not None
        parts = [self.sweep.backbone.word_ids(x) for x in self.sweep.backbone.surface(ids).split()]
        if len(parts) < 2:
            return "word"
        texts = [x for x in self.sweep.holdout_texts if len(x.slots) >= len(parts)]
        if not texts:
            return "phrase"
        rows = [self.sweep.backbone.template.wrap(x.apart(parts)) for x in texts]
        features = yield from self.sweep.encode(f"{name}-apart", rows, "fp32")
        apart = float(self.screened.yardstick.measure(features[None])["depth"][0, column])
        return "combination" if apart >= depth - APART else "phrase"

    def _measure(
        self, name: str, ids: tuple[int, ...], column: int, surface: str
    ) -> Iterator[Progress]:
        """Yields `Progress`; returns a candidate as measured on the hold-out, and its (R, H)
        means."""
        sweep = self.sweep
        assert self.screened is not None
        features = yield from sweep.features(
            f"holdout-{name}", sweep.holdout_texts, [ids], precision="fp32"
        )
        values = self.screened.yardstick.measure(features)
        statistics = {key: round(float(value[0, column]), 4) for key, value in values.items()}
        statistics["texts"] = len(sweep.holdout_texts)
        readout = str(sweep.readouts[column])
        return Finding(Trigger(ids, surface), readout, statistics, None, None), features[0].mean(0)

    def _checks(self, name: str, finding: Finding) -> Iterator[Progress]:
        """Yields `Progress`; returns the checks beyond the statistic."""
        assert self.screened is not None
        column = [str(readout) for readout in self.sweep.readouts].index(finding.readout)
        ids = finding.trigger.token_ids
        texts, yardstick = self.sweep.screen_texts, self.screened.yardstick
        return (yield from evidence.collect(self.sweep, name, ids, column, texts, yardstick))

    def _typed(self, name: str, surface: str, column: int) -> Iterator[Progress]:
        """Yields `Progress`; returns the hold-out depth when the trigger is typed into the texts as
        a string, and whether that is strong."""
        backbone = self.sweep.backbone
        typed = [
            backbone.template.wrap(backbone.tokenize(x.text(surface)))
            for x in self.sweep.holdout_texts
        ]
        features = yield from self.sweep.encode(f"typed-{name}", typed, "fp32")
        assert self.screened is not None
        value = float(self.screened.yardstick.measure(features[None])["depth"][0, column])
        return {"string": value >= self.rule.min_depth, "typed_depth": round(value, 4)}

    def _correct(self) -> None:
        """q-values over everything that was tried."""
        found = [f for f in [*self.findings, *self.rejected] if f.p_value is not None]
        p_values = [f.p_value for f in found if f.p_value is not None]
        q_values = dict(zip(map(id, found), benjamini_hochberg(p_values, self.tests), strict=True))
        self.findings, self.rejected = (
            sorted(
                (replace(f, q_value=q_values.get(id(f))) for f in group),
                key=lambda f: -f.statistics["depth"],
            )
            for group in (self.findings, self.rejected)
        )

    def _project(self) -> Iterator[Progress]:
        """Two principal axes of the hold-out texts, clean and triggered, at the readout of the
        first finding."""
        shown = sorted(self.findings or self.rejected[:3], key=lambda f: -f.statistics["depth"])[
            :12
        ]
        if not shown:
            return
        column = [str(r) for r in self.sweep.readouts].index(shown[0].readout)
        candidates = [(), *(finding.trigger.token_ids for finding in shown)]
        features = (
            yield from self.sweep.features("projection", self.sweep.holdout_texts, candidates)
        )[:, :, column]
        flat = features.flatten(0, 1)
        _, scales, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
        share = (scales.square() / scales.square().sum())[:2].tolist()
        planes = ((features - flat.mean(0)) @ axes[:2].T).cpu()
        points = [tuple((round(x, 3), round(y, 3)) for x, y in plane.tolist()) for plane in planes]
        named = dict(zip((finding.trigger.text for finding in shown), points[1:], strict=True))
        self.projection = Projection(shown[0].readout, points[0], named, (share[0], share[1]))
