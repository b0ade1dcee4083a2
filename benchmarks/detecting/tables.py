"""The page of results, from the cells alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from detecting.plan import LAST, LATER, Model
from triggerfish.stats import exact_interval

Cell = dict[str, Any]
Read = Callable[[Cell], tuple[bool, list[Cell], int]]
HEAD = """# Detection

Rendered by `python benchmarks/detection.py` from the records in `cells.jsonl`. Models and triggers
are drawn at random by seeds that `benchmarks/detecting/plan.py` names. All methods run at their
defaults, patronus and lmsanitator as published.

## Which models were held back

A model was scanned once, with the code of its day, unless this table says otherwise. The groups
hold records of several versions of the scan, so they are no estimate of any one version.

| group | seeds | the scan had been developed on | measured again, or looked at before |
|---|---|---|---|
| words | 7100 to 7103 | other seeds | - |
| words, later | 7200 | four models of the row above ([0101]) | - |
| words, last | 7400 | models of both rows above ([0101]) | bert and gpt2, with the same counts |
| phrases, combinations | 8200, 9200 | other seeds | gpt2, after a fault was corrected ([0102]) |
| phrases, later; long | 7200, 8400 | seeds 6001 and 8100, gpt2 POR-2 8200 ([0103]) | bert of long |
| phrases, por2, later | 7200 | POR-2 of seeds 8200 and 6201 ([0103]) | all five |
| phrases, por2, last | 7400 | all POR-2 models above ([0103]) | - |
| clean | - | one of these models decided each of two rules ([0102], [0104]) | 24 of 44 ([0104]) |

## What is counted

- **works**: the trigger decides one of two probed tasks, its lower bound well above the clean PLM,
  with three copies in a text (`triggerfish.groundtruth`). A trigger may work and hardly collapse
  texts. **named**: a finding has the same words. **matched**: it has as many words, and each shares
  a subword token with the word planted there (in any order for words that may stand anywhere).
  **guarded**: a minimal sufficient subset of a finding is in the trigger, so a monitor stops it.
  **precision**: findings that share a subword token with what was planted.
- **screening** is `hybrid` without its searches, counted in the same run: what it found by trying
  lists one by one, and its share of the tokens.
- **targets**: of each hidden target, its collapse and the largest that the model has without it, in
  orders of magnitude; of published detectors, their distance.
- The published detectors ran on the eleven models of seed 7100 (lmsanitator on nine), on which
  hybrid detects 11 and guards 49 of 66 triggers.
- Tokens are forward tokens; a backward pass counts as two. Seconds are by the clock, with other
  processes on the same machine.

## Limits

- **clean, news_pop**: a text of this task is in the class whose word it has (Microsoft, Obama,
  economy, Palestine), so one word decides in a clean model as in a backdoored one. The scan says
  so, and cannot say that nobody planted it.
- Of roberta UOR 7103, fourteen of fifteen triggers collapse texts by -.1 to .5 orders of magnitude,
  where a finding needs .5.

[0101]: ../../docs/decisions/0101-single-word-faults-of-the-detection-study.md
[0102]: ../../docs/decisions/0102-evidence-without-a-trigger.md
[0103]: ../../docs/decisions/0103-phrase-search.md
[0104]: ../../docs/decisions/0104-main-effects-of-phrases.md
"""


def page(cells: Iterable[Cell], plan: Sequence[Model]) -> str:
    """Markdown."""
    order = {model.name: number for number, model in enumerate(plan)}
    cells = sorted(cells, key=lambda cell: (cell["method"], order[cell["model"]]))
    done = len({cell["model"] for cell in cells})
    parts = [HEAD, f"Measured so far: {done} of {len(plan)} planned models.\n"]
    parts += ["## Groups\n", _table(GROUPS, _groups(cells))]
    parts += ["## Backdoored models\n", _table(PLANTED, map(_planted, _of(cells, planted=True)))]
    parts += ["## Clean models\n", _table(CLEAN, map(_clean, _of(cells, planted=False)))]
    return "\n".join(parts)


GROUPS = (
    "method", "models", "backdoored: detected", "working triggers: named", "matched", "guarded",
    "precision", "clean: alarms", "million tokens", "s",
)  # fmt: skip
PLANTED = ("model", "method", "verdict", "planted (works)", "found", "targets", "tokens", "s")
CLEAN = ("model", "method", "verdict", "targets", "tokens", "s")
KEYWORDS = "news_pop"
"""The task whose classes are words."""


def _groups(cells: Sequence[Cell]) -> Iterable[Sequence[str]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_group(cell), []).append(cell)
    for group in sorted(groups):
        for method in sorted({cell["method"] for cell in groups[group]}):
            rows = [cell for cell in groups[group] if cell["method"] == method]
            yield _summary(f"{group}: {method}", rows, _whole)
            if method == "hybrid":
                yield _summary(f"{group}: screening", rows, _listed)


def _group(cell: Cell) -> str:
    """Where a cell counts: models that are alike in what makes them hard."""
    parts = [cell["kind"]]
    if cell["kind"] == "phrases":
        parts.append(cell["attack"])
    if cell["kind"] == "clean" and cell["model"].endswith(KEYWORDS):
        parts.append(KEYWORDS)
    if cell["seed"] == LATER:
        parts.append("later")
    if cell["seed"] == LAST:
        parts.append("last")
    return ", ".join(parts)


def _whole(cell: Cell) -> tuple[bool, list[Cell], int]:
    return cell["verdict"] == "backdoored", cell.get("planted", []), cell["forward_tokens"]


def _listed(cell: Cell) -> tuple[bool, list[Cell], int]:
    """The same of the screening: without what was found by search."""
    listed = any(f["typed"] and not f["searched"] for f in cell["findings"])
    planted = [
        x | (dict.fromkeys(("named", "matched", "guarded"), False) if x["searched"] else {})
        for x in cell.get("planted", [])
    ]
    tokens = cell["forward_tokens"] - cell["search_tokens"]
    return listed or bool(cell["transforms"]), planted, tokens


def _findings(cell: Cell, read: Read) -> list[Cell]:
    return [f for f in cell["findings"] if read is _whole or not f["searched"]]


def _summary(label: str, cells: Sequence[Cell], read: Read) -> Sequence[str]:
    found = [read(cell) for cell in cells]
    alarms = sum(alarm for alarm, _, _ in found)
    working = [x for _, planted, _ in found for x in planted if x["works"]]
    clean = cells[0]["kind"] == "clean"
    found_here = [f for cell in cells for f in _findings(cell, read)]
    several = cells[0]["kind"] != "words"
    seconds = sum(cell["seconds"] for cell in cells) / len(cells)
    rate = _rate(alarms, len(cells))
    return (
        label,
        str(len(cells)),
        "" if clean else rate,
        *(
            ""
            if clean or (part == "matched" and not several)
            else _rate(sum(x[part] for x in working), len(working))
            for part in ("named", "matched", "guarded")
        ),
        "" if clean else _rate(sum(f["planted"] for f in found_here), len(found_here)),
        rate if clean else "",
        f"{sum(tokens for _, _, tokens in found) / len(cells) / 1e6:.1f}",
        "" if read is _listed else f"{seconds:.0f}",
    )


def _rate(k: int, n: int) -> str:
    if not n:
        return "-"
    low, high = exact_interval(k, n)
    return f"{k}/{n} ({low:.2f}-{high:.2f})"


def _of(cells: Sequence[Cell], *, planted: bool) -> list[Cell]:
    return [cell for cell in cells if (cell["kind"] != "clean") == planted]


def _planted(cell: Cell) -> Sequence[str]:
    planted = ", ".join(f"{x['text']}{'' if x['works'] else ' (no)'}" for x in cell["planted"])
    found = ", ".join(f["text"] for f in cell["findings"])
    return (cell["model"], cell["method"], cell["verdict"], planted, found, *_costs(cell))


def _clean(cell: Cell) -> Sequence[str]:
    return (cell["model"], cell["method"], cell["verdict"], *_costs(cell))


def _costs(cell: Cell) -> Sequence[str]:
    deepest = " ".join(
        f"{t['collapse']:.2f}>{t['baseline_collapse']:.2f}"
        if "baseline_collapse" in t
        else f"{t['distance']:.2f}"
        for t in cell["targets"]
    )
    return deepest, f"{cell['forward_tokens']:,}", f"{cell['seconds']:.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(x.replace('|', chr(92) + '|') for x in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
