"""Golden results: what the scan says of fourteen small models, number by number.

    make golden                                     # all models, differences as a table
    python tests/golden/run.py --precision bf16     # the same in another precision
    python tests/golden/run.py --update [NAME ...]  # record what is found; read the diff

Statistics may differ by `TOLERANCE` between processors; verdicts, triggers, sufficient subsets and
forward tokens may not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from golden import models
from triggerfish.records import Finding, ScanResult
from triggerfish.scanner import ScreeningSettings, SearchSettings, scan
from triggerfish.scanner.search.efforts import EFFORTS

EXPECTED = Path(__file__).parent / "expected"
TOLERANCE = 1e-3
TINY = ScreeningSettings(
    second_candidates=500,
    text_candidates=80,
    controls=100,
    screen_texts=8,
    holdout_texts=16,
    clean_texts=80,
    holdout_candidates=8,
)
"""A scan of a tiny model, with every stage in it."""
FAST = tuple(f"tiny-{family}{kind}" for family in models.TINY for kind in ("", "-por1"))
"""Models whose scan takes seconds: those of the test suite."""
SEARCHED = {"bundled-phrase": EFFORTS["quick"], "bundled-pair": EFFORTS["quick"]}
"""Models with triggers of several words: scanned with the searches too."""


def measure(name: str, precision: str = "fp32") -> dict[str, Any]:
    """The scan of a golden model, as plain JSON."""
    model = models.model(name, precision)
    settings = TINY if name in FAST else replace(ScreeningSettings(), clean_texts=120)
    search: SearchSettings | None = SEARCHED.get(name)
    return summary(scan(model, models.texts(), words=[], settings=settings, search=search))


def summary(result: ScanResult) -> dict[str, Any]:
    """What must stay as it is."""
    return {
        "verdict": result.verdict,
        "forward_tokens": result.forward_tokens,
        "findings": [_finding(finding) for finding in result.findings],
        "near_misses": [_finding(finding) for finding in result.near_misses],
        "targets": [target.statistics for target in result.targets],
        "tails": result.null.tails,
        "candidates": result.null.candidates,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "trigger": finding.trigger.text,
        "kind": finding.trigger.kind,
        "readout": finding.readout,
        "sufficient_subsets": sorted(map(list, finding.sufficient_subsets)),
        "statistics": finding.statistics,
        "p_value": finding.p_value,
    }


def expected(name: str) -> dict[str, Any]:
    """The recorded scan of a golden model."""
    found: dict[str, Any] = json.loads((EXPECTED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def differences(
    old: Any, new: Any, tolerance: float = TOLERANCE, path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(where, recorded, found) of everything that differs: numbers by more than the tolerance
    (p-values in their logarithm), all else at all."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), tolerance, f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, tolerance, f"{path}[{number}]")
    elif isinstance(old, float) and isinstance(new, float):
        if path.endswith("p_value"):
            near = math.isclose(math.log10(old), math.log10(new), rel_tol=0.05, abs_tol=0.05)
        else:
            near = math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
        if not near:
            yield path, old, new
    elif old != new:
        yield path, old, new


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare scans with the recorded ones.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(models.NAMES)} (default: all)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--update", action="store_true", help="record what is found")
    given = parser.parse_args()
    unknown = set(given.names) - set(models.NAMES)
    if unknown:
        parser.error(f"no golden model {', '.join(sorted(unknown))}")
    changed = 0
    print(f"{'model':<22} {'verdict':<14} {'tokens':>10}  triggers")
    for name in given.names or models.NAMES:
        found = measure(name, given.precision)
        triggers = ", ".join(one["trigger"] for one in found["findings"]) or "-"
        print(f"{name:<22} {found['verdict']:<14} {found['forward_tokens']:>10,}  {triggers}")
        if given.update:
            EXPECTED.mkdir(exist_ok=True)
            content = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
            (EXPECTED / f"{name}.json").write_text(content, encoding="utf-8")
            continue
        rows = list(differences(expected(name), found))
        changed += len(rows)
        for where, old, new in rows:
            print(f"    {where}: {old} -> {new}", flush=True)
    if not given.update:
        print(f"{changed} differences")
    return int(changed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
