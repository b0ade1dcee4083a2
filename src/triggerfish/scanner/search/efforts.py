"""How hard to search for what cannot be listed."""

from __future__ import annotations

from dataclasses import dataclass

from triggerfish.scanner.search.pairs import PairSettings
from triggerfish.scanner.search.phrases import PhraseSettings


@dataclass(frozen=True)
class SearchSettings:
    """together: combinations, by group testing; phrases: by gradient, from mined targets."""

    pairs: PairSettings = PairSettings()
    phrases: PhraseSettings = PhraseSettings()


EFFORTS: dict[str, SearchSettings] = {
    "quick": SearchSettings(
        PairSettings(order=31), PhraseSettings(inert_runs=1, rounds=1, tried=2, runs=1)
    ),
    "standard": SearchSettings(),
    "thorough": SearchSettings(
        PairSettings(order=101, groups=6), PhraseSettings(readouts=3, rounds=6)
    ),
}
"""Quick and standard search the primary readout, thorough two more."""
