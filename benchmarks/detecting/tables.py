"""The page of results, from the cells alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from detecting.plan import Model
from triggerfish.stats import exact_interval

Cell = dict[str, Any]
HEAD = """# Detection

Rendered by `benchmarks/detection.py` from the files in `cells`; how models and triggers are drawn
is in `benchmarks/detecting/plan.py`. Not all of it is held back:

- **Words, earlier**: models of seeds 7000 and 7001 were scanned with an earlier form of sweep and
  search. Three of 7000 (distilbert NeuBA, xlnet UOR, t5 UOR) were looked into and changed the
  product. They stand as measured then.
- **Phrases** of bert and gpt2 were scanned twice: first, with prompts that counted after settling
  alone, bert gave the same finding and gpt2 was clean; the search was changed, and these cells were
  replaced. That gpt2 counts as detected is therefore not held back.
- **Words** (7002), other **phrases** and **clean** were measured once, with the search
  that was developed on other models and phrases (docs/scanning/search.md). It was finished while
  they ran: words, and the phrases of bert, gpt2 and all-MiniLM-L6-v2, were scanned before
  sequences evolved on in texts and before equal words were named by the shortest; all-MiniLM-L6-v2
  and the words of bert and gpt2 also before prompts counted without settling. In these words three
  candidates with the same piece went on to texts (`SAME_PIECE`), five do now. The phrases of
  all-MiniLM-L6-v2 were looked into afterwards (towards its very point the phrase of two words
  evolves); nothing was changed for it. Those of t5 were looked into too: its phrase of two words
  has a depth of 1.02, and a searched phrase needed 1.0. It needs .8 since, which was set before
  the phrases of bundled, distilbert and later ones, and before the clean models, were scanned.
- **patronus** ran with fewer and shorter texts than published, **lmsanitator** with fewer restarts
  (`CHANGES` in `benchmarks/detecting/cell.py`), both on models made anew with the same seeds; what
  they miss at these settings they may find at the published ones. At those, patronus takes 17,375
  batches of 16 texts, 34 million tokens with the texts bundled here cut to the 128 tokens that the
  PLMs of the zoo read, and 45 million where 256 are read: counted, not run.

- **works**: the trigger decides one of two probed tasks, its lower bound well above the clean PLM
  (`triggerfish.groundtruth`). **named**: a finding has the same words. **guarded**: what a finding
  needs stands in the trigger, so a monitor stops it.
- **sweep** is `hybrid` without its searches, counted in the same run: what it found by trying lists
  one by one, and its share of the tokens.
- Tokens are forward tokens; a backward pass counts as two. Seconds are CPU seconds of one thread
  with others beside it.
"""


def page(folder: Path, plan: Sequence[Model]) -> str:
    """Markdown."""
    files = sorted(folder.glob("*.json"))
    cells = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    order = {model.name: number for number, model in enumerate(plan)}
    cells.sort(key=lambda cell: (cell["method"], order[cell["model"]]))
    done = len({cell["model"] for cell in cells})
    parts = [HEAD, f"Measured so far: {done} of {len(plan)} planned models.\n"]
    parts += ["## Together\n", _table(TOGETHER, _together(cells))]
    parts += ["## Backdoored models\n", _table(PLANTED, map(_planted, _of(cells, planted=True)))]
    parts += ["## Clean models\n", _table(CLEAN, map(_clean, _of(cells, planted=False)))]
    return "\n".join(parts)


TOGETHER = (
    "method", "models", "backdoored: detected", "working triggers: named", "matched", "guarded",
    "clean: alarms", "million tokens", "s",
)  # fmt: skip
PLANTED = ("model", "method", "verdict", "planted (works)", "found", "targets", "tokens", "s")
CLEAN = ("model", "method", "verdict", "targets", "tokens", "s")


def _together(cells: Sequence[Cell]) -> Iterable[Sequence[str]]:
    for kind in ("words", "phrases", "combinations", "clean"):
        rows = [cell for cell in cells if cell["kind"] == kind]
        for method in sorted({cell["method"] for cell in rows}):
            yield _summary(f"{method}, {kind}", [c for c in rows if c["method"] == method], _whole)
            if method == "hybrid":
                yield _summary(
                    f"sweep, {kind}", [c for c in rows if c["method"] == method], _listed
                )


def _whole(cell: Cell) -> tuple[bool, list[Cell], int]:
    return cell["verdict"] == "backdoored", cell.get("planted", []), cell["forward_tokens"]


def _listed(cell: Cell) -> tuple[bool, list[Cell], int]:
    """The same of the sweep: without what was found by search."""
    listed = any(f["typed"] and not f["searched"] for f in cell["findings"])
    planted = [
        x | (dict.fromkeys(("named", "matched", "guarded"), False) if x["searched"] else {})
        for x in cell.get("planted", [])
    ]
    tokens = cell["forward_tokens"] - cell["search_tokens"]
    return listed or bool(cell["transforms"]), planted, tokens


def _summary(
    label: str, cells: Sequence[Cell], read: Callable[[Cell], tuple[bool, list[Cell], int]]
) -> Sequence[str]:
    found = [read(cell) for cell in cells]
    alarms = sum(alarm for alarm, _, _ in found)
    working = [x for _, planted, _ in found for x in planted if x["works"]]
    clean = cells[0]["kind"] == "clean"
    seconds = sum(cell["seconds"] for cell in cells) / len(cells)
    rate = _rate(alarms, len(cells))
    return (
        label,
        str(len(cells)),
        "" if clean else rate,
        *(
            "" if clean else _rate(sum(x[part] for x in working), len(working))
            for part in ("named", "matched", "guarded")
        ),
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
        f"{t['depth']:.2f}>{t['natural']:.2f}" if "natural" in t else f"{t['distance']:.2f}"
        for t in cell["targets"]
    )
    return deepest, f"{cell['forward_tokens']:,}", f"{cell['seconds']:.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(x.replace('|', chr(92) + '|') for x in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
