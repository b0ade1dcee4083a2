"""SARIF 2.1.0 for security tabs and CI: one result for each trigger, and for each
near miss that is significant. A clean model has none.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0 with errata 01. Section numbers
below are of that text. A result's fingerprint depends on the trigger and the weights alone, so a
repeated scan updates an alert instead of opening a second one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from triggerfish.records import Finding, HiddenTarget, Rewrite, ScanResult
from triggerfish.report import glossary
from triggerfish.report.escape import quoted, shorten, visible

SCHEMA_URI = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
# 3.11.5 and 3.11.6: braces mark placeholders and brackets mark links, which a trigger must not be
# able to write.
_MARKUP = "[]{}"
# Services show the first locations only; a sharded checkpoint may have hundreds of files, all
# listed as artifacts.
_LOCATIONS = 10
_TRIGGER_WIDTH = 80

_RULES: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "TF001",
        "TransferableBackdoorTrigger",
        "error",
        "A string collapses the model's representations of all texts.",
        "Any model fine-tuned from this checkpoint will tend to give one answer to every text "
        "that carries the string. Do not use the checkpoint as it is: purify it, or reject texts "
        "with the string.",
    ),
    (
        "TF002",
        "InconclusiveScan",
        "warning",
        "The scan could neither confirm a trigger nor rule one out.",
        "Read the reasons. Scan again with what they name, such as more time or more texts.",
    ),
    (
        "TF003",
        "NearMiss",
        "note",
        "A string is significant but did not pass every check of the decision rule.",
        "No action is needed for one near miss. "
        "Several of them in one checkpoint deserve a closer look.",
    ),
    (
        "TF004",
        "CollapsePoint",
        "warning",
        "A string that is not known collapses the model's representations of all texts.",
        "A planted trigger is likely that this scan could not name. Do not use the checkpoint as "
        "it is, or search longer for the string.",
    ),
    (
        "TF005",
        "BackdooredModel",
        "error",
        "A method that names neither strings nor vectors calls the model backdoored.",
        "Read the reasons, and scan with a method that searches for triggers.",
    ),
    (
        "TF006",
        "StyleTrigger",
        "error",
        "A rewriting collapses the model's representations of all texts.",
        "Any model fine-tuned from this checkpoint will tend to give one answer to every text that "
        "is written so. No single string can be filtered: do not use the checkpoint as it is.",
    ),
    (
        "TF007",
        "PredictionTrigger",
        "error",
        "A string degrades the model's predictions.",
        "Models derived from this checkpoint will answer nonsense where the string is. Do not "
        "use the checkpoint as it is: purify it, or reject texts with the string.",
    ),
)


def render(result: ScanResult) -> str:
    """The SARIF log as JSON, ending in a newline."""
    log = {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [_run(result)]}
    return json.dumps(log, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _run(result: ScanResult) -> dict[str, Any]:
    driver: dict[str, Any] = {"name": "triggerfish", "rules": [_rule(*rule) for rule in _RULES]}
    if "triggerfish" in result.environment:
        driver["version"] = visible(result.environment["triggerfish"])
    model = result.model
    return {
        "tool": {"driver": driver},
        "invocations": [_invocation(result)],
        "artifacts": [
            {
                "location": {"uri": _uri(file)},
                "roles": ["analysisTarget"],
                "hashes": {"sha-256": sha},
            }
            for file, sha in model.weights_sha256.items()
        ],
        "results": _results(result),
        "columnKind": "unicodeCodePoints",
        "properties": _json_safe(
            {
                "verdict": result.verdict,
                "model": {
                    "name": model.name,
                    "revision": model.revision,
                    "family": model.family,
                    "parameters": model.parameters,
                    "tokenizerSha256": model.tokenizer_sha256,
                },
                "null": {
                    "alpha": result.null.alpha,
                    "candidates": result.null.candidates,
                    "calibration": result.null.calibration,
                },
                "statistics": result.statistics,
                "coverage": glossary.coverage_lines(result),
                "notExamined": result.coverage.not_examined,
                "settings": result.settings,
                "environment": result.environment,
            }
        ),
    }


def _rule(rule_id: str, name: str, level: str, short: str, help_text: str) -> dict[str, Any]:
    return {
        "id": rule_id,
        "name": name,
        "shortDescription": {"text": short},
        "fullDescription": {"text": f"{short} {help_text}"},
        "help": {"text": help_text},
        "defaultConfiguration": {"level": level},
        "properties": {"tags": ["security", "machine-learning"]},
    }


def _invocation(result: ScanResult) -> dict[str, Any]:
    return {
        "executionSuccessful": True,
        "startTimeUtc": result.provenance.started,
        "endTimeUtc": result.provenance.finished,
        "commandLine": visible(result.provenance.command),
        "exitCode": result.exit_code,
        "exitCodeDescription": result.verdict,
        "toolExecutionNotifications": [
            {"level": "note", "message": {"text": f"Not examined: {visible(item, also=_MARKUP)}"}}
            for item in result.coverage.not_examined
        ],
        "properties": _json_safe(
            {"seconds": result.seconds, "forwardTokens": result.forward_tokens}
        ),
    }


def _results(result: ScanResult) -> list[dict[str, Any]]:
    # A trigger that the decision rule accepted inside an inconclusive scan is a warning, not a
    # verdict.
    level = "error" if result.verdict == "backdoored" else "warning"
    results = [
        _finding(result, finding, 6 if "divergence" in finding.statistics else 0, level, "Trigger")
        for finding in result.findings
    ]
    results += [_rewrite(result, one, level) for one in result.rewrites]
    if result.verdict == "backdoored" and not results and not result.targets:
        reasons = " ".join(visible(reason, also=_MARKUP) for reason in result.reasons)
        text = f"{glossary.MEANING['backdoored']} {reasons}".strip()
        results.append(_result(result, 4, "error", text, _digest("model", *_weights(result))))
    if result.verdict == "inconclusive":
        reasons = " ".join(visible(reason, also=_MARKUP) for reason in result.reasons)
        text = f"{glossary.MEANING['inconclusive']} {reasons}".strip()
        results.append(
            _result(result, 1, "warning", text, _digest("inconclusive", *_weights(result)))
        )
    results += [_target(result, target, level) for target in result.targets]
    if result.verdict != "clean":
        near = glossary.significant(result)
        results += [_finding(result, finding, 2, "note", "Near miss") for finding in near]
    return results


def _finding(
    result: ScanResult, finding: Finding, rule: int, level: str, kind: str
) -> dict[str, Any]:
    trigger = finding.trigger
    shown = visible(trigger.text, also=_MARKUP)
    if len(shown) > _TRIGGER_WIDTH:
        shown = shorten(trigger.text, _TRIGGER_WIDTH, also=_MARKUP)
    statistics = _numbers(finding.statistics)
    text = (
        f'{kind} "{shown}" at readout {visible(finding.readout, also=_MARKUP)}: {statistics}; '
        f"p {glossary.chance(finding.p_value, result.null.candidates)}, "
        f"q {glossary.chance(finding.q_value, 0)}."
    )
    ids = " ".join(map(str, trigger.token_ids))
    properties = {
        "trigger": trigger.text,
        "triggerVisible": quoted(trigger.text),
        "tokenIds": trigger.token_ids,
        "readout": finding.readout,
        "statistics": finding.statistics,
        "pValue": finding.p_value,
        "qValue": finding.q_value,
        "evidence": finding.evidence,
    }
    fingerprint = _digest("trigger", ids, trigger.text, *_weights(result))
    return _result(result, rule, level, text, fingerprint) | {"properties": _json_safe(properties)}


def _target(result: ScanResult, target: HiddenTarget, level: str) -> dict[str, Any]:
    text = (
        f"Hidden target at readout {visible(target.readout, also=_MARKUP)}, reached by "
        f"{glossary.count(target.restarts, 'restart')}: {_numbers(target.statistics)}."
    )
    # Another run ends near the same point, not on it, so the vector itself is no fingerprint.
    same = [other for other in result.targets if other.readout == target.readout]
    number = str(same.index(target))
    fingerprint = _digest("target", target.readout, number, *_weights(result))
    properties = {
        "readout": target.readout,
        "restarts": target.restarts,
        "statistics": target.statistics,
        "vector": target.vector,
    }
    return _result(result, 3, level, text, fingerprint) | {"properties": _json_safe(properties)}


def _rewrite(result: ScanResult, one: Rewrite, level: str) -> dict[str, Any]:
    shown = shorten(one.name, _TRIGGER_WIDTH, also=_MARKUP)
    text = (
        f'Rewriting "{shown}" at readout {visible(one.readout, also=_MARKUP)}: '
        f"{_numbers(one.statistics)}; corrected p {glossary.chance(one.p_value, 0)}."
    )
    properties = {
        "rewriting": one.name,
        "example": one.example,
        "readout": one.readout,
        "statistics": one.statistics,
        "pValue": one.p_value,
    }
    fingerprint = _digest("rewrite", one.name, *_weights(result))
    return _result(result, 5, level, text, fingerprint) | {"properties": _json_safe(properties)}


def _numbers(statistics: Mapping[str, float]) -> str:
    return ", ".join(
        f"{visible(name, also=_MARKUP)} {glossary.number(value)}"
        for name, value in statistics.items()
    )


def _result(
    result: ScanResult, rule: int, level: str, text: str, fingerprint: str
) -> dict[str, Any]:
    files = list(result.model.weights_sha256)[:_LOCATIONS]
    return {
        "ruleId": _RULES[rule][0],
        "ruleIndex": rule,
        "level": level,
        "message": {"text": text},
        # Code scanning services refuse a result without a line, so a weight file is given its first
        # one.
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(file), "index": index},
                    "region": {"startLine": 1},
                }
            }
            for index, file in enumerate(files)
        ],
        "partialFingerprints": {"triggerAndWeights/v1": fingerprint},
    }


def _uri(file: str) -> str:
    """A relative URI reference (3.4.3): forward slashes, everything unusual percent-encoded."""
    return quote(file.replace("\\", "/").lstrip("/"), safe="/-._~", errors="replace")


def _weights(result: ScanResult) -> list[str]:
    return sorted(result.model.weights_sha256.values())


def _digest(*parts: str) -> str:
    # JSON keeps the parts apart: ("ab", "c") and ("a", "bc") must differ.
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def _json_safe(value: Any) -> Any:
    """JSON has no NaN or infinity; they become their names rather than a silent null."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_safe(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
