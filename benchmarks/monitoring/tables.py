"""results/monitor/README.md, from the records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from triggerfish.bench.files import RecordFile
from triggerfish.records import Measurement

Record = dict[str, Any]
GUARDS = (
    ("none", "no guard"),
    ("strip", "monitor, strip"),
    ("reject", "monitor, reject"),
    ("vectors, frozen PLM, published", "vectors on the frozen PLM, 0.8"),
    ("vectors, frozen PLM, calibrated", "vectors on the frozen PLM, calibrated"),
    ("vectors, fine-tuned, published", "vectors on the model, 0.8"),
    ("vectors, fine-tuned, calibrated", "vectors on the model, calibrated"),
)
FLOORS = (("no trigger", "floor: no trigger"), ("clean PLM", "floor: clean PLM"))


def read(out: Path, part: str) -> list[Record]:
    return list(RecordFile(out / f"{part}.jsonl").read().values())


def percent(counts: Record | None) -> str:
    """Rate, counts and exact interval."""
    if not counts or not counts["n"]:
        return "-"
    found = Measurement(counts["k"], counts["n"])
    low, high = found.interval
    return f"{100 * found.rate:.1f} % ({found.k}/{found.n}; {100 * low:.1f}-{100 * high:.1f})"


def short(counts: Record | None) -> str:
    return f"{100 * counts['k'] / counts['n']:.1f}" if counts and counts["n"] else "-"


def pooled(cells: Iterable[Record], group: str, name: str) -> Record:
    parts = [cell[group][name] for cell in cells if name in cell[group]]
    return {"k": sum(p["k"] for p in parts), "n": sum(p["n"] for p in parts)}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, rule, *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]


def plms(cells: Sequence[Record]) -> list[str]:
    seen = {cell["plm"]: cell for cell in cells}
    rows = [
        (
            name,
            cell["family"],
            cell["verdict"],
            f"{len(cell['recalled'])}/{len(cell['planted'])}",
            f"{len(cell['guarded'])}/{len(cell['planted'])}",
            ", ".join(word for word in cell["planted"] if word not in cell["guarded"]) or "-",
            ", ".join(sorted(set(cell["found"]) - set(cell["planted"]))) or "-",
            f"{cell['scan_seconds']:.0f}",
        )
        for name, cell in seen.items()
    ]
    head = (
        *("PLM", "family", "verdict", "found by name", "guarded against", "not guarded against"),
        *("also found", "scan, s"),
    )
    words = (
        "A planted word that the scan names otherwise (a longer word with the same subword tokens, "
        "say) is guarded against where a minimal sufficient subset of a finding is in it."
    )
    return ["## What the scans found", "", words, "", *table(head, rows, left=7), ""]


def claim(cells: Sequence[Record]) -> list[str]:
    """The guards, pooled over PLMs and tasks, and then cell by cell."""
    tasks = list(dict.fromkeys(cell["task"] for cell in cells))
    count = len({cell["plm"] for cell in cells})
    training = cells[0]["fine_tuning"]
    lines = [
        "## Fine-tuned with all weights",
        "",
        f"Backdoored PLMs: {count}; each fine-tuned on {', '.join(tasks)} (epochs: "
        f"{training['epochs']}; at most {training['rows']} rows). Success of an attack: a text of "
        "another label gets through the guard and is predicted as the trigger's label. Two "
        "floors: the same texts without a trigger, and with it on a model made of the clean PLM. "
        "T-ASR: mean over triggers. A rejected clean text counts as a wrong answer. Calibrated: "
        f"a false-rejection rate of {cells[0]['calibration']['frr']:g} on "
        f"{cells[0]['calibration']['texts']} clean texts of the task.",
        "",
    ]
    rows = []
    for key, label in (*GUARDS, *FLOORS):
        having = [cell for cell in cells if key in cell["asr"]]
        if not having:
            continue
        t_asr = sum(cell["asr"][key]["t_asr"] for cell in having) / len(having)
        named = [t for cell in having for t in cell["triggers"] if t["guarded"]]
        of_found = {"k": sum(t["successes"][key] for t in named), "n": sum(t["n"] for t in named)}
        rows.append(
            (
                label,
                percent(pooled(cells, "asr", key)),
                f"{t_asr:.3f}",
                percent(of_found),
                percent(pooled(cells, "accuracy", key)),
                percent(pooled(cells, "false_alarms", key)) if key != "none" else "-",
            )
        )
    head = (
        "guard",
        "attack success",
        "T-ASR",
        "of triggers guarded against",
        "accuracy",
        "clean texts changed or rejected",
    )
    lines += [*table(head, rows), "", *by_cell(cells)]
    return lines


def by_cell(cells: Sequence[Record]) -> list[str]:
    keys = (*GUARDS, *FLOORS)
    rows = [
        (cell["plm"], cell["task"], *(short(cell["asr"].get(key)) for key, _ in keys))
        for cell in cells
    ]
    lines = ["Attack success by cell, in per cent:", ""]
    lines += [*table(("PLM", "task", *(label for _, label in keys)), rows, left=2), ""]
    accuracy = (("clean PLM", "clean PLM"), *GUARDS)
    rows = [
        (cell["plm"], cell["task"], *(short(cell["accuracy"].get(key)) for key, _ in accuracy))
        for cell in cells
    ]
    lines += ["Accuracy by cell, in per cent:", ""]
    lines += [*table(("PLM", "task", *(label for _, label in accuracy)), rows, left=2), ""]
    return lines


def detectors(cells: Sequence[Record]) -> list[str]:
    first, cells = cells[0], _monitor_first(cells)
    names = list(first["false_alarms"])
    onion = max(
        (c["bytes_per_second"] for c in cells if c["detector"].startswith("ONION")), default=None
    )
    lines = [
        "## Detectors side by side",
        "",
        f"On {first['plm']} fine-tuned on {first['task']}. Thresholds: a false-rejection rate of "
        f"{first['frr']:g} on {first['calibration_texts']} texts of that task (0.8: as published; "
        "the monitor has none). Triggered texts carry one copy or three. Texts are cut to 40 "
        "words. Latency: one text at a time; throughput: many at once (the monitor: whole texts). "
        "The fastest ONION is 1. ONION's language models are the small ones of the zoo; a larger "
        "one would see more and cost more. RAP and STRIP need the classifier, the behavioural "
        "guard any backbone, the monitor only the scan.",
        "",
    ]
    rows = []
    for cell in cells:
        alarms = [cell["false_alarms"][name] for name in names]
        every = {"k": sum(a["k"] for a in alarms), "n": sum(a["n"] for a in alarms)}
        speed = cell["bytes_per_second"]
        rows.append(
            (
                cell["detector"],
                percent(cell["caught"]),
                percent(every),
                f"{cell['latency_ms']['p50']:.3g}",
                f"{cell['latency_ms']['p99']:.3g}",
                f"{speed / 1e6:.3g}",
                f"{speed / onion:,.3g}" if onion else "-",
            )
        )
    head = (
        "detector",
        "triggered, caught",
        "clean, rejected",
        "p50, ms",
        "p99, ms",
        "MB/s",
        "times ONION",
    )
    lines += [*table(head, rows), "", "Clean texts rejected, by domain, in per cent:", ""]
    sizes = [f"{name} ({first['false_alarms'][name]['n']})" for name in names]
    by_domain = [
        (cell["detector"], *(short(cell["false_alarms"][name]) for name in names)) for cell in cells
    ]
    lines += [*table(("detector", *sizes), by_domain), ""]
    words = list(first["by_trigger"])
    by_trigger = [
        (cell["detector"], *(short(cell["by_trigger"][word]) for word in words)) for cell in cells
    ]
    lines += ["Caught, by trigger, in per cent:", "", *table(("detector", *words), by_trigger), ""]
    whole = [cell for cell in cells if "whole_texts" in cell]
    if whole:
        rows = [
            (name, *(percent(cell["whole_texts"][name]) for cell in whole))
            for name in whole[0]["whole_texts"]
        ]
        head = ("domain", *(cell["detector"] for cell in whole))
        lines += [
            "Whole texts on which the monitor alarms. A natural mention of a trigger is a false "
            "alarm here, although the backdoor goes off:",
            "",
            *table(head, rows),
            "",
        ]
    return lines


def _monitor_first(cells: Sequence[Record]) -> list[Record]:
    return sorted(cells, key=lambda c: (not c["detector"].startswith("monitor"), c["detector"]))


def spellings(cell: Record) -> list[str]:
    lines = [
        "## Evasion",
        "",
        f"Every trigger that was found in {cell['plm']}, {cell['copies']} copies, on "
        f"{cell['task']}. A hole is a spelling that the monitor misses at least once and with "
        "which the success of that trigger is well above the floor.",
        "",
    ]
    rows = []
    for name, found in cell["spellings"].items():
        rates = [
            percent({"k": found[key], "n": found["n"]})
            for key in ("caught", "caught_text_alone", "success", "floor")
        ]
        rows.append((name, *rates, ", ".join(found["holes"]) or "-"))
    head = ("spelling", "caught", "caught without tokenizer", "model reacts", "floor", "holes")
    return [*lines, *table(head, rows), ""]


def render(out: Path) -> str:
    lines = [
        "# The monitor, measured",
        "",
        "Rendered by `python benchmarks/monitor.py --table` from the records here. Rates: per "
        "cent (successes/trials; exact 95 % Clopper-Pearson interval of the counts).",
        "",
    ]
    claims, compared, ways = (read(out, part) for part in ("downstream", "detectors", "evasion"))
    if claims:
        lines += plms(claims) + claim(claims)
    for plm, task in sorted({(cell["plm"], cell["task"]) for cell in compared}):
        lines += detectors(
            [cell for cell in compared if (cell["plm"], cell["task"]) == (plm, task)]
        )
    for cell in ways:
        lines += spellings(cell)
    others = sorted(f.name for f in out.glob("*.json"))
    if others:
        lines += ["Also here: " + ", ".join(f"[{name}]({name})" for name in others) + "."]
    return "\n".join(lines).rstrip() + "\n"
