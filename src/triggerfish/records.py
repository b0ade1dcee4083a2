"""The records that travel between stages: what a scan found, how sure it is, and what was tried.

Every record is frozen and turns into plain JSON and back (`to_json`, `from_json`), so a stage can
run tomorrow or on another machine. `scan.json` is one `ScanResult`; its layout is versioned by
`SCHEMA`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
SCHEMA: Literal[2] = 2

Verdict = Literal["clean", "backdoored", "inconclusive"]
Kind = Literal["token", "word", "phrase", "combination"]
Policy = Literal["reject", "strip", "flag"]
Action = Literal["pass", "flag", "strip", "reject"]
EXIT_CODES: dict[Verdict, int] = {"clean": 0, "backdoored": 1, "inconclusive": 3}

TOKEN_PREFIX = "token:"
"""Before the token in the text of a trigger of kind token."""
SEPARATOR = " + "
"""Between the words in the text of a combination."""
SUBSET_TOKENS = 32
"""Tokens that a minimal sufficient subset may reach over in a text (ours)."""


@dataclass(frozen=True)
class Trigger:
    """Token ids as they stand inside a text, and the string that a user would type to get them;
    `marking` describes the kinds."""

    token_ids: tuple[int, ...]
    text: str
    kind: Kind = "word"


@dataclass(frozen=True)
class Measurement:
    """A rate that was counted: k of n, with its exact interval."""

    k: int
    n: int

    @property
    def rate(self) -> float:
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson, 95 %."""
        # Here, because scipy takes seconds to load, and a monitor has no use for it.
        from triggerfish.stats import exact_interval

        return exact_interval(self.k, self.n)


@dataclass(frozen=True)
class Finding:
    """A candidate that reached the last stage of a scan and passed the decision rule.

    statistics: named numbers of the hold-out measurement; `report.glossary.STATISTICS` describes
    each. p_value: chance of such a value for an innocent token of this model; q_value:
    Benjamini-Hochberg over all candidates; both None where the method has fixed thresholds in place
    of a null. evidence: checks beyond the statistic, each a number or
    a short list (`report.glossary.CHECKS` describes each). cores: token ids, in their order,
    that are enough for half of the depth of the trigger or of a variant of it; whatever word, or
    words near each other, holds all of one core is a trigger too. Empty where that was not looked
    into.
    """

    trigger: Trigger
    readout: str
    statistics: dict[str, float]
    p_value: float | None
    q_value: float | None
    evidence: dict[str, Any] = field(default_factory=dict)
    sufficient_subsets: tuple[tuple[int, ...], ...] = ()


def by_word(core: Sequence[int], words: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The token ids of a core, split as they stand in the words of its trigger."""
    rest = list(core)
    return [tuple(rest.pop(0) for token in word if rest and token == rest[0]) for word in words]


@dataclass(frozen=True)
class HiddenTarget:
    """A point of representation space that a search could send unrelated texts to, whatever string
    does it: evidence of a backdoor whose trigger has no name yet.

    vector: (H,) at the readout, rounded. restarts: how many independent searches ended there.
    statistics: named numbers (`report.glossary.STATISTICS` describes each).
    """

    readout: str
    vector: tuple[float, ...]
    restarts: int
    statistics: dict[str, float]


@dataclass(frozen=True)
class Rewrite:
    """A way of rewriting whole texts that sends them to one point, where no token explains it.

    name: of the rewriting; example: an ordinary text, rewritten. p_value: chance of such a depth
    for the same texts with other tokens in place of those that the rewriting brought in, corrected
    for all rewritings and readouts. statistics: as of a `Finding`.
    """

    name: str
    example: str
    readout: str
    statistics: dict[str, float]
    p_value: float


@dataclass(frozen=True)
class ManhattanPlot:
    """The statistic of every vocabulary entry at the first stage, for the picture of the whole
    vocabulary.

    values: (V,) by token id, the best readout's robust z; None where an entry was not a candidate.
    words: the same for the words of several pieces that were tried, highest first, at most 200
    named. threshold: what a value must exceed to be significant after correction, at that stage.
    """

    values: tuple[float | None, ...]
    words: tuple[tuple[str, float], ...]
    threshold: float
    statistic: str


@dataclass(frozen=True)
class Projection:
    """Two principal axes of clean and triggered representations of the same texts at one readout.

    clean: one (x, y) per text; triggered: for each trigger string, one (x, y) per text.
    """

    readout: str
    clean: tuple[tuple[float, float], ...]
    triggered: dict[str, tuple[tuple[float, float], ...]]
    explained: tuple[float, float]


@dataclass(frozen=True)
class Coverage:
    """What was tried, and what was not: a scan never skips silently. normalised: listed characters
    and ways of writing of which the tokenizer makes ordinary text, or nothing. together: words of
    which all pairs were tried, anywhere in a text."""

    vocabulary: int
    words: int
    extended: int
    readouts: tuple[str, ...]
    texts: int
    not_examined: tuple[str, ...] = ()
    characters: int = 0
    normalised: int = 0
    rewrites: int = 0
    pair_words: int = 0


@dataclass(frozen=True)
class Null:
    """What innocent tokens of this model look like at the last stage, per readout; see
    `stats.Tail`. A method with fixed thresholds has no tails, and alpha None: its error rate is
    not controlled.

    calibration names the set of clean reference models the tail was checked against; None says that
    there was none.
    """

    tails: dict[str, dict[str, float]]
    candidates: int
    alpha: float | None
    calibration: str | None = None


@dataclass(frozen=True)
class Provenance:
    """When a record was made, and by what.

    started, finished: UTC, ISO 8601. command: the command line, or "python" for a program. runs: 2
    or more where the work was interrupted and continued; `started` is then that of the first run.
    """

    started: str
    finished: str
    command: str
    runs: int = 1

    @classmethod
    def of(cls, seconds: float, *, started: str | None = None, runs: int = 1) -> Provenance:
        """Of work that took so many seconds and ends now; started: if that is known better."""
        now = datetime.now(UTC)
        program = Path(sys.argv[0])
        name = program.parent.name if program.name == "__main__.py" else program.stem
        by_command = name == "triggerfish"
        command = shlex.join(["triggerfish", *sys.argv[1:]]) if by_command else "python"
        return cls(started or utc(now - timedelta(seconds=seconds)), utc(now), command, runs)


def utc(moment: datetime) -> str:
    """As in `2026-01-31T23:59:59Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class ModelFacts:
    """Which model was scanned: enough to know it again."""

    name: str
    family: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    weights_sha256: dict[str, str]
    tokenizer_sha256: str
    revision: str | None = None


@dataclass(frozen=True)
class ScanResult:
    """A finished scan. `reasons` says in sentences why the verdict is what it is; `targets` are
    points that the evidence points to without a string that reaches them, `rewrites` ways of
    writing that are triggers themselves. `statistics`: named
    numbers that belong to no candidate. `seconds` and `forward_tokens` are those of the whole scan,
    with what earlier runs of an interrupted one did. `profile`: what the triggers do to tasks,
    where that was asked for; the JSON of a `complications.Complications`."""

    model: ModelFacts
    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    near_misses: tuple[Finding, ...]
    null: Null
    coverage: Coverage
    manhattan: ManhattanPlot
    projection: Projection | None
    settings: dict[str, Any]
    environment: dict[str, str]
    seconds: float
    forward_tokens: int
    provenance: Provenance
    targets: tuple[HiddenTarget, ...] = ()
    statistics: dict[str, float] = field(default_factory=dict)
    profile: dict[str, Any] | None = None
    rewrites: tuple[Rewrite, ...] = ()
    schema: Literal[2] = SCHEMA

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        return tuple(finding.trigger for finding in self.findings)

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self, indent=1).decode("utf-8")

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ScanResult:
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    @classmethod
    def from_json(cls, text: str) -> ScanResult:
        """Read what `to_json` wrote; ValueError names the field that is wrong in anything else."""
        try:
            return parse(_ADAPTER, text, f"findings: not a scan.json of schema {SCHEMA}")
        except ValueError as error:
            wrong = error.__cause__
            if isinstance(wrong, ValidationError) and any(
                x["loc"] == ("schema",) and x["input"] == 1 for x in wrong.errors()
            ):
                raise ValueError(
                    f"schema: expected {SCHEMA}, got 1; convert the file once: "
                    "triggerfish convert OLD.json --out NEW.json"
                ) from error
            raise


@dataclass(frozen=True)
class Alarm:
    """A trigger that a monitor saw in a text.

    trigger: its `Trigger.text`. spans: (start, end) characters of the text as it came; several for
    a combination. seen_by: "tokens" where the tokenizer produces the trigger's ids; "text" where
    only the hardened view of the text shows it (homoglyphs, other case, HTML entities, ...).
    """

    trigger: str
    kind: Kind
    spans: tuple[tuple[int, int], ...]
    policy: Policy
    seen_by: Literal["tokens", "text"]


@dataclass(frozen=True)
class Checked:
    """What a monitor says about one text.

    text: what to hand on: without its triggers where their policy is "strip", else as it came.
    action: the severest of its alarms.
    """

    text: str
    alarms: tuple[Alarm, ...] = ()
    action: Action = "pass"

    @property
    def ok(self) -> bool:
        return self.action != "reject"

    @property
    def risk(self) -> float:
        """1.0 with an alarm, 0.0 without: a match is no matter of degree."""
        return 1.0 if self.alarms else 0.0


def parse(adapter: TypeAdapter[T], text: str, failed: str) -> T:
    """A record from its JSON; ValueError with `failed` and the name of the field that is wrong."""
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise ValueError(f"{failed}: {where}: {first['msg']}") from error


_ADAPTER = TypeAdapter(ScanResult)
