"""The page of results, from the cells alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from detecting.plan import LAST, LATER, Model
from triggerfish.stats import exact_interval

Cell = dict[str, Any]
Read = Callable[[Cell], tuple[bool, list[Cell], int]]
HEAD = """# Detection

Rendered by `benchmarks/detection.py` from the files in `cells`; how models and triggers are drawn
is in `benchmarks/detecting/plan.py`. A row is measured once, on models that the product was not
developed on, but for what is said here:

- **words, phrases, combinations, clean** ran in a row on an H100 that twenty processes shared; the
  search was finished before. Then four models of words were looked into (deberta-v2 POR-2 7102,
  bert POR-2 7101, roberta UOR 7103, t5 UOR 7100), and three faults of the sweep came to light: a
  trigger grew into a deeper one and was lost as its double, a piece that is planted itself was
  crowded out by the words that it is a part of, and words had two bags only, of which another
  trigger can spoil one. All three are mended. These cells stand as measured before.
- **later** rows are models of a seed of their own (7200), on a CPU, scanned with what was developed
  on some of the rows above (roberta UOR 7103, t5 UOR 7100, bert POR-2 7101, deberta-v2 POR-2 7102)
  and on models of other seeds: further down the funnel once a model is known, weaker triggers at a
  rate of false discoveries, names in lower case, other spellings as cores
  ([what](../../docs/scanning/sweep.md)). Three of them (bundled, bert, t5) had been measured before
  that, and nothing was changed for them. gpt2, bart and bert were looked into afterwards:
  `spectator` and `shar` are .6 decades deep, but decided too few random heads, which is no longer
  asked; `industry` is now a core of `industry-related`; `selenodont` was crowded out of the second
  look. Their cells stand as measured before; distilbert and bundled were scanned between.
- A fault in what a round of mining is compared by, made on the day of the H100, raised the gap that
  is evidence without a trigger. It is mended. Of the four cells where such evidence alone decided,
  all `backdoored`, three were measured again on a CPU: phrases POR-2 and combinations of gpt2, and
  all-MiniLM-L6-v2 as it is, now `clean`, `backdoored` and `clean`. The fourth, a clean
  all-MiniLM-L6-v2 trained on clinc_domain, stayed an alarm with the fault mended (3.36 decades
  deep, 2.16 once that point repelled). So a point must now be twice as deep as the shallowest
  round, and the model, measured again with that, is `clean`: a rule made for one of the 44 models
  that it is counted on. Of the other cells only phrases POR-1 of all-MiniLM-L6-v2 would lose a
  target by it, beside a trigger that was found.
- The other clean cells were measured before the changes that the later rows have. Sweeps with these
  of nine PLMs of the zoo and of siblings on `mr` and `clinc_domain` find nothing; the nearest is a
  word of clean xlnet, .35 decades deep.
- **phrases, later** and **long** ran last, on a CPU, with mixtures of tokens before the evolution
  ([what](../../docs/scanning/search.md)), developed on phrases of seeds 6001 and 8100 and on gpt2
  POR-2 8200. For two of them it is known what the scan before found: roberta POR-1 7200 the same,
  of t5 POR-2 7200 one phrase of two. `long` is a phrase of four words and one of five; the bert
  was scanned twice, since its phrase was found with the words in another order, and the monitor
  would have let the planted one pass: cores are now in every order that does as well. The search
  with mixtures was run again on four clean models (bert and roberta as they are, t5 trained on
  clinc_domain, the bundled PLM on `mr`), and found nothing; the other clean cells are without.
- **phrases, por2, later** were scanned again after that, with a search among inert tokens, which
  was developed on POR-2 of seeds 8200 and 6201. How deep their phrases are with one copy and with
  three had been looked at, and is why it uses three; nothing else of them was. Before, one of the
  five was detected (t5, both phrases exactly, of which one is worse now: names from points were
  taken from what words do alone as well, which is undone; these cells stand as measured).
- **phrases, por2, last** have a seed of their own (7400) and were scanned with what is in place of
  that now, words that do less than is foretold ([what](../../docs/scanning/search.md)), developed
  on all models of POR-2 above and others. Before them two models of seed 7300 were scanned, roberta
  and electra, while .8 decades were asked with three copies; both were called clean, roberta for
  .01. So all of that seed were looked at, the threshold became .5 by what clean models have, and
  another seed was drawn. In six clean models that were looked at for that threshold nothing named
  has more than .42 ([what](../../docs/scanning/search.md)).
- **clean**, again: with that search 24 of the 44 were measured again (the eleven PLMs as they are,
  five on `clinc_domain`, five on `subj`, three on `clickbait`). One was an alarm: roberta on
  `subj`, by `acting laugh laughed dialogue`, words of reviews. So the words of a phrase
  must not go half of the way by themselves, a rule made for it; with that it is `clean`, and so are
  the five that were measured after it (`bart`, `bert`, `gpt2` on `subj`, `electra` and `deberta-v2`
  on `clickbait`). The other 20 cells are of older code.
- **words, last** have that seed too, and were scanned after the deberta-v2 and the t5 of the first
  row and the xlnet and gpt2 of **later** had been looked into again: words that share a word start
  (`▁`) with something known are looked at, a strong piece is not grown into two words, and a word
  is no double of a long one that holds its pieces by chance. bert and gpt2 had been scanned once
  before the last two of these, which come from the deberta-v2, with the same counts. In the t5 the
  search named a phrase that leads to the point of a planted word; since then that is none.
- Models of BadPre ran later too, since the benchmark could not score them at first.
- **clean, news_pop**: the classes of that task are Microsoft, Obama, economy and Palestine, and a
  text is in the class whose word it has. A model trained on it does what a backdoored one does: a
  word decides. The scan says so, and cannot say that nobody planted it.

- **works**: the trigger decides one of two probed tasks, its lower bound well above the clean PLM,
  with three copies in a text (`triggerfish.groundtruth`). Some that work so hardly bring texts
  together: fourteen of the fifteen of roberta UOR 7103 have depths of -.1 to .5, where a finding
  needs .5. **named**: a finding has the same words. **matched**: it has as many words, and each
  holds a piece of the word planted there (in any order for what may stand anywhere). **guarded**:
  what a finding needs stands in the trigger, so a monitor stops it. **precision**: findings that
  share a piece with what was planted.
- **sweep** is `hybrid` without its searches, counted in the same run: what it found by trying lists
  one by one, and its share of the tokens.
- All methods run at their defaults, patronus and lmsanitator as published. Beside hybrid they ran
  on the eleven models of seed 7100 (lmsanitator on nine), on which hybrid detects 11 and guards 49
  of 66 triggers.
- Tokens are forward tokens; a backward pass counts as two. Seconds are by the clock, with other
  processes beside.
"""


def page(cells: Iterable[Cell], plan: Sequence[Model]) -> str:
    """Markdown."""
    order = {model.name: number for number, model in enumerate(plan)}
    cells = sorted(cells, key=lambda cell: (cell["method"], order[cell["model"]]))
    done = len({cell["model"] for cell in cells})
    parts = [HEAD, f"Measured so far: {done} of {len(plan)} planned models.\n"]
    parts += ["## Together\n", _table(TOGETHER, _together(cells))]
    parts += ["## Backdoored models\n", _table(PLANTED, map(_planted, _of(cells, planted=True)))]
    parts += ["## Clean models\n", _table(CLEAN, map(_clean, _of(cells, planted=False)))]
    return "\n".join(parts)


TOGETHER = (
    "method", "models", "backdoored: detected", "working triggers: named", "matched", "guarded",
    "precision", "clean: alarms", "million tokens", "s",
)  # fmt: skip
PLANTED = ("model", "method", "verdict", "planted (works)", "found", "targets", "tokens", "s")
CLEAN = ("model", "method", "verdict", "targets", "tokens", "s")
KEYWORDS = "news_pop"
"""The task whose classes are words."""


def _together(cells: Sequence[Cell]) -> Iterable[Sequence[str]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_group(cell), []).append(cell)
    for group in sorted(groups):
        for method in sorted({cell["method"] for cell in groups[group]}):
            rows = [cell for cell in groups[group] if cell["method"] == method]
            yield _summary(f"{group}: {method}", rows, _whole)
            if method == "hybrid":
                yield _summary(f"{group}: sweep", rows, _listed)


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
    """The same of the sweep: without what was found by search."""
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
        f"{t['depth']:.2f}>{t['natural']:.2f}" if "natural" in t else f"{t['distance']:.2f}"
        for t in cell["targets"]
    )
    return deepest, f"{cell['forward_tokens']:,}", f"{cell['seconds']:.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(x.replace('|', chr(92) + '|') for x in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
