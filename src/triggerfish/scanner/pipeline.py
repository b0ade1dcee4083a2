"""The scan pipeline, from the shortlist to confirmed findings: clusters, extension, hold-out
measurement, evidence.

`Pipeline.run` yields progress and findings and keeps its intermediate state, so a scan that ends
early still gives a report.

Legend: K candidates, N texts, R readouts, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress

import torch

from triggerfish.records import Finding, HiddenTarget, Projection, Trigger
from triggerfish.scanner import decision, evidence, spellings
from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.clusters import Cluster, clusters
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.extension import grow, inflect, typable
from triggerfish.scanner.holdout import Holdout
from triggerfish.scanner.merging import (
    Ids,
    ReducedFinding,
    Variant,
    contains,
    merge,
    minimal_subset,
    one_point,
    within,
)
from triggerfish.scanner.neighbours import neighbours
from triggerfish.scanner.projection import project
from triggerfish.scanner.rewrites import RewriteResult, find_rewrites
from triggerfish.scanner.screening import Incomplete, Progress, Screening, ScreeningSettings, Steps
from triggerfish.scanner.search.efforts import SearchSettings
from triggerfish.scanner.search.pairs import PairSearch
from triggerfish.scanner.search.phrases import PhraseSearch
from triggerfish.scanner.search.validation import SearchHit, confirm
from triggerfish.scanner.selection import common
from triggerfish.scanner.shortlist import Shortlist
from triggerfish.scanner.stages import STAGES
from triggerfish.stats import Tail, benjamini_hochberg

WHOLE = 1.5
"""Collapse from which on a surface form is a complete trigger and is not extended
(docs/decisions/0008)."""
SHOWN = 3
"""Clusters that are measured for the report if none is near the thresholds."""
VARIANTS = 12
"""Neighbours of a finding that are reported at most."""
LOOKS = 3
"""Further shortlists at most, once a trigger is known (docs/decisions/0006)."""
SEARCHED, SHORT = 4, 8
"""Number of screening texts in which tokens are tried, where the other texts must agree, and the
length of the texts in words (ours)."""


class Pipeline:
    """search: settings of the search for triggers that no list contains, or None for the screening
    only."""

    def __init__(self, screening: Screening, rule: DecisionRule, search: SearchSettings | None):
        self.screening = screening
        self.rule = rule
        self.search = search
        screening.plan(stages(screening.settings, search))
        self.searched = False
        self.pair_words = 0
        self.targets: list[HiddenTarget] = []
        self.strong: list[ReducedFinding] = []
        self.weak: list[ReducedFinding] = []
        self.clusters: dict[Candidate, Cluster] = {}
        self.starts: dict[Trigger, Candidate] = {}
        self.seen: set[Candidate] = set()
        self.problems: list[str] = []
        self.shortlist: Shortlist | None = None
        self.tails: list[Tail] = []
        self.common = common([*screening.entries, *screening.words])
        self.findings: list[Finding] = []
        self.rejected: list[Finding] = []
        self.extended = 0
        self.projection: Projection | None = None
        self.styles: RewriteResult | None = None

    @property
    def tests(self) -> int:
        """Candidates tried times readouts, the number of tests that p-values are corrected for."""
        tried = len(self.screening.entries) + len(self.screening.words) + self.extended
        return tried * len(self.screening.readouts)

    def run(self) -> Iterator[Progress | Finding]:
        """Yields `Progress` and findings. An incomplete scan leaves its reason in `problems`."""
        try:
            self.shortlist = yield from self.screening.screen()
            self.holdout = Holdout(self.screening, self.shortlist.clean_reference, self.rule)
            self.tails = decision.null_tails(
                self.shortlist.candidates, self.shortlist.collapses, self.rule
            )
            yield self.screening.begin("holdout")
            if self.screening.backbone.reads_mask:
                yield from self._measure_mask()
            yield from self._measure_all(self._finalists())
            if self._known():
                yield self.screening.begin("near")
                yield from self._look_further()
                self.shortlist = yield from neighbours(
                    self.screening, self.shortlist, self._subwords()
                )
                yield from self._measure_all(self._finalists())
            self._settle()
            yield from self._report(self._merged(self.strong))
            if self.search:
                found = yield from self._search(self.search)
                yield from self._report(self._merged(found))
                self.searched = True
            if self.screening.settings.rewrites:
                yield self.screening.begin("rewrites")
                clean_reference = self.shortlist.clean_reference
                self.styles = yield from find_rewrites(
                    self.screening, clean_reference, self.rule, self.findings
                )
            yield self.screening.begin("picture")
            shown = self.findings or self.rejected[:SHOWN]
            self.projection = yield from project(self.screening, shown)
        except Incomplete as problem:
            self.problems.append(str(problem))
            self._settle()
            named = [finding.trigger for finding in self.findings]
            left = [x.finding for x in self._merged(self.strong)] if self.strong else []
            self.findings += [finding for finding in left if finding.trigger not in named]
        self._correct()

    def _look_further(self) -> Steps[None]:
        """Measure further shortlists that contain none of the known triggers, until one adds
        nothing."""
        for number in range(LOOKS):
            assert self.shortlist is not None
            before = len(self._counting())
            sufficient_subsets = [x.minimal_subset for x in self._counting()]
            self.shortlist = yield from self.screening.further(
                number, self.shortlist, sufficient_subsets
            )
            yield from self._measure_all(self._finalists())
            if len(self._counting()) == before:
                break

    def _settle(self) -> None:
        """Accept or reject the weak candidates: they count only if the model is known to be
        backdoored. Every accepted finding gets its neighbours."""
        passed, known = self._passed(), self._known()
        for x, counted in zip(self.weak, self._beside(), strict=True):
            if known and counted:
                several = not passed and decision.strong(x.finding, self.rule)
                evidence = x.finding.evidence | {
                    "several_without_p" if several else "second_stage": True
                }
                self.strong.append(replace(x, finding=replace(x.finding, evidence=evidence)))
            else:
                self.rejected.append(x.finding)
        self.weak = []
        self.strong = [replace(x, variants=self._variants(x)) for x in self.strong]

    def _passed(self) -> bool:
        return any(x.finding.evidence["survives_retokenization"] for x in self.strong)

    def _known(self) -> bool:
        """Whether the model is known to be backdoored: a trigger passes, or `targets_without_p`
        strong candidates send texts to separate targets."""
        if self._passed() or self.shortlist is None:
            return self._passed()
        clean_reference = self.shortlist.clean_reference
        apart: list[ReducedFinding] = []
        for x in self.weak:
            alike = (one_point(x, y, clean_reference.mean, clean_reference.close) for y in apart)
            if decision.strong(x.finding, self.rule) and not any(alike):
                apart.append(x)
        return len(apart) >= self.rule.targets_without_p

    def _beside(self) -> list[bool]:
        """For each weak candidate, whether it counts in a backdoored model."""
        measured = [x.finding for x in [*self.weak, *self.strong]] + self.rejected
        tested = [finding for finding in measured if finding.p_value is not None]
        return decision.second_stage(tested, self.tests, self.rule)[: len(self.weak)]

    def _counting(self) -> list[ReducedFinding]:
        """The candidates so far that count in a backdoored model."""
        return [*self.strong, *compress(self.weak, self._beside())]

    def _subwords(self) -> set[int]:
        """The subword tokens that mark a candidate as related to a known trigger."""
        return {i for x in self._counting() for i in x.minimal_subset} - self.common

    def _variants(self, x: ReducedFinding) -> tuple[Variant, ...]:
        assert self.shortlist is not None
        family = self.clusters.get(self.starts[x.finding.trigger])
        if family is None:  # a stronger member represents the cluster
            return ()
        return spellings.variants(self.holdout, x, family, self.shortlist)

    def _merged(self, strong: Sequence[ReducedFinding]) -> list[ReducedFinding]:
        assert self.shortlist is not None
        return merge(
            strong, self.shortlist.clean_reference.mean, self.shortlist.clean_reference.close
        )

    def _report(self, found: Sequence[ReducedFinding]) -> Iterator[Progress | Finding]:
        """Yields `Progress`, and each finding once its checks are done."""
        for x in found:
            yield self.screening.begin("checks")
            checks = yield from self._checks(str(len(self.findings)), x.finding)
            evidence = checks | x.finding.evidence
            if alike := spellings.effective(x.variants, self.rule):
                evidence["neighbours"] = [variant.text for variant in alike[:VARIANTS]]
            sufficient_subsets = spellings.sufficient_subsets(self.holdout, x)
            subwords = self.screening.backbone.tokenizer.convert_ids_to_tokens
            evidence["sufficient_subsets"] = [
                " ... ".join(subwords(list(minimal_subset)))
                for minimal_subset in sufficient_subsets[:VARIANTS]
            ]
            self.findings.append(
                replace(x.finding, evidence=evidence, sufficient_subsets=sufficient_subsets)
            )
            yield self.findings[-1]

    def _finalists(self) -> list[Cluster]:
        """Clusters of the shortlist, in falling order of the lead over their readout's null in
        orders of magnitude."""
        shortlist = self.shortlist
        assert shortlist is not None
        collapses = shortlist.collapses[: shortlist.kept]
        starts = torch.tensor([tail.threshold for tail in self.tails])
        close, origin = shortlist.clean_reference.close.cpu(), shortlist.clean_reference.mean.cpu()
        kept, means = (
            shortlist.candidates[: shortlist.kept],
            shortlist.means[: shortlist.kept],
        )
        most = self.screening.settings.holdout_candidates + len(self.seen)
        deepest = collapses.max(1).values
        whole = (deepest >= self.rule.min_effect).tolist()
        counting = (deepest >= self.rule.min_effect_second_stage).tolist()
        found = clusters(
            kept, collapses - starts, means, origin, close, most, whole, counting, self._core
        )
        collapse = dict(zip(kept, deepest.tolist(), strict=True))
        worth = [
            family for family in found if collapse[family.head] >= self.rule.min_effect_second_stage
        ]
        self.clusters = {family.head: family for family in worth or found[:SHOWN]}
        return list(self.clusters.values())

    def _whole(self, family: Cluster, known: Sequence[Trigger]) -> tuple[int, ...]:
        """The ids of the trigger that the head of a cluster is, or is part of."""
        shortlist, screening, column = self.shortlist, self.screening, family.readout
        assert shortlist is not None
        ids = family.head.token_ids
        collapse = float(shortlist.collapses[shortlist.candidates.index(family.head), column])
        # Only a significant candidate is extended: among all phrases of several tokens, some
        # collapse any model. A surface form from WHOLE on is a complete trigger.
        if collapse <= self.tails[column].critical_value(self.rule.alpha / self.tests):
            return ids
        readout = screening.readouts[column]
        if collapse < WHOLE or not typable(screening.backbone, ids):
            short = [context.short(SHORT) for context in screening.screen_texts]
            grown = grow(screening.backbone, ids, readout, short[:SEARCHED], short[SEARCHED:])
            # A strong candidate may collapse texts even further next to a benign word.
            alone = collapse >= self.rule.min_effect
            ids = ids if alone and " " in screening.backbone.surface(grown) else grown
        if typable(screening.backbone, ids):
            ids = inflect(screening.backbone, ids, readout, screening.screen_texts)
        head = family.head.token_ids
        if drifted_off(head, ids, [trigger.token_ids for trigger in known]):
            return head
        self.extended += ids != head
        return ids

    def _surface(self, family: Cluster, ids: tuple[int, ...]) -> str:
        """The surface form, in lower case if the tokenizer ignores case."""
        backbone, listed = self.screening.backbone, family.head.text
        if ids != family.head.token_ids:
            return backbone.surface(ids)
        if family.head.kind == "entry":
            return listed
        return listed.lower() if backbone.word_ids(listed.lower()) == ids else listed

    def _measure_all(self, finalists: Sequence[Cluster]) -> Steps[None]:
        """Yields `Progress`. Adds candidates that pass to `strong`, those that may count later to
        `weak`, and the others to `rejected`."""
        for family in finalists:
            if family.head in self.seen:
                continue
            number = len(self.seen)
            self.seen.add(family.head)
            measured = [x.finding for x in [*self.strong, *self.weak]] + self.rejected
            known = [finding.trigger for finding in measured]
            ids, column = self._whole(family, known), family.readout
            surface = self._surface(family, ids)
            if any(surface == trigger.text for trigger in known):
                continue
            finding, means = yield from self.holdout.measure(str(number), ids, column, surface)
            p_value = self.tails[column].p_value(finding.statistics["collapse"])
            finding = replace(finding, p_value=p_value, q_value=1.0)
            strong = decision.passes(finding, self.tests, self.rule)
            if not strong and not decision.weak(finding, self.rule):
                self.rejected.append(finding)
                continue
            least = self.rule.min_effect if strong else self.rule.min_effect_second_stage
            typed = yield from self.holdout.typed(str(number), surface, column, least)
            names = evidence.names(self.screening, family.head, ids)
            finding = replace(finding, evidence=typed | names)
            if strong and p_value * self.tests > self.rule.alpha:
                finding = replace(finding, evidence=finding.evidence | {"large_without_p": True})
            self.starts[finding.trigger] = family.head
            collapse = finding.statistics["collapse"]
            sufficient = self.holdout.sufficient(
                ids, column, collapse - self.holdout.least(collapse)
            )
            reduced = ReducedFinding(finding, sufficient, column, means)
            (self.strong if strong else self.weak).append(reduced)

    def _measure_mask(self) -> Steps[None]:
        """Yields `Progress`. The mask token is whatever the checkpoint calls so, and is tested like
        every other candidate."""
        finding, means, column = yield from self.holdout.mask()
        p_value = self.tails[column].p_value(finding.statistics["collapse"])
        finding = replace(finding, p_value=p_value, q_value=1.0)
        if not decision.passes(finding, self.tests, self.rule):
            self.rejected.append(finding)
            return
        head = Candidate(finding.trigger.token_ids, finding.trigger.text, "entry")
        names = evidence.names(self.screening, head, head.token_ids)
        finding = replace(finding, evidence=finding.evidence | names)
        self.starts[finding.trigger] = head
        self.strong.append(ReducedFinding(finding, head.token_ids, column, means))

    def _core(self, ids: tuple[int, ...], column: int) -> tuple[int, ...]:
        return minimal_subset(ids, lambda tried: self.screening.scatter(tried, column))

    def _search(self, settings: SearchSettings) -> Steps[list[ReducedFinding]]:
        """Yields `Progress`. Returns the combinations and phrases that collapse texts, measured on
        the hold-out."""
        assert self.shortlist is not None
        clean_reference = self.shortlist.clean_reference
        sufficient_subsets = [x.minimal_subset for x in self.strong]
        yield self.screening.begin("pairs")
        together = PairSearch(self.screening, clean_reference, settings.pairs, sufficient_subsets)
        combined = yield from together.run()
        self.pair_words = together.words
        known = [(x.column, x.means[x.column]) for x in self.strong]
        known += [(x.column, x.point) for x in combined]
        yield self.screening.begin("phrases")
        search = PhraseSearch(self.screening, clean_reference, settings.phrases)
        phrases = yield from search.run(known)
        self.extended += search.tried
        # A hit that contains the subset of a screening finding adds nothing to that finding.
        least = settings.phrases.min_effect
        found = [SearchHit(x.ids, x.column, least) for x in combined] + phrases
        found = [
            x
            for x in found
            if not any(within(minimal_subset, x.ids) for minimal_subset in sufficient_subsets)
        ]
        strong, rejected = yield from confirm(self.holdout, found)
        self.rejected += rejected
        self.targets = search.unexplained([(x.column, x.means[x.column]) for x in strong])
        return strong

    def _checks(self, name: str, finding: Finding) -> Steps[dict[str, list[float] | float]]:
        """Yields `Progress`. Returns the evidence beyond the statistic."""
        assert self.shortlist is not None
        column = [str(readout) for readout in self.screening.readouts].index(finding.readout)
        ids = finding.trigger.token_ids
        screening, clean_reference = self.screening, self.shortlist.clean_reference
        collected = yield from evidence.collect(
            screening, name, ids, column, screening.screen_texts, clean_reference
        )
        checks: dict[str, list[float] | float] = {**collected}
        if screening.reference:
            checks["drift"] = screening.reference.of(ids)
            checks["reference_collapse"] = screening.reference.collapse(
                finding, screening.clean_texts, screening.holdout_texts
            )
        return checks

    def _correct(self) -> None:
        """Assign q-values over all tests."""
        found = [f for f in [*self.findings, *self.rejected] if f.p_value is not None]
        p_values = [f.p_value for f in found if f.p_value is not None]
        q_values = dict(zip(map(id, found), benjamini_hochberg(p_values, self.tests), strict=True))
        self.findings, self.rejected = (
            sorted(
                (replace(f, q_value=q_values.get(id(f))) for f in group),
                key=lambda f: -f.statistics["collapse"],
            )
            for group in (self.findings, self.rejected)
        )


def stages(settings: ScreeningSettings, search: SearchSettings | None) -> set[str]:
    """The stages of a scan with these settings; see `stages.STAGES`."""
    asked = {
        "pairs": search is not None,
        "phrases": search is not None,
        "rewrites": settings.rewrites,
        "predictions": settings.predictions,
    }
    return {name for name in STAGES if asked.get(name, True)}


def drifted_off(head: Ids, ids: Ids, known: Sequence[Ids]) -> bool:
    """Whether the extension `ids` of `head` contains a known trigger, or shares no token with
    `head`."""
    together = any(other != ids and contains(ids, other) for other in known)
    return together or not set(head) & set(ids)
