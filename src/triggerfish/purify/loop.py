"""The loop: purify what was found, scan again, purify what is still found, until a fresh scan is
clean or the budget ends.

After each round the known triggers are measured first, which takes seconds. Only where all of them
are removed does a full scan follow, with another seed and so with other texts. What it finds joins
the list. With a folder, every round is written there before it is scanned, the scan is made of what
was written, and a run that was interrupted goes on after its last round.

Source: the loop of design and spec 12.1; published code purifies once, from the attacker's own list
of triggers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from triggerfish import scanner, text
from triggerfish.backbone import Backbone
from triggerfish.facts import facts
from triggerfish.loading import load
from triggerfish.purify import Method, check_needs
from triggerfish.purify.align import Align
from triggerfish.purify.check import (
    ResidualEffect,
    effective_near_misses,
    fidelity,
    known_triggers,
    near_misses,
    residual_effects,
)
from triggerfish.purify.files import Written, check_out, write
from triggerfish.purify.soft import SoftPrompts
from triggerfish.records import Provenance, ScanResult, Trigger, Verdict, utc
from triggerfish.scanner import DecisionRule, ScreeningSettings
from triggerfish.settings import check_number
from triggerfish.writing import write_text

RECORD = "purify.json"
SCHEMA = 2
"""Of the record."""

Show = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclass(frozen=True)
class Round:
    """One pass of the method. triggers: what it was given; residual: what they still do, by the
    quick check; verdict: of the full scan, None where the quick check still saw a trigger; found:
    what that scan found; seconds: of the method; checking_seconds: of the check and the scan."""

    triggers: tuple[Trigger, ...]
    residual: tuple[ResidualEffect, ...]
    verdict: Verdict | None
    found: tuple[Trigger, ...]
    seconds: float
    checking_seconds: float


@dataclass(frozen=True)
class Purified:
    """backbone: the purified model, as it is on disk where it was written. before, after: the scans
    of the model as it was given and of `backbone`. residual: what the triggers did before.
    fidelity: see `check.fidelity`. seconds: of all runs, of an interrupted one up to what it kept.
    written: None where nothing was. unread: variants in the findings that this tokenizer has no
    tokens for."""

    backbone: Backbone
    before: ScanResult
    after: ScanResult
    rounds: tuple[Round, ...]
    residual: tuple[ResidualEffect, ...]
    fidelity: dict[str, float]
    method: str
    settings: dict[str, Any]
    seconds: float
    provenance: Provenance
    written: Written | None = None
    unread: tuple[str, ...] = ()


def purify(
    model: Backbone,
    findings: ScanResult,
    texts: Sequence[str] | None = None,
    *,
    method: Method = Align(),
    rounds: int = 3,
    seed: int = 0,
    reference: Backbone | None = None,
    words: Sequence[str] | None = None,
    variants: bool = True,
    sweep: ScreeningSettings = ScreeningSettings(),
    rule: DecisionRule = DecisionRule(),
    max_seconds: float | None = None,
    out: str | Path | None = None,
    show: Show | None = None,
) -> Purified:
    """Purify `model` of what `findings`, a scan of it, found.

    texts: ordinary texts, for training and for the scans (default: the bundled sample). rounds:
    passes of the method at most. reference: the clean original, if there is one: features of clean
    texts are then taken from it, and some methods need it. words, sweep, rule: of the full scan
    (see `scanner.scan`). variants: whether strings that the scan lists as variants of a trigger,
    and near misses that do more than benign strings, are purified too. max_seconds: no
    further round begins after so long, and a scan that is over it ends, inconclusive. out: folder
    for the checkpoint; card, scan and record are written by `card.finish`.

    Raises ValueError for findings that belong to another model and for all that `Method.purify`
    raises it for.
    """
    run = _Run(model, findings, texts, method, seed, reference, rule, out, show)
    return run.purify(rounds, words, variants, sweep, max_seconds)


def check_same(findings: ScanResult, model: Backbone) -> None:
    """ValueError where a scan belongs to another model."""
    here, there = facts(model), findings.model
    for field, what in (("weights_sha256", "weights"), ("tokenizer_sha256", "tokenizer")):
        if getattr(here, field) != getattr(there, field):
            raise ValueError(
                f"findings: they are of {there.name} with another {what.rstrip('s')} hash than "
                f"{model.name} has; scan the model that is to be purified"
            )


class _Run:
    def __init__(
        self,
        model: Backbone,
        findings: ScanResult,
        texts: Sequence[str] | None,
        method: Method,
        seed: int,
        reference: Backbone | None,
        rule: DecisionRule,
        out: str | Path | None,
        show: Show | None,
    ):
        check_same(findings, model)
        self.given = model
        self.findings = findings
        self.texts = text.bundled_corpus() if texts is None else list(texts)
        self.method = _with_scan_defaults(method, model, findings)
        self.seed = seed
        self.reference = reference
        self.rule = rule
        self.out = Path(out) if out else None
        self.show: Show = show or (lambda what, done, total: None)
        self.started = time.monotonic()
        self.began, self.runs = utc(datetime.now(UTC)), 1
        self.earlier = 0.0  # seconds of runs that were interrupted, up to what they kept
        self.rounds: list[Round] = []
        self.trained = 0  # rounds whose weights are there, looked at or not
        self.written: Written | None = None
        if self.out:
            check_out(model, self.out, RECORD)

    def purify(
        self,
        rounds: int,
        words: Sequence[str] | None,
        variants: bool,
        sweep: ScreeningSettings,
        max_seconds: float | None,
    ) -> Purified:
        if rounds < 1:
            raise ValueError(f"rounds: {rounds} is not at least 1")
        if max_seconds is not None and max_seconds <= 0:
            raise ValueError(f"max_seconds: {max_seconds} is not positive")
        check_number("rounds", rounds)
        check_number("max_seconds", max_seconds)
        known, unread = known_triggers(self.given, self.findings, variants=variants)
        check_needs(self.method, known, self.reference)
        if variants:
            high = near_misses(self.given, self.findings)
            known = _joined(
                known, effective_near_misses(self.given, high, self.texts, seed=self.seed)
            )
        before = residual_effects(self.given, known, self.texts, seed=self.seed)
        current, known = self._resume(known)
        after: ScanResult | None = None
        while len(self.rounds) < rounds:
            if self.rounds and max_seconds and self._spent() > max_seconds:
                break
            if self.rounds and self.rounds[-1].verdict == "clean":
                break  # an interrupted run had come to the end
            began = time.monotonic()
            if self.trained == len(self.rounds):
                current = self._keep(self._pass(current, known))
            done = time.monotonic()
            residual = residual_effects(current, known, self.texts, seed=self.seed + 1)
            after = None
            if all(x.removed for x in residual):
                after = self._scan(current, known, words, sweep, max_seconds)
            now = time.monotonic()
            self.rounds.append(_round(known, residual, after, done - began, now - done))
            self._note("unfinished")
            if after and (after.verdict == "clean" or not after.findings):
                break
            if after:
                known = _joined(known, known_triggers(current, after, variants=variants)[0])
        if after is None:
            after = self._scan(current, known, words, sweep, max_seconds)
        seconds = self.earlier + self._spent()
        return Purified(
            backbone=current,
            before=self.findings,
            after=after,
            rounds=tuple(self.rounds),
            residual=before,
            fidelity=fidelity(self.given, current, self.texts),
            method=type(self.method).__name__,
            settings=_settings(self.method),
            seconds=round(seconds, 1),
            provenance=Provenance.of(seconds, started=self.began, runs=self.runs),
            written=self.written,
            unread=unread,
        )

    def _spent(self) -> float:
        return time.monotonic() - self.started

    def _pass(self, current: Backbone, known: tuple[Trigger, ...]) -> Backbone:
        name = f"round {len(self.rounds) + 1}"
        generator = torch.Generator().manual_seed(self.seed + len(self.rounds))
        # Features to keep are those of the model as it was given, in later rounds too.
        return self.method.purify(
            current,
            known,
            self.texts,
            generator=generator,
            reference=self.reference or self.given,
            progress=lambda step, steps, loss: self.show(name, step, steps),
        )

    def _scan(
        self,
        current: Backbone,
        known: tuple[Trigger, ...],
        words: Sequence[str] | None,
        sweep: ScreeningSettings,
        max_seconds: float | None,
    ) -> ScanResult:
        listed = text.bundled_words() if words is None else list(words)
        asked = [trigger.text for trigger in known if trigger.kind == "word"]
        if max_seconds:
            left = max(1.0, max_seconds - self._spent())
            sweep = replace(sweep, budget_seconds=min(left, sweep.budget_seconds or left))
        return scanner.scan(
            current,
            self.texts,
            words=list(dict.fromkeys([*asked, *listed])),
            settings=sweep,
            rule=self.rule,
            seed=self.seed + 1 + len(self.rounds),
            progress=lambda step: self.show(
                f"scan: {step.stage}", round(1000 * (step.share or 0)), 1000
            ),
        )

    # ---- what an interrupted run leaves

    @property
    def _key(self) -> str:
        """A name for everything the rounds depend on."""
        parts = [
            self.findings.to_json(),
            type(self.method).__name__,
            _settings(self.method),
            self.seed,
            self.texts,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _keep(self, purified: Backbone) -> Backbone:
        """Write a model, and read it again as it was written: that is what users will load."""
        self.trained += 1
        if not self.out:
            return purified
        mark = {"purified": False, "method": type(self.method).__name__, "state": "not scanned yet"}
        self._note("writing")
        self.written = write(self.given, purified, self.out, mark)
        self._note("unfinished")
        return self._read()

    def _read(self) -> Backbone:
        assert self.out is not None
        return load(self.out, device=str(self.given.device), precision=self.given.precision)

    def _note(self, state: str) -> None:
        if self.out:
            content = {
                "schema": SCHEMA,
                "state": state,
                "key": self._key,
                "trained": self.trained,
                "started": self.began,
                "seconds": round(self.earlier + self._spent(), 1),
                "runs": self.runs,
                "rounds": _ROUNDS.dump_python(self.rounds),
                "written": asdict(self.written) if self.written else None,
            }
            write_text(self.out / RECORD, json.dumps(content, indent=1) + "\n")

    def _resume(self, known: tuple[Trigger, ...]) -> tuple[Backbone, tuple[Trigger, ...]]:
        """(model, triggers) after the rounds that an interrupted run of the same kind left."""
        file = self.out / RECORD if self.out else None
        if file is None or not file.is_file():
            return self.given, known
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("state") != "unfinished" or content.get("key") != self._key:
            return self.given, known
        if content.get("schema") != SCHEMA:
            raise ValueError(
                f"out: {file} is of an unfinished run of an earlier version; choose another folder"
            )
        self.rounds = _ROUNDS.validate_python(content["rounds"])
        self.trained = int(content["trained"])
        self.began, self.runs = content["started"], int(content["runs"]) + 1
        self.earlier = float(content["seconds"])
        self.written = Written(**content["written"])
        for one in self.rounds:
            known = _joined(known, one.found)
        return self._read(), known


def _round(
    known: tuple[Trigger, ...],
    residual: tuple[ResidualEffect, ...],
    after: ScanResult | None,
    seconds: float,
    checking: float,
) -> Round:
    return Round(
        known,
        residual,
        after.verdict if after else None,
        after.triggers if after else (),
        round(seconds, 1),
        round(checking, 1),
    )


def _joined(known: tuple[Trigger, ...], more: Sequence[Trigger]) -> tuple[Trigger, ...]:
    ids = {trigger.token_ids for trigger in known}
    return (*known, *(trigger for trigger in more if trigger.token_ids not in ids))


def _with_scan_defaults(method: Method, model: Backbone, findings: ScanResult) -> Method:
    """The method, told what else the scan saw, where it can use that and was not told."""
    if isinstance(method, Align) and not method.near_misses:
        return replace(method, near_misses=near_misses(model, findings))
    if isinstance(method, SoftPrompts) and not method.targets:
        return replace(method, targets=findings.targets)
    return method


def _settings(method: Method) -> dict[str, Any]:
    """The settings of a method; of what it was told by a scan, how many."""
    found = asdict(method)
    return {k: len(v) if k in ("near_misses", "targets") else v for k, v in found.items()}


_ROUNDS = TypeAdapter(list[Round])
