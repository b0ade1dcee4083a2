"""The stages of a scan in order, and its progress.

The share of a stage is its part of the forward tokens of a scan. Within a stage the position
follows the number of tokens done. It stops at the end of the stage if the stage takes more tokens
than expected, and jumps there if it takes fewer. So the position never decreases, and a remainder
of `LAST` is kept until there is a result.
"""

from __future__ import annotations

from collections.abc import Collection

STAGES: dict[str, tuple[str, float]] = {
    "clean": ("reading ordinary texts", 0.001),
    "entries": ("trying every token of the vocabulary", 0.004),
    "words": ("trying words", 0.102),
    "second": ("trying the most unusual again", 0.01),
    "texts": ("trying the best in ordinary texts", 0.016),
    "holdout": ("measuring on held-out texts", 0.004),
    "near": ("looking at neighbours of what was found", 0.024),
    "checks": ("checking copies and positions", 0.002),
    "pairs": ("trying pairs of words", 0.047),
    "phrases": ("searching for phrases", 0.782),
    "rewrites": ("trying rewritten texts", 0.01),
    "picture": ("drawing the picture", 0.001),
    "predictions": ("checking masked predictions", 0.01),
}
"""Description and share of each stage. The shares are those of the 9.3 million forward tokens of a
scan of the bundled PLM with three triggers; shares of seconds were within 0.03 of them. The share
of masked predictions is an estimate, because the bundled PLM has none."""
SCREENING = ("clean", "entries", "words", "second", "texts", "holdout")
LAST = 0.01
"""Share of the progress that is kept until there is a result."""


class Stages:
    """The progress of one scan. names: its stages, from `STAGES`. expected: forward tokens of the
    stages of `SCREENING`, roughly."""

    def __init__(self, names: Collection[str], expected: int):
        self.names = [name for name in STAGES if name in names]
        share = sum(STAGES[name][1] for name in SCREENING)
        self.tokens = {name: STAGES[name][1] / share * expected for name in self.names}
        self.now = self.names[0]
        self.began = 0

    def begin(self, name: str, done: int) -> None:
        """Begin the stage of that name after `done` tokens. A stage that is over, or that this scan
        does not have, counts as part of the present one."""
        if name in self.names and self.names.index(name) > self.names.index(self.now):
            self.now, self.began = name, done

    @property
    def number(self) -> int:
        return self.names.index(self.now) + 1

    @property
    def words(self) -> str:
        return STAGES[self.now][0]

    def __str__(self) -> str:
        return f"{self.number} of {len(self.names)}, {self.words}"

    def position(self, done: int) -> float:
        """Share of the whole after `done` tokens."""
        before = sum(self.tokens[name] for name in self.names[: self.number - 1])
        here = min(done - self.began, self.tokens[self.now])
        return (1 - LAST) * (before + here) / sum(self.tokens.values())
