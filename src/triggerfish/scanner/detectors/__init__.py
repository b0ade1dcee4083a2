"""Published detectors, as published, to compare with: each is a module whose `events` streams what
`scanner.events` does and ends in the same record.

None of them has p-values: their thresholds are fixed, so their findings carry None, and the report
says that the error rate is not controlled.
"""

from __future__ import annotations

BASELINES = {
    "patronus": ("patronus", "PatronusSettings"),
    "lmsanitator": ("lmsanitator", "LMSanitatorSettings"),
    "lt-defense": ("lt_defense", "LTDefenseSettings"),
    "fixed-rule": ("fixed_rule", "FixedRuleSettings"),
}
"""Module and settings of each, by the name that `scan --method` takes."""
