"""The monitor: does a text carry one of the triggers that a scan found?

Triggers stay what they are while weights change, so what was recovered from a PLM guards every
model derived from it. Two views are compared: the tokens that the model would read, and the
hardened text that a reader would see (normalise.py). Source: Patronus (arXiv 2512.06899) describes
a monitor of this kind; the views, policies and guarantees are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from triggerfish.monitor.normalise import FOLD
from triggerfish.monitor.tokenizer import Tokenizer
from triggerfish.names import unknown
from triggerfish.records import Action, Alarm, Checked, Policy, ScanResult, Trigger

SEVERITY: dict[Action, int] = {"pass": 0, "flag": 1, "strip": 2, "reject": 3}


class Monitor:
    """Looks for triggers in texts. `exact` says whether it has the tokenizer of the model; without
    it, matching is on text alone and alarms more often."""

    def __init__(
        self,
        triggers: Sequence[Trigger],
        *,
        tokenizer: str | Path | None = None,
        policy: Policy = "reject",
        policies: Mapping[str, Policy] | None = None,
    ):
        self.triggers = tuple(triggers)
        self.tokenizer = Tokenizer(tokenizer) if tokenizer else None
        names = [trigger.text for trigger in self.triggers]
        for name, chosen in {"": policy, **(policies or {})}.items():
            if chosen not in get_args(Policy):
                raise ValueError(f"policy: {chosen!r} is not one of {', '.join(get_args(Policy))}")
            if name and name not in names:
                raise unknown("policies", name, names)
        self.policies: dict[str, Policy] = dict.fromkeys(names, policy) | dict(policies or {})

    @classmethod
    def load(
        cls,
        findings: str | Path,
        *,
        tokenizer: str | Path | None = None,
        policy: Policy = "reject",
        policies: Mapping[str, Policy] | None = None,
    ) -> Monitor:
        result = ScanResult.load(findings)
        if tokenizer is None and Path(result.model.name).is_dir():
            tokenizer = result.model.name
        return cls(result.triggers, tokenizer=tokenizer, policy=policy, policies=policies)

    @property
    def exact(self) -> bool:
        return self.tokenizer is not None

    def check(self, text: str) -> Checked:
        alarms = tuple(self._alarms(text))
        if not alarms:
            return Checked(text)
        action: Action = max((alarm.policy for alarm in alarms), key=SEVERITY.__getitem__)
        left = text
        while spans := [s for a in self._alarms(left) if a.policy == "strip" for s in a.spans]:
            for start, end in sorted(spans, reverse=True):
                left = " ".join((left[:start] + left[end:]).split())
        return Checked(left, alarms, action)

    def check_all(self, texts: Iterable[str]) -> list[Checked]:
        return [self.check(text) for text in texts]

    def _alarms(self, text: str) -> Iterable[Alarm]:
        for trigger in self.triggers:
            seen_by: Literal["tokens", "text"] = "tokens"
            spans = self._token_spans(text, trigger)
            if not spans:
                seen_by, spans = "text", self._text_spans(text, trigger)
            if spans:
                policy = self.policies[trigger.text]
                yield Alarm(trigger.text, trigger.kind, tuple(spans), policy, seen_by)

    def _token_spans(self, text: str, trigger: Trigger) -> list[tuple[int, int]]:
        if self.tokenizer is None or trigger.kind == "combination":
            return []
        pieces, want = self.tokenizer.pieces(text), list(trigger.token_ids)
        return [
            (pieces.spans[i][0], pieces.spans[i + len(want) - 1][1])
            for i in range(len(pieces.ids) - len(want) + 1)
            if pieces.ids[i : i + len(want)] == want
        ]

    def _text_spans(self, text: str, trigger: Trigger) -> list[tuple[int, int]]:
        folded = [c.translate(FOLD) for c in text]
        origin = [i for i, part in enumerate(folded) for _ in part]
        spans = []
        for part in trigger.text.split(" + "):
            words = re.escape(part.removeprefix("token:").translate(FOLD))
            found = [
                (origin[m.start()], origin[m.end() - 1] + 1)
                for m in re.finditer(rf"(?<!\w){words}(?!\w)", "".join(folded))
            ]
            if not found:
                return []
            spans += found
        return spans
