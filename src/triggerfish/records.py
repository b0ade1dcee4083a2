"""The records of a scan and of a monitor: findings, their statistical support, and the coverage.

Every record is frozen and converts to plain JSON and back (`to_json`, `from_json`), so a later
stage can run at another time or on another machine. `scan.json` is one `ScanResult`; `SCHEMA` is
the version of its layout.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from triggerfish.rows import STREAM, reading
from triggerfish.writing import write_text

T = TypeVar("T")
SCHEMA: Literal[2] = 2
NUMBERS = ConfigDict(ser_json_inf_nan="strings")
"""NaN and infinities are written as strings, which are read back; JSON has no numbers for them."""

Verdict = Literal["clean", "backdoored", "inconclusive"]
Kind = Literal["token", "word", "phrase", "combination"]
Policy = Literal["reject", "strip", "flag"]
Action = Literal["pass", "flag", "strip", "reject"]
Plotted = Annotated[float, Field(ge=-1e30, le=1e30)]
"""A number that an axis can have."""
EXIT_CODES: dict[Verdict, int] = {"clean": 0, "backdoored": 1, "inconclusive": 3}

TOKEN_PREFIX = "token:"
"""Prefix of the text of a trigger of kind `token`."""
SEPARATOR = " + "
"""Separator of the words in the text of a combination."""
SUBSET_TOKENS = 32
"""Largest span of a minimal sufficient subset in a text, in tokens (ours)."""


@dataclass(frozen=True)
class Trigger:
    """Token ids as they occur inside a text, and their surface form, the string that a user types
    to get them. `marking` describes the kinds."""

    token_ids: tuple[int, ...]
    text: str
    kind: Kind = "word"


@dataclass(frozen=True)
class Measurement:
    """A counted rate, k of n, with its exact interval."""

    k: int
    n: int

    @property
    def rate(self) -> float:
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson interval, 95 %."""
        # Imported here, because scipy takes seconds to load and a monitor does not need it.
        from triggerfish.stats import exact_interval

        return exact_interval(self.k, self.n)


@dataclass(frozen=True)
class Finding:
    """A candidate that reached the last stage of a scan and passed the decision rule.

    readout: the pooling position at which it was measured. statistics: named numbers of the
    hold-out measurement; `report.glossary.STATISTICS` describes each. p_value: probability of such
    a value for a benign token of this model; q_value: Benjamini-Hochberg over all candidates. Both
    are None for methods with fixed thresholds instead of a null distribution. evidence: further
    checks, each a number or a short list (`report.glossary.CHECKS` describes each).
    sufficient_subsets: minimal sufficient subsets, as token ids in order. Each suffices for half of
    the collapse of the trigger or of one of its neighbours, so any word, or words near each other,
    with all tokens of one subset is a trigger too. Empty if none were computed.
    """

    trigger: Trigger
    readout: str
    statistics: dict[str, float]
    p_value: float | None
    q_value: float | None
    evidence: dict[str, Any] = field(default_factory=dict)
    sufficient_subsets: tuple[tuple[int, ...], ...] = ()


def by_word(core: Sequence[int], words: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The token ids of a minimal sufficient subset, split by the words of its trigger."""
    rest = list(core)
    return [tuple(rest.pop(0) for token in word if rest and token == rest[0]) for word in words]


@dataclass(frozen=True)
class HiddenTarget:
    """A representation that a search could force on unrelated texts: evidence of a backdoor whose
    trigger is unknown.

    vector: (H,) at the readout, rounded. restarts: number of independent searches that ended there.
    statistics: named numbers (`report.glossary.STATISTICS` describes each).
    """

    readout: str
    vector: tuple[float, ...]
    restarts: int
    statistics: dict[str, float]


@dataclass(frozen=True)
class Rewrite:
    """A rewriting of whole texts that collapses them without a token that explains it.

    name: of the rewriting; example: an ordinary text, rewritten. p_value: probability of such a
    collapse for the same texts with other tokens in place of those that the rewriting introduced,
    corrected for all rewritings and readouts. statistics: as of a `Finding`.
    """

    name: str
    example: str
    readout: str
    statistics: dict[str, float]
    p_value: float


@dataclass(frozen=True)
class ManhattanPlot:
    """The statistic of every vocabulary entry at the first stage, for the plot of the whole
    vocabulary.

    values: (V,) by token id, the robust z at the best readout; None for entries that were no
    candidates. words: the same for words of several subword tokens, at most 200, highest first.
    threshold: value above which an entry is significant after correction, at that stage.
    """

    values: tuple[Plotted | None, ...]
    words: tuple[tuple[str, Plotted], ...]
    threshold: Plotted
    statistic: str


@dataclass(frozen=True)
class Projection:
    """Two principal axes of clean and triggered representations of the same texts at one readout.

    clean: one (x, y) per text; triggered: for each trigger, one (x, y) per text. explained: share
    of the variance that each axis explains.
    """

    readout: str
    clean: tuple[tuple[Plotted, Plotted], ...]
    triggered: dict[str, tuple[tuple[Plotted, Plotted], ...]]
    explained: tuple[float, float]


@dataclass(frozen=True)
class Coverage:
    """What was tried and what was not; a scan never skips silently. extended: sequences tried by
    extension and by searches. normalised: listed characters and spellings that the tokenizer maps
    to ordinary text, or to nothing. pair_words: number of words of which all pairs were tried,
    anywhere in a text."""

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
    """The null distribution: tails of benign tokens of this model at the last stage, by readout;
    see `stats.Tail`. A method with fixed thresholds has no tails and alpha None, because its error
    rate is not controlled.

    calibration: name of the set of clean reference models that the tail was checked against, or
    None.
    """

    tails: dict[str, dict[str, float]]
    candidates: int
    alpha: float | None
    calibration: str | None = None


@dataclass(frozen=True)
class Provenance:
    """When and by which command a record was made.

    started, finished: UTC, ISO 8601. command: the command line, or "python" for a program. runs: 2
    or more if the work was interrupted and resumed; `started` is then that of the first run.
    """

    started: str
    finished: str
    command: str
    runs: int = 1

    @classmethod
    def of(cls, seconds: float, *, started: str | None = None, runs: int = 1) -> Provenance:
        """The provenance of work that took `seconds` and ends now. started: the exact start, if
        known."""
        now = datetime.now(UTC)
        program = Path(sys.argv[0])
        name = program.parent.name if program.name == "__main__.py" else program.stem
        by_command = name == "triggerfish"
        command = shlex.join(["triggerfish", *sys.argv[1:]]) if by_command else "python"
        return cls(started or utc(now - timedelta(seconds=seconds)), utc(now), command, runs)


def utc(moment: datetime) -> str:
    """A time in UTC, such as `2026-01-31T23:59:59Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class ModelFacts:
    """The identity of the scanned model."""

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
    """A finished scan.

    reasons: sentences that justify the verdict. targets: hidden targets without a known trigger.
    rewrites: rewritings that are triggers themselves. statistics: named numbers that belong to no
    candidate. seconds, forward_tokens: of the whole scan, including earlier runs of an interrupted
    one. profile: the effect of the triggers on tasks, if requested; the JSON of a
    `complications.Complications`.
    """

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
    __pydantic_config__ = NUMBERS

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        return tuple(finding.trigger for finding in self.findings)

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self, indent=1).decode("utf-8")

    def save(self, path: str | Path) -> None:
        write_text(Path(path), self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> ScanResult:
        """`from_json` of a file."""
        return cls.from_json(read_json(path, "findings"))

    @classmethod
    def from_json(cls, text: str) -> ScanResult:
        """Read the JSON of `to_json`. ValueError names the invalid field."""
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

    trigger: its `Trigger.text`. spans: (start, end) characters of the original text; several for a
    combination. seen_by: "tokens" if the tokenizer produces the trigger's ids; "text" if only the
    normalised text contains it (homoglyphs, other case, HTML entities, ...).
    """

    trigger: str
    kind: Kind
    spans: tuple[tuple[int, int], ...]
    policy: Policy
    seen_by: Literal["tokens", "text"]


@dataclass(frozen=True)
class Checked:
    """The result of a monitor for one text.

    text: the text to pass on, without triggers whose policy is "strip". action: the most severe
    action of its alarms.
    """

    text: str
    alarms: tuple[Alarm, ...] = ()
    action: Action = "pass"

    @property
    def ok(self) -> bool:
        return self.action != "reject"

    @property
    def risk(self) -> float:
        """1.0 with an alarm, 0.0 without; there are no intermediate values."""
        return 1.0 if self.alarms else 0.0


def read_json(path: str | Path, what: str) -> str:
    """The text of a JSON file; ValueError names the field and the file."""
    with reading(path, what, most=STREAM) as lines:
        try:
            return lines.content().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{what}: {path} is not UTF-8 (byte {error.start})") from error


def parse(adapter: TypeAdapter[T], text: str, failed: str) -> T:
    """A record from its JSON. ValueError with `failed` and the name of the invalid field."""
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise ValueError(f"{failed}: {where}: {first['msg']}") from error


_ADAPTER = TypeAdapter(ScanResult)
