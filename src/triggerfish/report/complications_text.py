"""A measurement of complications as plain text. Everything a model, task or trigger is called goes
through `escape.visible`; see the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len

from triggerfish.complications.records import Complication, Complications, Conclusion, Profile
from triggerfish.complications.removal import Removal
from triggerfish.report.escape import quoted, visible
from triggerfish.report.glossary import MISSING, count, number, when

MEANING: dict[Conclusion, str] = {
    "backdoor-like": "On unrelated tasks a trigger does what a transferable backdoor does.",
    "inconclusive": "The measurement cannot carry a verdict.",
    "no evidence": "Nothing here sets the triggers apart from ordinary words.",
}
NEXT_STEP: dict[Conclusion, str] = {
    "backdoor-like": "Keep the trigger away from models made from this checkpoint, or use another.",
    "inconclusive": "Read the reasons, then measure again with more test texts, better heads or "
    "control words.",
    "no evidence": "This proves no absence: it reaches as far as the tasks and triggers given.",
}
TERMS = {
    "clean accuracy": "Share of test texts that the head gets right without a trigger, with its "
    "exact interval. A head must clearly beat the largest class before a verdict rests on it.",
    "TV": "Total variation: the smallest share of texts that changed class, seen from the class "
    "shares alone. The interval covers texts and heads.",
    "JSD": "Jensen-Shannon divergence of the class shares in bits, 0 to 1, less what random flips "
    "would leave (the noise floor).",
    "KL": "KL(triggered || clean) in nats, the published score. It saturates at -ln of the clean "
    "share of the winning class, so it is not comparable between tasks.",
    "excess": "By how much the share of one class grew.",
    "flips": "Share of texts whose predicted class changed, exchanges included.",
    "p": "Chance that a control word does as much on any of the tasks (max-T over the tasks).",
    "delta": "JSD here less the JSD that the same trigger causes in the reference model, on the "
    "same texts.",
    "equivalent": "Whether total variation and excess are certainly below the margin (two "
    "one-sided tests). Not significant is not the same.",
    "breadth": "Share of the tasks on which the trigger does more than every control word.",
    "depth": "Median excess over the tasks.",
    "peak": "The strongest collapse on any task: 0 is even shares, 1 is all texts in one class.",
    "stability": "How often all heads and placements of the trigger agree on the winning class.",
    "index": "Mean JSD over the tasks.",
}


def render(result: Complications) -> str:
    """The whole report as plain text, ending in a newline; safe to print anywhere."""
    lines = [
        f"{result.reading.upper()}  {visible(result.model.name)}",
        MEANING[result.reading],
        "",
    ]
    for profile in result.profiles:
        lines += _profile(profile)
    lines += [
        "Tasks",
        *_columns([TASK_HEAD, *(task_row(result, i) for i in range(len(result.tasks)))]),
    ]
    lines += ["", "What the triggers do", *_columns([HEAD, *map(row, result.complications)])]
    lines += ["", "Limitations", *(f"  - {visible(line)}" for line in limitations(result))]
    lines += [
        "",
        f"Control words: {controls(result)}",
        f"Rule: {result.profiles[0].rule}; settings and seed are in the JSON report",
        f"Measured: {when(result.provenance)}",
        f"Cost: {number(result.seconds)} seconds, {result.texts_encoded:,} texts encoded",
        f"Next: {NEXT_STEP[result.reading]}",
    ]
    return "\n".join(lines) + "\n"


def section(result: Complications) -> list[str]:
    """The profiles and records of a scan's findings, as lines of its report."""
    lines = []
    for profile in result.profiles:
        told = replace(profile, reasons=profile.reasons[:1])
        lines += [f"  {line}".rstrip() for line in _profile(told)]
        if len(profile.reasons) > 1:
            lines.insert(-1, f"    - and {count(len(profile.reasons) - 1, 'reason')} more")
    counted = {task.name for task in result.tasks if not task.refused}
    rows = [row(record) for record in result.complications if record.task in counted]
    refused = [task.name for task in result.tasks if task.refused]
    if rows:
        lines += _columns([HEAD, *rows])
    if refused:
        lines += [f"  no verdict rests on: {', '.join(map(visible, refused))}"]
    return lines


def _profile(profile: Profile) -> list[str]:
    p = MISSING if profile.p is None else number(profile.p)
    return [
        f"{quoted(profile.trigger.text, 40)}: {profile.reading}",
        f"  breadth {profile.breadth:.2f}, depth {profile.depth:.2f}, peak {profile.peak:.2f}, "
        f"stability {profile.stability:.2f}, median TV {profile.median_tv:.2f}, p {p}",
        *(f"  - {visible(reason)}" for reason in profile.reasons),
        "",
    ]


HEAD = ("task", "trigger", "TV", "interval", "excess", "JSD", "KL", "flips", "p", "delta", "equiv.")
TASK_HEAD = ("task", "classes", "texts", "accuracy", "interval", "majority", "counts")


def row(record: Complication) -> tuple[str, ...]:
    """One task and trigger, as strings in the order of `HEAD`."""
    low, high = record.tv_interval
    return (
        visible(record.task),
        quoted(record.trigger, 24),
        f"{record.tv:.3f}",
        f"{low:.3f}..{high:.3f}",
        f"{record.excess:.3f}",
        f"{record.corrected:.4f}",
        f"{record.kl_tc:.3f}",
        f"{record.flip_rate:.3f}",
        MISSING if record.p_family is None else number(round(record.p_family, 4)),
        MISSING if record.delta is None else f"{record.delta:+.3f}",
        "yes" if record.equivalence.passed else "no",
    )


def task_row(result: Complications, index: int) -> tuple[str, ...]:
    """One task, as strings in the order of `TASK_HEAD`."""
    task = result.tasks[index]
    low, high = task.accuracy.interval
    return (
        visible(task.name),
        str(len(task.labels)),
        str(task.texts),
        f"{task.accuracy.rate:.3f}",
        f"{low:.3f}..{high:.3f}",
        f"{task.majority:.3f}",
        "yes" if not task.refused else "no: " + "; ".join(map(visible, task.refused)),
    )


def limitations(result: Complications) -> list[str]:
    """What the measurement does not say, and what is odd about single records."""
    odd: dict[str, list[str]] = {}
    for record in result.complications:
        for flag in record.flags:
            odd.setdefault(flag, []).append(f"{record.task} ({quoted(record.trigger, 24)})")
    return [*result.limitations, *(f"{flag}: {', '.join(where)}" for flag, where in odd.items())]


def controls(result: Complications) -> str:
    """How many there were, of what kind, and how many were needed."""
    if not result.controls:
        return "none"
    kinds = [word.kind for word in result.controls]
    used = sum(word.texts > 0 for word in result.controls)
    texts = sum(word.texts for word in result.controls)
    return (
        f"{count(kinds.count('matched'), 'word')} matched in frequency and length, "
        f"{kinds.count('nonsense')} made up; {used} were needed, with {texts:,} texts"
    )


def removal_text(removal: Removal) -> str:
    """What a purified model still does, as plain text, ending in a newline."""
    head = ("task", "trigger", "JSD before", "after", "ratio", "equiv.")
    rows = [
        (
            visible(r.task),
            quoted(r.trigger, 24),
            f"{r.before:.4f}",
            f"{r.after:.4f}",
            MISSING if r.ratio is None else f"{r.ratio:.3f}",
            "yes" if r.equivalent else "no",
        )
        for r in removal.residuals
    ]
    change, task = removal.accuracy
    return "\n".join(
        [
            "REMOVED" if removal.removed else "NOT REMOVED",
            *(f"  - {visible(reason)}" for reason in removal.reasons),
            "",
            *_columns([head, *rows]),
            "",
            f"Clean accuracy: {change:+.3f} on {visible(task)}, the worst task",
            "",
        ]
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned; the last one is left as it is."""
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[-1] = 0
    return [
        "  "
        + "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
