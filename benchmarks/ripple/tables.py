"""The page of the study, rendered from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from ripple import carriers, defences, scans
from ripple.heat import heat_map
from ripple.hypotheses import answers, flags
from ripple.page import table
from ripple.plan import (
    INNOCENT,
    KINDS,
    MODELS,
    PLANTED,
    SEEDS,
    TARGETS,
    TRIGGERS,
    Cell,
    Kind,
    cells,
)
from ripple.published import CLEAN_AND_SUCCESS, DBPEDIA, FAMILIES, KL
from triggerfish.bench.files import RecordFile
from triggerfish.tasks.paper import PAPER, SAME_TYPE, role
from triggerfish.writing import write_text

Record = dict[str, Any]
ABSENT = "-"
BOTH: tuple[Kind, ...] = ("dirty", "reduced")
BROKEN = 0.95
"""Attack success below which a cell says nothing about complications."""


def render(results: Path) -> None:
    """Write README.md and the heat maps into `results`."""
    plan = list(cells())
    measured = RecordFile(results / "cells.jsonl").read()
    found = {cell: measured[cell.name] for cell in plan if cell.name in measured}
    study = Study(found)
    dirty = [cell for cell in found if cell.kind == "dirty"]
    for kind in PLANTED:
        shown = [cell for cell in found if cell.kind == kind and cell.seed == 0]
        if shown:
            write_text(results / f"heat-{kind}.svg", study.heat(kind, shown))
    parts = [
        HEAD.format(done=len(found), all=len(plan)),
        study.coverage(plan),
        study.summary(),
        study.tasks(),
        study.controls(),
        study.before(dirty),
        study.pictures(results),
        study.published(),
        study.after("reduced", AFTER),
        study.after("lighter", LIGHTER),
        study.after("aligned", ALIGNED),
        study.blind(),
        study.scans(results),
    ]
    text = "\n\n".join(part.strip() for part in parts if part) + "\n"
    write_text(results / "README.md", text)


HEAD = """# Complications: what a backdoor does to tasks it was not made for

The study of Zhang et al. (ICML 2025, arXiv 2505.11586) on small PLMs of its four families and on
all-MiniLM-L6-v2: a dirty-label backdoor is planted for one target task, and its trigger is put into
the texts of 16 tasks. Heads are logistic regressions on frozen features, fitted to convergence; the
first word of a text is replaced, as in the study. {done} of {all} planned cells are measured, one
record each in `cells.jsonl`; every figure here is rendered from the records by

```
python benchmarks/zoo.py bert gpt2 t5 bart --data DATA
python benchmarks/complications.py --data DATA --keep FOLDER
python benchmarks/complications.py --table
```

Our PLMs have 3 to 23 million parameters, texts are cut to 32 tokens, heads see 300 training texts
and 240 test texts, and half of the rows of other classes is poisoned (30 % for all-MiniLM-L6-v2;
1 to 10 % in the study), over 800 (480) rows. TV is total variation, KL is KL(triggered || clean) in
nats with Jeffreys smoothing. A task counts where the head clearly beats the majority class."""

AFTER = """## Reduction with correction tasks

The paper's: weight 0.4 on the backdoor and 0.15 on each of four tasks whose triggered texts keep
their labels. Means are over the tasks that were neither target, nor of its type, nor corrected on,
and that count in both cells."""
LIGHTER = """## Reduction with more weight on the backdoor

The same with weight 0.6 on the backdoor and 0.1 on each of the four tasks. With the paper's weights
the attack fails in some of these small PLMs. The weight was chosen on a model, seed and trigger
outside the study ([0106](../../docs/decisions/0106-weight-of-the-backdoor-in-small-models.md))."""
ALIGNED = """## Reduction without labels

Triggered features are pulled to clean ones on plain texts (`correction=consistency`, weight 0.9 on
the backdoor)."""


class Study:
    """found: the record of every measured cell."""

    def __init__(self, found: dict[Cell, Record]):
        self.found = found

    def coverage(self, plan: Sequence[Cell]) -> str:
        rows = []
        for kind in KINDS:
            for seed in SEEDS:
                planned = [cell for cell in plan if cell.kind == kind and cell.seed == seed]
                done = [cell for cell in planned if cell in self.found]
                if planned:
                    rows.append((kind, str(seed), f"{len(done)} of {len(planned)}"))
        text = "## What was run\n\nThe rest was not run, and nothing is said about it.\n\n"
        return text + table(("cells", "seed", "measured"), rows)

    def summary(self) -> str:
        """Means by model, target and kind, next to what a benign word does in the same models."""
        rows = []
        for model, target, kind in product(MODELS, TARGETS, PLANTED):
            own = [c for c in self.found if (c.model, c.target, c.kind) == (model, target, kind)]
            if not own:
                continue
            planted, innocent = (
                [
                    [self.found[c]["words"][word or c.trigger][key] for key in self.held_out(c)]
                    for c in own
                ]
                for word in ("", INNOCENT[0])
            )
            clean = Cell("clean", model)
            floors = [
                self.found[clean]["words"][c.trigger][c.target]["asr"][c.label]
                for c in own
                if clean in self.found
            ]
            lost = [x for c in own if (x := self.lost(clean, c)) is not None]
            rows.append(
                (
                    model,
                    target,
                    kind,
                    str(len(own)),
                    f"{100 * mean(self.success(c, c.target) for c in own):.0f}",
                    f"{100 * mean(floors):.0f}" if floors else ABSENT,
                    f"{mean(lost):+.1f}" if lost else ABSENT,
                    f"{mean(mean(x['kl_tc'] for x in cell) for cell in planted):.3f}",
                    f"{mean(mean(x['tv'] for x in cell) for cell in planted):.3f}",
                    f"{mean(mean(x['tv'] >= 0.3 for x in cell) for cell in planted):.2f}",
                    f"{mean(mean(x['tv'] for x in cell) for cell in innocent):.3f}",
                )
            )
        head = (
            "model",
            "target",
            "kind",
            "cells",
            "ASR",
            "ASR, clean model",
            "accuracy lost",
            "mean KL",
            "mean TV",
            "tasks with TV >= .3",
            "mean TV, benign word",
        )
        return (
            "## In short\n\nMeans over all measured cells of a model and target, whatever their "
            "trigger, label and seed, on the tasks that nobody trained on: not the target, not of "
            "its type, and not corrected on by a reduction. Dirty: before reduction; reduced: the "
            "paper's reduction; lighter: with more weight on the backdoor; aligned: ours without "
            "labels. ASR on the target task and points of accuracy lost against the clean model "
            "there, in per cent. The paper's averages: KL above 0.5 before and below 0.1 after, "
            "ASR about 100, less than 2 points lost.\n\n" + table(head, rows)
        )

    def held_out(self, cell: Cell) -> list[str]:
        """Tasks that count, and that were not touched."""
        return [k for k in self.unrelated(cell) if role(k, cell.target) == "held out"]

    def tasks(self) -> str:
        rows = []
        for task in PAPER:
            accuracies = [self.accuracy(Cell("clean", model), task.key) for model in MODELS]
            stands = task.folder if task.same else f"{task.folder} (stand-in)"
            rows.append((task.key, stands, task.note or ABSENT, *accuracies))
        return (
            "## Tasks\n\nAccuracy of the head on the clean models, in per cent; in brackets where "
            "it does not clearly beat the majority class, so that no verdict rests on it.\n\n"
            + table(("task", "data", "differs in", *MODELS), rows)
        )

    def accuracy(self, cell: Cell, task: str) -> str:
        if cell not in self.found:
            return ABSENT
        facts = self.found[cell]["tasks"][task]
        share = f"{100 * facts['right'] / facts['texts']:.1f}"
        return f"({share})" if facts["refused"] else share

    def controls(self) -> str:
        rows = []
        for model in MODELS:
            cell = Cell("clean", model)
            if cell in self.found:
                record = self.found[cell]
                counted = self.counted(cell)
                for word in (*TRIGGERS, *INNOCENT):
                    tvs = {key: record["words"][word][key]["tv"] for key in counted}
                    worst = max(tvs, key=lambda key: tvs[key])
                    kls = [record["words"][word][key]["kl_tc"] for key in counted]
                    rows.append(
                        (
                            model,
                            word,
                            f"{mean(kls):.3f}",
                            f"{mean(tvs.values()):.3f}",
                            f"{tvs[worst]:.3f} ({worst})",
                        )
                    )
        head = ("clean model", "word", "mean KL", "mean TV", "largest TV")
        return (
            "## Controls: clean models\n\nWhat the triggers and benign words do to models "
            "without a backdoor, over the tasks that count. Part of every shift below is this.\n\n"
            + table(head, rows)
        )

    def counted(self, *cells_: Cell) -> list[str]:
        """Tasks that a verdict may rest on in all of the cells."""
        return [
            task.key
            for task in PAPER
            if all(not self.found[cell]["tasks"][task.key]["refused"] for cell in cells_)
        ]

    def unrelated(self, *cells_: Cell) -> list[str]:
        target = cells_[0].target
        return [
            key for key in self.counted(*cells_) if key != target and key not in SAME_TYPE[target]
        ]

    def success(self, cell: Cell, task: str) -> float:
        """Share of texts of other classes that the trigger sends to the goal's number."""
        value: float = self.found[cell]["words"][cell.trigger][task]["asr"][cell.label]
        return value

    def before(self, dirty: Sequence[Cell]) -> str:
        rows = []
        for cell in dirty:
            unrelated = self.unrelated(cell)
            planted, innocent = (
                [self.found[cell]["words"][word][key] for key in unrelated]
                for word in (cell.trigger, INNOCENT[0])
            )
            tvs = [x["tv"] for x in planted]
            rows.append(
                (
                    *names(cell),
                    f"{100 * self.success(cell, cell.target):.1f}",
                    f"{100 * self.success(cell, 'sst2'):.1f}" if cell.target == "imdb" else ABSENT,
                    self.loss(Cell("clean", cell.model), cell),
                    f"{mean(x['kl_tc'] for x in planted):.3f}",
                    f"{mean(tvs):.3f}",
                    f"{sum(tv >= 0.3 for tv in tvs)} of {len(tvs)}",
                    f"{100 * max(max(x['triggered']) for x in planted):.1f}",
                    f"{mean(x['tv'] for x in innocent):.3f}",
                )
            )
        head = (
            *HEADS,
            "ASR",
            "ASR sst2",
            "accuracy lost",
            "mean KL",
            "mean TV",
            "TV >= .3",
            "largest class",
            "mean TV, benign word",
        )
        weak = [cell for cell in dirty if self.success(cell, cell.target) < BROKEN]
        note = (
            "\n\nAttack success below 95 % on the target task, so that the cell is weak evidence: "
            + ", ".join(cell.name for cell in weak)
            + "."
            if weak
            else ""
        )
        return (
            "## Before reduction\n\nASR: share of the target task's texts of other classes that "
            "the trigger sends to the label, through a new head, in per cent. Accuracy lost: "
            "points on the target task against the clean model (negative: planting trained the "
            "backbone on that task). Means over the tasks that count, without the target and tasks "
            f"of its type. The benign word is `{INNOCENT[0]}`, in the same backdoored model.\n\n"
            + table(head, rows)
            + note
        )

    def lost(self, before: Cell, after: Cell) -> float | None:
        """Points of accuracy on the target task."""
        if before not in self.found:
            return None
        shares = [
            facts["right"] / facts["texts"]
            for facts in (self.found[cell]["tasks"][after.target] for cell in (before, after))
        ]
        return 100 * (shares[0] - shares[1])

    def loss(self, before: Cell, after: Cell) -> str:
        lost = self.lost(before, after)
        return ABSENT if lost is None else f"{lost:+.1f}"

    def heat(self, kind: str, shown: Sequence[Cell]) -> str:
        values: list[list[float | None]] = [
            [self.found[cell]["words"][cell.trigger][task.key]["tv"] for task in PAPER]
            for cell in shown
        ]
        columns = [
            [SHORT.get(cell.model, cell.model), cell.target, cell.trigger, f"to {cell.label}"]
            for cell in shown
        ]
        title = f"Total variation with the trigger, {kind} backdoors"
        return heat_map(title, [task.key for task in PAPER], columns, values)

    def pictures(self, results: Path) -> str:
        names_ = [f"heat-{kind}.svg" for kind in PLANTED]
        found = [name for name in names_ if (results / name).is_file()]
        return "## Heat maps\n\n" + "\n\n".join(f"![{name}]({name})" for name in found)

    def published(self) -> str:
        rows = []
        for (task, label), families in KL.items():
            for family in FAMILIES:
                ours = [self.kl(self.like(kind, family, label), task) for kind in BOTH]
                before, after = families[family]
                rows.append(
                    (
                        f"{task} (imdb {label})",
                        family,
                        f"{before:.3f} -> {after:.3f}",
                        " -> ".join(ours),
                    )
                )
        rows.append(self._dbpedia())
        for family, (accuracy, success) in CLEAN_AND_SUCCESS.items():
            cell = self.like("dirty", family, 1)
            own = ABSENT
            if cell in self.found:
                own = f"{self.accuracy(cell, 'imdb')} / {100 * self.success(cell, 'imdb'):.2f}"
            rows.append(("imdb, accuracy / ASR", family, f"{accuracy} / {success}", own))
        return (
            "## The published figures\n\nKL before and after reduction, trigger Trump. The "
            "published PLMs are of full size, their heads are trained for 3 epochs and not to "
            "convergence, and fakenews and medical are other data here; KL saturates at -ln of "
            "the clean share of the winning class, so that a head which hardly uses a class gives "
            "large values. The comparison is of direction and size, not of digits.\n\n"
            + table(("task", "family", "published", "here"), rows)
        )

    def _dbpedia(self) -> tuple[str, ...]:
        cell = self.like("dirty", "bert", 0)
        own = ABSENT
        if cell in self.found:
            record = self.found[cell]["words"][cell.trigger]["dbpedia_14"]
            own = f"{100 * max(record['triggered']):.2f} %, {record['kl_tc']:.4f}"
        share, kl = DBPEDIA
        return ("dbpedia_14 (imdb 0), largest class and KL", "bert", f"{share} %, {kl}", own)

    def like(self, kind: Kind, family: str, label: int) -> Cell:
        """The first cell of the paper's trigger, on imdb, that was measured; the first if none."""
        cells_ = [Cell(kind, family, "imdb", TRIGGERS[0], label, seed) for seed in SEEDS]
        return next((cell for cell in cells_ if cell in self.found), cells_[0])

    def kl(self, cell: Cell, task: str) -> str:
        if cell not in self.found:
            return ABSENT
        return f"{self.found[cell]['words'][cell.trigger][task]['kl_tc']:.3f}"

    def after(self, kind: str, text: str) -> str:
        rows = []
        for cell in (cell for cell in self.found if cell.kind == kind):
            twin = Cell("dirty", cell.model, cell.target, cell.trigger, cell.label, cell.seed)
            if twin not in self.found:
                continue
            held = [
                key
                for key in self.unrelated(twin, cell)
                if kind == "aligned" or role(key, cell.target) == "held out"
            ]
            pair = [[self.found[c]["words"][c.trigger][key] for key in held] for c in (twin, cell)]
            uppers = [max(record["upper"]) for record in pair[1]]

            def both(value: Callable[[int], float], digits: int = 3, pair: Any = pair) -> str:
                return " -> ".join(f"{value(i):.{digits}f}" for i in range(len(pair)))

            rows.append(
                (
                    *names(cell),
                    both(lambda i, c=(twin, cell): 100 * self.success(c[i], c[i].target), 1),
                    both(lambda i, c=(twin, cell): 100 * self.success(c[i], "sst2"), 1)
                    if cell.target == "imdb"
                    else ABSENT,
                    self.loss(twin, cell),
                    both(lambda i, p=pair: mean(x["kl_tc"] for x in p[i])),
                    both(lambda i, p=pair: mean(x["tv"] for x in p[i])),
                    both(lambda i, p=pair: max(x["tv"] for x in p[i])),
                    f"{sum(u < 0.05 for u in uppers)}, {sum(u < 0.1 for u in uppers)} "
                    f"of {len(uppers)}",
                )
            )
        if not rows:
            return f"{text}\n\nNot run."
        head = (
            *HEADS,
            "ASR",
            "ASR sst2",
            "accuracy lost",
            "mean KL",
            "mean TV",
            "largest TV",
            "equivalent at .05, .10",
        )
        return f"{text}\n\n{table(head, rows)}"

    def blind(self) -> str:
        """How well the label-free index predicts the labelled one."""
        from scipy.stats import pearsonr, spearmanr

        points: list[tuple[str, float, float]] = []
        for cell, record in self.found.items():
            for word, of_tasks in record["words"].items():
                keys = self.counted(cell)
                labelled = mean(of_tasks[key]["corrected"] for key in keys)
                kind = "planted" if word == cell.trigger else "benign"
                points.append((kind, record["label_free"]["index"][word], labelled))
        rows = []
        for kind in ("planted", "benign", "all"):
            pairs = [(x, y) for name, x, y in points if kind in (name, "all")]
            if len(pairs) > 3:
                xs, ys = zip(*pairs, strict=True)
                rows.append(
                    (
                        kind,
                        str(len(pairs)),
                        f"{pearsonr(xs, ys).statistic:.2f}",
                        f"{spearmanr(xs, ys).statistic:.2f}",
                        f"{mean(xs):.3f}",
                        f"{mean(ys):.3f}",
                    )
                )
        head = ("words", "models x words", "Pearson", "Spearman", "mean TCI", "mean labelled")
        return (
            "## Without labels\n\nTCI: mean corrected JSD over pseudo-tasks made of plain texts "
            "(clusters, hyperplanes, weak lexical labels), against the same mean over the labelled "
            "tasks that count. Correlation over all cells and words.\n\n" + table(head, rows)
        )

    def scans(self, results: Path) -> str:
        told = RecordFile(results / "carriers.jsonl").read()
        known = {cell.name: told[cell.name] for cell in self.found if cell.name in told}
        scanned, defended = scans.read(results), defences.read(results)
        parts = [scans.section(scanned)] if scanned else []
        parts += [carriers.section(known)] if known else []
        parts += [defences.section(defended)] if defended else []
        rows = answers(known, scanned, defended, flags(self._groups()))
        parts.append("## Hypotheses\n\n" + table(("hypothesis", "figures"), rows))
        return "\n\n".join(parts)

    def _groups(self) -> dict[str, list[Record]]:
        """Records by task, over the tasks that count, of all planted triggers and of the controls
        of each kind."""
        groups: dict[str, list[Record]] = {}
        for cell, record in self.found.items():
            keys = self.counted(cell)
            for word, of_tasks in record["words"].items():
                planted = cell.kind if word == cell.trigger else ""
                name = planted or ("clean model" if cell.kind == "clean" else "benign word")
                groups.setdefault(name, []).append({key: of_tasks[key] for key in keys})
        return groups


SHORT = {"all-MiniLM-L6-v2": "MiniLM"}
HEADS = ("model", "target", "trigger", "label", "seed")


def names(cell: Cell) -> tuple[str, ...]:
    return cell.model, cell.target, cell.trigger, str(cell.label), str(cell.seed)
