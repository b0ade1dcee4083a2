"""results/purify/README.md and its figures, from the records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monitoring.tables import percent, read, table
from purifying.figures import Series, chart
from purifying.models import ORDER
from triggerfish.purify.align import STEPS, STEPS_PER_STRING
from triggerfish.writing import write_text

Record = dict[str, Any]
LATER = "Not measured"
MARGIN, ACCURACY, COSINES = 2.0, 0.5, 0.98
"""What issue and spec ask for: points above the floor, points of accuracy, correlation."""


def counts(parts: Iterable[Record]) -> Record:
    parts = list(parts)
    return {"k": sum(p["k"] for p in parts), "n": sum(p["n"] for p in parts)}


def rate(parts: Iterable[Record]) -> float:
    """Mean of the rates, in per cent."""
    rates = [100 * p["k"] / p["n"] for p in parts if p["n"]]
    return sum(rates) / len(rates) if rates else float("nan")


def effects(tasks: Record, key: str) -> list[Record]:
    return [effect[key] for task in tasks.values() for effect in task["effects"]]


def accuracy(tasks: Record, key: str) -> Record:
    return counts(task["accuracy"][key] for task in tasks.values())


def t_asr(tasks: Record) -> dict[str, float]:
    """Means over triggers and tasks, in per cent."""
    return {
        key: rate(effects(tasks, key)) for key in ("before", "after", "floor", "own", "own_floor")
    }


def one(value: float) -> str:
    return f"{value:.1f}"


def cosines(cell: Record, which: str = "to_clean") -> str:
    """Correlation of pairwise cosines at the readout that classifiers, or sentence embeddings,
    read."""
    place = "mean" if cell["base"] == "all-MiniLM-L6-v2" else cell["readout"]
    found = cell["fidelity"][which].get(place)
    return "-" if found is None else f"{found:.3f} ({place})"


def steps_of(cell: Record) -> int:
    """Of a round: as the settings say, or as `Align` counts them from the strings it is given."""
    steps: int | None = cell["settings"]["steps"]
    return steps or max(STEPS, STEPS_PER_STRING * len(cell["given"]))


# ---- the grid


def grid(cells: Sequence[Record]) -> list[str]:
    done = [cell for cell in cells if "tasks" in cell]
    lines = ["## From found triggers, measured by probes", ""]
    if not done:
        return [*lines, f"{LATER}.", ""]
    names = max((list(cell["tasks"]) for cell in done), key=len)
    settings = done[0]["settings"]
    lines += [
        f"Backdoored: {len(done)} with {len({c['attack'] for c in done})} attacks in "
        f"{len({c['base'] for c in done})} PLMs of {len({c['family'] for c in done})} families. "
        f"Each was scanned and purified from what its scan found, as `triggerfish scan` and "
        f"`triggerfish purify` do it (steps of {settings['batch']} texts of up to "
        f"{settings['words']} words; rounds until a full scan is clean, three at most). "
        f"Probes on {', '.join(names)}. T-ASR: mean over triggers and tasks of the share of texts "
        "of other labels that end at the backdoor's label, three copies of the planted trigger in "
        "each. Floor: the same on the clean PLM. Own label: each classifier's "
        "triggers count by the label they reach in that classifier. Cosines: correlation of the "
        "cosines of all pairs of texts with those of the clean PLM; in brackets how they are read. "
        "CPU s: of all rounds with their scans. Steps a round: three for each string to purify and "
        "150 at least; the older records have 150 whatever the number of strings "
        "([0030](../../docs/decisions/0030-purify-tuning.md)).",
        "",
    ]
    lines += summary(done)
    lines += [*main_table(done), ""]
    lines += by_task(done, names)
    lines += untargeted(done)
    missing = [name for name in ORDER if name not in {cell["plm"] for cell in cells}]
    if missing:
        lines += [f"{LATER}: {', '.join(missing)}.", ""]
    skipped = [cell for cell in cells if "skipped" in cell]
    if skipped:
        lines += ["Not purified:", ""]
        lines += [f"- {cell['plm']}: {cell['verdict']}; {cell['skipped']}" for cell in skipped]
        lines += [""]
    return lines


def main_table(cells: Sequence[Record]) -> list[str]:
    head = (
        "PLM",
        "attack",
        "planted, found",
        "T-ASR before",
        "after",
        "floor",
        "own label, after",
        "own floor",
        "accuracy clean PLM",
        "before",
        "after",
        "cosines",
        "steps a round",
        "rounds",
        "new scan",
        "still found",
        "CPU s",
    )
    rows = []
    for cell in cells:
        found = t_asr(cell["tasks"])
        acc = [rate([accuracy(cell["tasks"], key)]) for key in ("clean", "before", "after")]
        recalled = set(cell["planted"]) & set(cell["found"])
        rows.append(
            (
                cell["base"].rpartition("/")[2],
                cell["attack"],
                f"{len(recalled)}/{len(cell['planted'])}",
                *(one(found[key]) for key in ("before", "after", "floor", "own", "own_floor")),
                *(one(x) for x in acc),
                cosines(cell),
                str(steps_of(cell)),
                str(len(cell["rounds"])),
                cell["rescan"]["verdict"],
                ", ".join(cell["rescan"]["found"]) or "-",
                f"{cell['purify_cpu_seconds']:.0f}",
            )
        )
    return table(head, rows, left=3)


def summary(cells: Sequence[Record]) -> list[str]:
    """What was asked for, and what came out."""
    near = [c for c in cells if excess(c, "after", "floor") <= MARGIN]
    own = [c for c in cells if excess(c, "own", "own_floor") <= MARGIN]
    changes = [
        rate([accuracy(c["tasks"], "after")]) - rate([accuracy(c["tasks"], "clean")]) for c in cells
    ]
    given = [
        rate([accuracy(c["tasks"], "after")]) - rate([accuracy(c["tasks"], "before")])
        for c in cells
    ]
    clean = [cell for cell in cells if cell["rescan"]["verdict"] == "clean"]
    lines = [
        f"- T-ASR at most {MARGIN:g} points above the floor: {len(near)} of {len(cells)} by the "
        f"backdoor's label, {len(own)} of {len(cells)} by each classifier's own label.",
        f"- Accuracy after purification against the clean PLM, mean over PLMs: "
        f"{sum(changes) / len(changes):+.1f} points (asked for: {-ACCURACY:+.1f}); against the "
        f"backdoored PLM: {sum(given) / len(given):+.1f}.",
        f"- New scan `clean`: {len(clean)} of {len(cells)}.",
    ]
    mini = [c for c in cells if c["base"] == "all-MiniLM-L6-v2"]
    for cell in mini:
        before = cosines(cell, "backdoored_to_clean")
        lines.append(
            f"- all-MiniLM-L6-v2, {cell['attack']}: cosines of sentence pairs correlate with the "
            f"clean PLM's at {cosines(cell)} (asked for: {COSINES:g}; backdoored: {before})."
        )
    return [*lines, ""]


def excess(cell: Record, key: str, floor: str) -> float:
    found = t_asr(cell["tasks"])
    return found[key] - found[floor]


def by_task(cells: Sequence[Record], names: Sequence[str]) -> list[str]:
    rows = []
    for name in names:
        having = [cell["tasks"][name] for cell in cells if name in cell["tasks"]]
        every = {str(i): task for i, task in enumerate(having)}
        found = t_asr(every)
        rows.append(
            (
                f"{name} ({len(having)} PLMs)",
                *(one(found[key]) for key in ("before", "after", "floor", "own", "own_floor")),
                *(percent(accuracy(every, key)) for key in ("clean", "before", "after")),
            )
        )
    head = (
        "task",
        "T-ASR before",
        "after",
        "floor",
        "own label, after",
        "own floor",
        "accuracy clean PLM",
        "before",
        "after",
    )
    return ["By task:", "", *table(head, rows), ""]


def untargeted(cells: Sequence[Record]) -> list[str]:
    """Accuracy on triggered texts, which BadPre is after."""
    rows = []
    for cell in cells:
        parts = effects(cell["tasks"], "triggered_accuracy")
        rows.append(
            (
                cell["base"].rpartition("/")[2],
                cell["attack"],
                *(one(rate(p[key] for p in parts)) for key in ("clean", "before", "after")),
            )
        )
    head = ("PLM", "attack", "clean PLM", "before", "after")
    return ["Accuracy on triggered texts, in per cent:", "", *table(head, rows, left=2), ""]


# ---- the other parts


def original(cells: Sequence[Record]) -> list[str]:
    lines = ["## With the clean original at hand", ""]
    if not cells:
        return [*lines, f"{LATER}.", ""]
    lines += [
        "The same loop with the clean PLM as `--reference`: the features of clean texts are then "
        "taken from it, so that what planting took away comes back too.",
        "",
    ]
    return [*lines, *summary(cells), *main_table(cells), ""]


def baselines(cells: Sequence[Record], out: Path) -> list[str]:
    lines: list[str] = []
    for plm in dict.fromkeys(cell["plm"] for cell in cells):
        mine = [cell for cell in cells if cell["plm"] == plm]
        done = [cell for cell in mine if "tasks" in cell]
        if not done:
            continue
        tasks = done[0]["tasks"]
        first, acc = t_asr(tasks), rate([accuracy(tasks, "clean")])
        lines += [
            f"### {plm}",
            "",
            f"{done[0]['attack']} in {done[0]['base']}; probes on {', '.join(tasks)}; every method "
            "once, from the found triggers where it needs any, with as many optimiser steps as "
            "`align` where it trains on (patronus: its published epochs over 400 texts). The last "
            "columns: planted triggers that still collapse texts as a finding would, and CPU "
            "seconds.",
            "",
        ]
        rows = [
            ("*nothing*", "-", one(first["before"]), "-", one(rate([accuracy(tasks, "before")])),
             cosines(done[0], "backdoored_to_clean"), str(len(done[0]["planted"])), "-"),
            ("*clean PLM*", "-", one(first["floor"]), one(first["own_floor"]), one(acc), "1", "-",
             "-"),
        ]  # fmt: skip
        for cell in sorted(done, key=lambda c: t_asr(c["tasks"])["after"]):
            found = t_asr(cell["tasks"])
            rows.append(
                (
                    f"`{cell['method']}`",
                    ", ".join(cell["needs"]) or "-",
                    one(found["after"]),
                    one(found["own"]),
                    one(rate([accuracy(cell["tasks"], "after")])),
                    cosines(cell),
                    str(len(cell["alive"])),
                    f"{cell['cpu_seconds']:.0f}",
                )
            )
        head = (
            "method",
            "needs",
            "T-ASR",
            "own label",
            "accuracy",
            "cosines",
            "still effective",
            "CPU s",
        )
        lines += [*table(head, rows, left=2), ""]
        lines += [f"`{c['method']}`: {c['skipped']}." for c in mine if "skipped" in c]
        series = [
            Series(
                cell["method"],
                [(rate([accuracy(cell["tasks"], "after")]), t_asr(cell["tasks"])["after"])],
                number,
                "points",
            )
            for number, cell in enumerate(done)
        ]
        series.append(Series("clean PLM", [(acc, first["floor"])], 7, "points"))
        chart(
            out / f"baselines-{plm}.svg",
            f"Attack success against accuracy of every method on {plm}",
            "accuracy, per cent",
            "T-ASR, per cent",
            series,
        )
        lines += [f"![Attack success against accuracy](baselines-{plm}.svg)", ""]
    return ["## Every method", "", *(lines or [f"{LATER}.", ""])]


def partial(cells: Sequence[Record], out: Path) -> list[str]:
    if not cells:
        return ["## Only some triggers known", "", f"{LATER}.", ""]
    first = cells[0]
    lines = [
        "## Only some triggers known",
        "",
        f"{first['plm']}, purified from that many of its {len(first['planted'])} planted triggers, "
        "three random draws each, with and without negatives: strings near the triggers and rare "
        "ones, trained on like triggers. No scan takes part: what it ranks high, of which half of "
        "the negatives are made otherwise, would hold the hidden triggers. Unknown: T-ASR of the "
        "others; means.",
        "",
    ]
    rows, curves = [], {}
    groups: dict[tuple[bool, int], list[Record]] = {}
    for cell in cells:
        groups.setdefault((cell["negatives"], len(cell["known"])), []).append(cell)
    for (negatives, count), draws in sorted(groups.items()):
        parts: dict[str, list[Record]] = {}
        for cell in draws:
            for effect in (e for task in cell["tasks"].values() for e in task["effects"]):
                kind = "known" if effect["trigger"] in cell["known"] else "unknown"
                parts.setdefault(kind, []).append(effect["after"])
                parts.setdefault(f"{kind} floor", []).append(effect["floor"])
        found = {kind: rate(values) for kind, values in parts.items()}
        share = 100 * count / len(first["planted"])
        right = counts(accuracy(cell["tasks"], "after") for cell in draws)
        rows.append(
            (
                f"{count} ({share:.0f} %)",
                "with" if negatives else "without",
                *(one(found[x]) for x in ("known", "known floor", "unknown", "unknown floor")),
                one(rate([right])),
            )
        )
        curves.setdefault(("unknown", negatives), []).append((share, found["unknown"]))
        curves.setdefault(("known", negatives), []).append((share, found["known"]))
        if negatives:
            curves.setdefault(("floor", True), []).append((share, found["unknown floor"]))
    head = ("known", "negatives", "T-ASR, known", "floor", "T-ASR, unknown", "floor", "accuracy")
    lines += [*table(head, rows, left=2), ""]
    before = t_asr(first["tasks"])["before"]
    series = [Series("before", [(0, before), (100, before)], 7, "dashed")]
    for (kind, negatives), points in sorted(curves.items(), key=lambda x: (x[0][0], not x[0][1])):
        what = "floor of unknown" if kind == "floor" else f"{kind}, {'with' if negatives else 'no'}"
        name = what if kind == "floor" else f"{what} negatives"
        colour = {"unknown": 1, "known": 0, "floor": 2}[kind]
        style = "line" if negatives else "dashed"
        series.append(Series(name, sorted(set(points)), colour, style))
    chart(
        out / "partial.svg",
        "T-ASR of known and unknown triggers against the share of triggers that are known",
        "planted triggers known, per cent",
        "T-ASR, per cent",
        series,
    )
    return [*lines, "![T-ASR against the share of triggers known](partial.svg)", ""]


def again(cells: Sequence[Record], out: Path) -> list[str]:
    if not cells:
        return ["## An attacker tries again", "", f"{LATER}.", ""]
    first = (
        next(cell for cell in cells if cell["trigger"])
        if any(cell["trigger"] for cell in cells)
        else cells[0]
    )
    lines = [
        "## An attacker tries again",
        "",
        f"{first['plm']}: the clean, the purified and the backdoored PLM, all weights fine-tuned "
        f"on {first['rows']} rows of {first['task']}, of which none is poisoned, or "
        f"{first['poisoned']} carry a planted trigger and the wrong label. Success: texts of other "
        "labels that are predicted as that label with the trigger in them; mean over the triggers.",
        "",
    ]
    rows, series = [], []
    for number, start in enumerate(("clean", "purified", "backdoored")):
        for poisoned, style in ((True, "line"), (False, "dashed")):
            having = [
                c for c in cells if c["start"] == start and (c["trigger"] is not None) == poisoned
            ]
            if not having:
                continue
            curve = mean_curve(having)
            plain = mean_curve(having, "untriggered")
            name = f"{start}, {'1 % poisoned' if poisoned else 'clean texts'}"
            series.append(Series(name, curve, number, style))
            picked = [curve[round(i * (len(curve) - 1) / 4)] for i in range(5)]
            rows.append(
                (start, "1 %" if poisoned else "none", *(one(y) for _, y in picked),
                 one(plain[-1][1]))
            )  # fmt: skip
            steps = [x for x, _ in picked]
    head = ("starts as", "poisoned", *(f"step {x:g}" for x in steps), "last, no trigger")
    lines += [*table(head, rows, left=2), ""]
    chart(
        out / "again.svg",
        "Success of triggers while the clean, purified and backdoored PLM are fine-tuned",
        "optimiser steps",
        "success, per cent",
        series,
    )
    return [*lines, "![Success over steps of fine-tuning](again.svg)", ""]


def mean_curve(cells: Sequence[Record], key: str = "success") -> list[tuple[float, float]]:
    found: dict[int, list[Record]] = {}
    for cell in cells:
        for point in cell["curve"]:
            values = point[key]
            found.setdefault(point["step"], []).extend(
                values.values() if key == "success" else [values]
            )
    return [(step, rate(parts)) for step, parts in sorted(found.items())]


def tuning(cells: Sequence[Record]) -> list[str]:
    if not cells:
        return ["## Fine-tuned with all weights", "", f"{LATER}.", ""]
    lines = [
        "## Fine-tuned with all weights",
        "",
        f"{cells[0]['rows']} rows, epochs: {cells[0]['epochs']}. *With copies*: the backdoored "
        "PLM, fine-tuned with triggered copies (`triggerfish.purify.TriggeredCopies`) of "
        "what the scan found.",
        "",
    ]
    rows = []
    for cell in cells:
        pure, copies = ({"task": cell[key]} for key in ("purified", "copies"))
        found, guarded = t_asr(pure), t_asr(copies)
        values = [found["before"], found["after"], guarded["after"], found["floor"]]
        values += [found["own"], guarded["own"], found["own_floor"]]
        values += [rate([accuracy(pure, key)]) for key in ("clean", "before", "after")]
        values.append(rate([accuracy(copies, "after")]))
        rows.append((cell["plm"], cell["task"], *(one(x) for x in values)))
    head = (
        "PLM",
        "task",
        "T-ASR before",
        "purified",
        "with copies",
        "floor",
        "own label, purified",
        "with copies",
        "own floor",
        "accuracy clean PLM",
        "before",
        "purified",
        "with copies",
    )
    return [*lines, *table(head, rows, left=2), ""]


def render(out: Path) -> None:
    """Write README.md and the figures."""
    lines = [
        "# Purification, measured",
        "",
        "Rendered by `python benchmarks/purify.py --table` from the records here. Rates in per "
        "cent. What the methods are: [docs/purify_baselines.md](../../docs/purify_baselines.md).",
        "",
        *grid(read(out, "grid")),
        *original(read(out, "original")),
        *baselines(read(out, "baselines"), out),
        *partial(read(out, "partial"), out),
        *again(read(out, "again"), out),
        *tuning(read(out, "tuning")),
    ]
    text = "\n".join(lines).rstrip() + "\n"
    write_text(out / "README.md", text)
