"""Effort levels of the searches for triggers that cannot be enumerated."""

from __future__ import annotations

from dataclasses import dataclass

from triggerfish.scanner.search.pairs import PairSettings
from triggerfish.scanner.search.phrases import PhraseSettings


@dataclass(frozen=True)
class SearchSettings:
    """pairs: combinations of words, by group testing. phrases: phrases, by gradient, from inverted
    targets."""

    pairs: PairSettings = PairSettings()
    phrases: PhraseSettings = PhraseSettings()


EFFORTS: dict[str, SearchSettings] = {
    "quick": SearchSettings(
        PairSettings(order=31), PhraseSettings(suppressed_runs=1, rounds=1, tried=2, runs=1)
    ),
    "standard": SearchSettings(),
    "thorough": SearchSettings(
        PairSettings(order=101, groups=6), PhraseSettings(readouts=3, rounds=6)
    ),
}
"""`quick` and `standard` search the primary readout (the primary pooling position), `thorough` two
more. Tokens of each level: docs/decisions/0029-effort.md."""
