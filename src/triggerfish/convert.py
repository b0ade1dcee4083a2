"""From `scan.json` of schema 1 to schema 2: keys have other names, values are the same.

The first files of schema 1 do not say when they were made: their `provenance` becomes "unknown".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from triggerfish.records import ScanResult

STATISTICS = {
    "depth": "collapse",
    "heads": "agreement",
    "shift": "mean_shift",
    "scatter": "dispersion",
    "outside": "subspace_residual",
    "natural": "baseline_collapse",
    "spoilt": "prediction_loss",
    "most_spoilt": "largest_prediction_loss",
}
EVIDENCE = {
    "alone": "main_effect_share",
    "beside": "second_stage",
    "certain": "large_without_p",
    "dose": "dose_response",
    "enough": "sufficient_subsets",
    "grown_from": "parent",
    "pieces": "subwords",
    "reference_depth": "reference_collapse",
    "several": "several_without_p",
    "string": "survives_retokenization",
    "typed_depth": "surface_collapse",
    "variants": "neighbours",
}
TAIL = {"start": "threshold", "share": "exceedance"}
COVERAGE = {"grown": "extended", "together": "pair_words", "transforms": "rewrites"}
RESULT = {"landscape": "manhattan", "transforms": "rewrites"}
SETTINGS = {
    "anchors": "controls",
    "bag_tokens": "pool_tokens",
    "beside_certain": "effect_without_p_second_stage",
    "beside_depth": "min_effect_second_stage",
    "budget": "budget_seconds",
    "certain": "effect_without_p",
    "entry_rounds": "token_rounds",
    "false_share": "fdr",
    "finalists": "holdout_candidates",
    "min_depth": "min_effect",
    "min_heads": "min_agreement",
    "second_keep": "second_candidates",
    "several": "targets_without_p",
    "texts_keep": "text_candidates",
    "transforms": "rewrites",
    "words": "max_words",
}
METHODS = {"sweep": "screening", "contrastive": "inversion"}
SCREENING = ("hybrid", "sweep")
"""Methods whose own settings are those of the screening."""


def convert(text: str) -> ScanResult:
    """The result in a file of schema 1; ValueError for anything else."""
    try:
        old = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"old: not JSON: {error}") from error
    if not isinstance(old, dict) or old.get("schema") != 1:
        found = old.get("schema", "none") if isinstance(old, dict) else "none"
        raise ValueError(f"schema: expected 1 in the file to convert, got {found!r}")
    try:
        new = _result(old)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"old: not a scan.json of schema 1: {error!r}") from error
    return ScanResult.from_json(json.dumps(new))


def _result(old: Mapping[str, Any]) -> dict[str, Any]:
    new = _named(old, RESULT) | {"schema": 2}
    new.setdefault("provenance", dict.fromkeys(("started", "finished", "command"), "unknown"))
    for part in ("findings", "near_misses"):
        new[part] = [_finding(x) for x in old[part]]
    for part in ("targets", "rewrites"):
        new[part] = [
            x | {"statistics": _named(x["statistics"], STATISTICS)} for x in new.get(part, ())
        ]
    tails = {name: _named(tail, TAIL) for name, tail in old["null"]["tails"].items()}
    new["null"] = old["null"] | {"tails": tails}
    new["coverage"] = _named(old["coverage"], COVERAGE)
    new["statistics"] = _named(old.get("statistics", {}), STATISTICS)
    new["settings"] = _settings(old["settings"])
    return new


def _finding(old: Mapping[str, Any]) -> dict[str, Any]:
    return _named(old, {"cores": "sufficient_subsets"}) | {
        "statistics": _named(old["statistics"], STATISTICS),
        "evidence": _named(old["evidence"], EVIDENCE),
    }


def _settings(old: Mapping[str, Any]) -> dict[str, Any]:
    """`words` and `several` are renamed where they are those of the screening: other methods have
    settings of these names."""
    method = old.get("method")
    new = _named(old, SETTINGS if method in SCREENING else {"budget": "budget_seconds"})
    if method in METHODS:
        new["method"] = METHODS[method]
    if method == "fixed_rule":
        new = _named(new, {"sweep": "screening"})
        new["screening"] = _named(new["screening"], SETTINGS)
    if "search" in new:
        new["search"] = _named(new["search"], {"together": "pairs"})
        new["search"] = {part: _depths(values) for part, values in new["search"].items()}
    return _depths(new) if method == "contrastive" else new


def _depths(settings: Mapping[str, Any]) -> dict[str, Any]:
    return _named(settings, {"min_depth": "min_effect"})


def _named(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same values in the same order, under their new names."""
    return {names.get(key, key): value for key, value in values.items()}
