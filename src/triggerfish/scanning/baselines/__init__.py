"""Published detectors, as published, to compare with: each is a module whose `events` streams what
`scanning.events` does and ends in the same record.

None of them has p-values: their thresholds are fixed, so their findings carry None, and the report
says that the error rate is not controlled.
"""
