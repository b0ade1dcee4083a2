"""One hunt from the funnel to confirmed findings: families, growth, hold-out, evidence.

A `Hunt` is a generator with a memory: `run` yields progress and findings, and what it has seen so
far makes a result at any time, so a scan that ends early still reports.

Legend: K candidates, N texts, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from triggerfish.records import Finding, Projection, Trigger
from triggerfish.scanning import evidence, verdict
from triggerfish.scanning.families import WHOLE, Family, contains, families
from triggerfish.scanning.fold import Cored, core, fold
from triggerfish.scanning.grow import grow, inflect, scatter, typable
from triggerfish.scanning.sweep import Incomplete, Progress, Screened, Sweep
from triggerfish.scanning.verdict import Rule
from triggerfish.stats import Tail, benjamini_hochberg

SHOWN = 3
"""Families measured, to be shown, where none is near the rule."""
SEARCHED, SHORT = 4, 8
"""Screening texts in which pieces are tried on, the others must agree; their length in words
(ours)."""


class Hunt:
    def __init__(self, sweep: Sweep, rule: Rule):
        self.sweep = sweep
        self.rule = rule
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
            strong = yield from self._measure_all(self._finalists())
            close, origin = self.screened.yardstick.close, self.screened.yardstick.mean
            for number, finding in enumerate(fold(strong, origin, close)):
                checks = yield from self._checks(str(number), finding)
                finding = replace(finding, evidence=checks | finding.evidence)
                self.findings.append(finding)
                yield finding
            yield from self._project()
        except Incomplete as problem:
            self.problems.append(str(problem))
        self._correct()

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
        found = families(survivors, depths - starts, means, origin, close, most)
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
        """Yields `Progress`; returns those that pass the rule, with their cores."""
        strong: list[Cored] = []
        for number, family in enumerate(finalists):
            ids = self._whole(family)
            surface = self._surface(family, ids)
            known = [*(x.finding.trigger for x in strong), *(f.trigger for f in self.rejected)]
            grown = ids != family.head.token_ids
            if any(surface == t.text or (grown and contains(ids, t.token_ids)) for t in known):
                continue
            finding, means = yield from self._measure(str(number), family, ids, surface)
            if verdict.passes(finding, self.tests, self.rule):
                typed = yield from self._typed_depth(str(number), surface, family.readout)
                checks = {"string": typed >= self.rule.min_depth, "typed_depth": typed}
                checks |= evidence.names(self.sweep, family, ids)
                finding = replace(finding, evidence=checks)
                strong.append(
                    Cored(finding, self._core(ids, family.readout), family.readout, means)
                )
            else:
                self.rejected.append(finding)
        return strong

    def _measure(
        self, name: str, family: Family, ids: tuple[int, ...], surface: str
    ) -> Iterator[Progress]:
        """Yields `Progress`; returns a family as measured on the hold-out, and its (R, H) means."""
        screened, sweep, column = self.screened, self.sweep, family.readout
        assert screened is not None
        features = yield from sweep.features(
            f"holdout-{name}", sweep.holdout_texts, [ids], precision="fp32"
        )
        values = screened.yardstick.measure(features)
        statistics = {key: round(float(value[0, column]), 4) for key, value in values.items()}
        statistics["texts"] = len(sweep.holdout_texts)
        p_value = self.tails[column].p_value(statistics["depth"])
        finding = Finding(
            Trigger(ids, surface), str(sweep.readouts[column]), statistics, p_value, q_value=1.0
        )
        return finding, features[0].mean(0)

    def _core(self, ids: tuple[int, ...], column: int) -> tuple[int, ...]:
        sweep = self.sweep
        return core(
            ids,
            lambda tried: scatter(
                sweep.backbone, tried, sweep.readouts[column], sweep.screen_texts
            ),
        )

    def _checks(self, name: str, finding: Finding) -> Iterator[Progress]:
        """Yields `Progress`; returns the checks beyond the statistic."""
        assert self.screened is not None
        column = [str(readout) for readout in self.sweep.readouts].index(finding.readout)
        ids = finding.trigger.token_ids
        texts, yardstick = self.sweep.screen_texts, self.screened.yardstick
        return (yield from evidence.collect(self.sweep, name, ids, column, texts, yardstick))

    def _typed_depth(self, name: str, surface: str, column: int) -> Iterator[Progress]:
        """Yields `Progress`; returns the hold-out depth when the trigger is typed into the texts as
        a string."""
        backbone = self.sweep.backbone
        typed = [
            backbone.template.wrap(backbone.tokenize(x.text(surface)))
            for x in self.sweep.holdout_texts
        ]
        features = yield from self.sweep.encode(f"typed-{name}", typed, "fp32")
        assert self.screened is not None
        return round(float(self.screened.yardstick.measure(features[None])["depth"][0, column]), 4)

    def _correct(self) -> None:
        """q-values over everything that was tried."""
        found = [*self.findings, *self.rejected]
        q_values = benjamini_hochberg([f.p_value for f in found], self.tests)
        both = [replace(f, q_value=q) for f, q in zip(found, q_values, strict=True)]
        count = len(self.findings)
        self.findings = sorted(both[:count], key=lambda f: -f.statistics["depth"])
        self.rejected = sorted(both[count:], key=lambda f: -f.statistics["depth"])

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
