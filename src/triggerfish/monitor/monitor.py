"""The monitor: does a text carry one of the triggers that a scan found, and what to do about it?

Triggers stay what they are while weights change, so what was recovered from a PLM guards every
model derived from it, without a forward pass. What is found, and what never passes: matcher.py.
Source: Patronus (arXiv 2512.06899) describes such a monitor and publishes none; the two views, the
policies and the guarantee are ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from triggerfish.monitor.matcher import Match, Matcher
from triggerfish.monitor.settings import MonitorSettings
from triggerfish.monitor.stripping import strip
from triggerfish.monitor.tokenizer import FILE, Tokenizer
from triggerfish.names import unknown
from triggerfish.records import Action, Alarm, Checked, Policy, ScanResult, Trigger
from triggerfish.rows import STREAM, reading

Confirm = Callable[[str, Alarm], bool]
"""(text, alarm) -> whether the alarm stands: for triggers that are ordinary words."""
POLICIES: tuple[Policy, ...] = get_args(Policy)
NAMED = 10
"""Triggers that a note names at most."""
SEVERITY: dict[Action, int] = {"pass": 0, "flag": 1, "strip": 2, "reject": 3}


class Monitor:
    """Looks for triggers in texts.

    tokenizer: folder or `tokenizer.json` of the scanned model. Without one, matching is on text
    alone and alarms more often; `exact` tells. policy: what to do with a text that has a trigger;
    policies: the same for single triggers, by their text. confirm: for single triggers, asked
    before an alarm is raised. cores: the sufficient subsets of each trigger
    (`Finding.sufficient_subsets`), so words with them alarm too. `notes` says what a user should
    know about how it was set up.

    Safe to use from several threads. ValueError for a policy, trigger or tokenizer that does not
    fit.
    """

    def __init__(
        self,
        triggers: Sequence[Trigger],
        *,
        tokenizer: str | Path | None = None,
        policy: Policy = "reject",
        policies: Mapping[str, Policy] | None = None,
        confirm: Mapping[str, Confirm] | None = None,
        cores: Mapping[Trigger, Sequence[Sequence[int]]] | None = None,
        settings: MonitorSettings = MonitorSettings(),
    ):
        names = dict.fromkeys(trigger.text for trigger in triggers)
        for field, given in (("policies", policies or {}), ("confirm", confirm or {})):
            for name in given:
                if name not in names:
                    raise unknown(field, name, names)
        for chosen in (policy, *(policies or {}).values()):
            if chosen not in POLICIES:
                raise ValueError(f"policy: {chosen!r} is not one of {', '.join(POLICIES)}")
        self.triggers = tuple(triggers)
        self.policies: dict[str, Policy] = dict.fromkeys(names, policy) | dict(policies or {})
        self.confirm = dict(confirm or {})
        self.cores = dict(cores or {})
        self.settings = settings
        if tokenizer is None and not settings.hardened:
            raise ValueError("hardened: without a tokenizer the normalised text is all there is")
        self.tokenizer = Tokenizer(tokenizer) if tokenizer is not None else None
        self.matcher = Matcher(triggers, self.tokenizer, settings, self.cores)
        self.notes = self._notes()

    @classmethod
    def load(
        cls,
        findings: str | Path,
        *,
        tokenizer: str | Path | None = None,
        policy: Policy = "reject",
        policies: Mapping[str, Policy] | None = None,
        confirm: Mapping[str, Confirm] | None = None,
        settings: MonitorSettings = MonitorSettings(),
    ) -> Monitor:
        """A monitor for what a scan found (`scan.json`).

        tokenizer: as above; by default that of the scanned model, where its folder is still there.
        ValueError if that is no longer the one that was scanned.
        """
        result = _read(findings)
        given = tokenizer is not None
        tokenizer = tokenizer if given else _folder(result.model.name)
        monitor = cls(
            result.triggers,
            tokenizer=tokenizer,
            policy=policy,
            policies=policies,
            confirm=confirm,
            cores={finding.trigger: finding.sufficient_subsets for finding in result.findings},
            settings=settings,
        )
        if result.targets:
            monitor.notes += (
                f"The scan found {len(result.targets)} target representation(s) without a trigger: "
                "the monitor cannot guard inputs against these.",
            )
        if monitor.tokenizer and result.model.tokenizer_sha256 not in monitor.tokenizer.hashes:
            if not given:
                raise ValueError(
                    f"tokenizer: that of {tokenizer} is not the one that was scanned (its sha256 "
                    "differs); name the right one, as tokenizer.save_pretrained writes it once "
                    "AutoTokenizer has loaded the model's"
                )
            monitor.notes += (
                "The tokenizer given is not, to the byte, the one that was scanned: fine if it "
                "gives the same ids.",
            )
        return monitor

    def __getstate__(self) -> dict[str, Any]:
        """Without the matcher, which is built again: other processes get copies of a monitor."""
        return {name: value for name, value in vars(self).items() if name != "matcher"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.matcher = Matcher(self.triggers, self.tokenizer, self.settings, self.cores)

    @property
    def exact(self) -> bool:
        """Whether the model's tokenizer decides what a trigger is."""
        return self.tokenizer is not None

    def check(self, text: str) -> Checked:
        """What to do with a text. Every alarm has its place in the text as it came; alarms that
        appear only once another trigger is stripped are among them."""
        if not isinstance(text, str):
            raise ValueError(f"text: expected a string, got {type(text).__name__}")
        matches = self._matches(text)
        if not matches:
            return Checked(text)
        left, clean = text, True
        if any(map(self._strips, matches)):
            rounds = self.settings.rounds
            left, matches, clean = strip(text, matches, self._matches, self._strips, rounds)
        alarms = [self._alarm(match) for match in matches]
        action: Action = max((alarm.policy for alarm in alarms), key=SEVERITY.__getitem__)
        return Checked(left, tuple(alarms), action if clean else "reject")

    def check_all(self, texts: Iterable[str]) -> list[Checked]:
        """`check` of many texts, in their order."""
        return [self.check(text) for text in texts]

    def alarms(self, text: str) -> list[Alarm]:
        """The triggers in a text, whatever is to be done about them."""
        return [self._alarm(match) for match in self._matches(text)]

    def _matches(self, text: str) -> list[Match]:
        matches = self.matcher.matches(text)
        if not self.confirm:
            return matches
        return [match for match in matches if self._stands(text, match)]

    def _stands(self, text: str, match: Match) -> bool:
        ask = self.confirm.get(match.trigger.text)
        return ask is None or ask(text, self._alarm(match))

    def _alarm(self, match: Match) -> Alarm:
        trigger = match.trigger
        policy = self.policies[trigger.text]
        return Alarm(trigger.text, trigger.kind, match.spans, policy, match.seen_by)

    def _strips(self, match: Match) -> bool:
        return self.policies[match.trigger.text] == "strip"

    def _notes(self) -> tuple[str, ...]:
        if self.tokenizer is None:
            return (
                "No tokenizer: matching is on text alone and alarms more often than the model "
                "would react.",
            )
        slow = [trigger.text for trigger in self.matcher.slow]
        if not slow:
            return ()
        more = f" and {len(slow) - NAMED} more" if len(slow) > NAMED else ""
        named = ", ".join(slow[:NAMED]) + more
        return (f"Every text must be tokenised, which is slow, because of: {named}.",)


def _read(findings: str | Path) -> ScanResult:
    """The record of a scan.json, which may be a stream. ValueError names the file."""
    with reading(findings, "findings", most=STREAM) as lines:
        content = lines.content()
    try:
        return ScanResult.from_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"findings: {findings} is not UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise ValueError(
            f"findings: {findings}: {str(error).removeprefix('findings: ')}"
        ) from error


def _folder(name: str) -> Path | None:
    """The folder of a scanned model, where it still has a tokenizer."""
    if name == "bundled":
        return Path(str(resources.files("triggerfish") / "data" / "plm"))
    return Path(name) if os.path.isfile(Path(name) / FILE) else None
