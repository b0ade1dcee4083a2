"""Published detectors, for comparison. Each is a module whose `events` streams the same items as
`scanner.events` and ends in the same record.

None of them has p-values. Their thresholds are fixed, so `p_value` and `q_value` of their findings
are None, and the report says that the error rate is not controlled.
"""

from __future__ import annotations

BASELINES = {
    "patronus": ("patronus", "PatronusSettings"),
    "lmsanitator": ("lmsanitator", "LMSanitatorSettings"),
    "lt-defense": ("lt_defense", "LTDefenseSettings"),
    "fixed-rule": ("fixed_rule", "FixedRuleSettings"),
}
"""Module and settings class of each detector, by its name in `scan --method`."""
