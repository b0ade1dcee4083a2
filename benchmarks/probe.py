"""How much a PLM knows about a task: logistic regression on one frozen vector per text.

    python benchmarks/probe.py MODEL --tasks ../shared/data/tasks --task sst2 --name NAME
    python benchmarks/probe.py runs/zoo/*/ --tasks ../shared/data/tasks --readout best
    python benchmarks/probe.py --table

Prints one record for every MODEL and adds it to `results/probe/cells.jsonl`: accuracy with its
counts and exact (Clopper-Pearson) 95 % interval, beside TF-IDF with logistic regression on the same
rows. With `--readout best` the readout (the library's classification readout or the mean) and the
strength of regularisation, and that of the baseline, are chosen on a fifth of the training rows,
never on the test rows. `--table` renders `results/probe/README.md`; `--card README.md` writes the
bundled PLM's results and loss curve into its model card instead.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from triggerfish.backbone import Backbone
from triggerfish.bench.files import RecordFile
from triggerfish.loading import load
from triggerfish.readouts import Readout
from triggerfish.stats import exact_interval
from triggerfish.writing import write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "probe"
CELLS = RecordFile(RESULTS / "cells.jsonl")
# Chosen before any model was measured: sentiment, topics, questions, intents, emotions.
TASKS = (
    "sst2",
    "subj",
    "trec6",
    "cr",
    "ag_news",
    "yelp_sentences",
    "clinc_domain",
    "tweet_emotion",
)
CARD = ("all-MiniLM-L6-v2", "bundled-plm-mean", "bundled-plm")  # what the bundled PLM's card shows
FIXED = {"model": 0.01, "tfidf": 10.0}  # C where nothing is chosen
CHOICES = {"model": (0.003, 0.03, 0.3), "tfidf": (1.0, 10.0, 100.0)}  # C to choose from
Rows = tuple[list[str], np.ndarray]


@cache
def read(tasks: Path, task: str, split: str, rows: int, seed: int) -> Rows:
    """(texts, labels); of the training split, `rows` rows drawn by the seed."""
    with gzip.open(tasks / task / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    if split == "train":
        random.Random(seed).shuffle(found)
        found = found[:rows]
    return [row["text"] for row in found], np.array([row["label"] for row in found])


def features(backbone: Backbone, texts: list[str], readouts: list[Readout], longest: int) -> dict:
    """{readout: [N, H] single precision} of texts cut at `longest` pieces."""
    longest = min(longest, backbone.max_tokens)
    ids = [backbone.template.wrap(backbone.tokenize(text, longest)) for text in texts]
    states = backbone.encode_ids(ids, readouts=readouts).cpu().numpy()
    return {str(readout): states[:, k] for k, readout in enumerate(readouts)}


def probe(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def bag(strength: float) -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=strength, max_iter=2000))


def choose(candidates: dict, labels: np.ndarray, make, strengths: tuple) -> tuple[str, float]:
    """The (inputs' name, strength) that does best on the last fifth of the training rows."""
    cut = len(labels) - len(labels) // 5
    scores = {
        (name, strength): make(strength)
        .fit(inputs[:cut], labels[:cut])
        .score(inputs[cut:], labels[cut:])
        for name, inputs in candidates.items()
        for strength in strengths
    }
    return max(scores, key=scores.__getitem__)


def measurement(right: np.ndarray) -> dict[str, object]:
    k, n = int(right.sum()), len(right)
    interval = [round(end, 4) for end in exact_interval(k, n)]
    return {"accuracy": round(k / n, 4), "k": k, "n": n, "interval95": interval}


@cache
def baseline(tasks: Path, task: str, rows: int, seed: int, chosen: bool) -> dict[str, object]:
    texts, labels = read(tasks, task, "train", rows, seed)
    unseen, truth = read(tasks, task, "test", rows, seed)
    strength = FIXED["tfidf"]
    if chosen:
        _, strength = choose({"words": texts}, labels, bag, CHOICES["tfidf"])
    right = bag(strength).fit(texts, labels).predict(unseen) == truth
    return measurement(right) | {"C": strength}


def weights_hash(model: Path) -> str | None:
    path = model / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def measure(model: str, arguments: argparse.Namespace) -> dict[str, object]:
    backbone, chosen = load(model, device=arguments.device), arguments.readout == "best"
    asked = [backbone.primary, Readout("mean")] if chosen else [Readout.parse(arguments.readout)]
    results = {}
    for task in arguments.task:
        drawn = (arguments.train_rows, arguments.seed)
        texts, labels = read(arguments.tasks, task, "train", *drawn)
        unseen, truth = read(arguments.tasks, task, "test", *drawn)
        known = features(backbone, texts, asked, arguments.max_tokens)
        best = (str(asked[0]), FIXED["model"])
        if chosen:
            best = choose(known, labels, probe, CHOICES["model"])
        held_out = features(backbone, unseen, [Readout.parse(best[0])], arguments.max_tokens)
        right = probe(best[1]).fit(known[best[0]], labels).predict(held_out[best[0]]) == truth
        results[task] = {
            "train_rows": len(texts),
            "model": measurement(right) | {"C": best[1], "readout": best[0]},
            "tfidf": baseline(arguments.tasks, task, *drawn, chosen),
        }
    return {
        "name": arguments.name or Path(model).name,
        "family": backbone.model.config.model_type,
        "model_sha256": weights_hash(Path(model)),
        "parameters": sum(p.numel() for p in backbone.model.parameters()),
        "readout": arguments.readout,
        "max_tokens": arguments.max_tokens,
        "probe": "standardised features, logistic regression",
        "baseline": "TF-IDF of words and word pairs, logistic regression",
        "seed": arguments.seed,
        "tasks": results,
    }


def table(results: list[dict]) -> str:
    lines = [
        "| model | readout | task | accuracy | k/n | 95 % interval | TF-IDF |",
        "|---|---|---|---:|---:|---|---:|",
    ]
    for result in results:
        for task, both in result["tasks"].items():
            ours, low_high = both["model"], both["model"]["interval95"]
            lines.append(
                f"| {result['name']} | {ours.get('readout', result['readout'])} | {task} "
                f"| {ours['accuracy']:.3f} | {ours['k']}/{ours['n']} "
                f"| {low_high[0]:.3f} to {low_high[1]:.3f} | {both['tfidf']['accuracy']:.3f} |"
            )
    return "\n".join(lines)


def summary(results: list[dict]) -> str:
    """One line a model: accuracy on each task, bold where above TF-IDF, and how often it is."""
    tasks = list(dict.fromkeys(task for result in results for task in result["tasks"]))
    words = {task: both["tfidf"] for r in results for task, both in r["tasks"].items()}
    lines = [
        f"| model | parameters | {' | '.join(tasks)} | above TF-IDF |",
        "|---|---:|" + "---:|" * (len(tasks) + 1),
        f"| TF-IDF | | {' | '.join(format(words[t]['accuracy'], '.3f') for t in tasks)} | |",
    ]
    for result in results:
        cells, above = [], 0
        for task in tasks:
            both = result["tasks"].get(task)
            if both is None:
                cells.append("")
                continue
            better = both["model"]["k"] > both["tfidf"]["k"]
            above += better
            cell = f"{both['model']['accuracy']:.3f}"
            cells.append(f"**{cell}**" if better else cell)
        lines.append(
            f"| {result['name']} | {result['parameters']:,} | {' | '.join(cells)} "
            f"| {above} of {len(result['tasks'])} |"
        )
    return "\n".join(lines)


def render() -> str:
    """`results/probe/README.md`, from the records alone."""
    found = CELLS.read()
    names = [*CARD, *(name for name in found if name not in CARD)]
    results = [found[name] for name in names if name in found]
    best = [result for result in results if result["readout"] == "best"]
    fixed = [result for result in results if result["readout"] != "best"]
    parts = [
        "# What frozen features know",
        "Rendered by `python benchmarks/probe.py --table` from the records here. Accuracy of "
        "logistic regression on one frozen vector per text, on whole test sets, next to TF-IDF of "
        "words and word pairs with logistic regression on the same training rows. Intervals are "
        "exact (Clopper-Pearson, 95 %).",
    ]
    if best:
        parts += [
            "## Readout chosen on a part of the training rows",
            "The tasks were fixed before any model was measured. Readout and regularisation (of "
            "TF-IDF too) are chosen on a fifth of the training rows; bold: more right than TF-IDF "
            "(many of the differences are within the intervals below).",
            summary(best),
            table(best),
        ]
    if fixed:
        parts += ["## Readout fixed beforehand", table(fixed)]
    return "\n\n".join(parts) + "\n"


def loss_table(training: Path) -> str:
    record = json.loads(training.read_text(encoding="utf-8"))
    cells = [f"| {step} | {loss:.3f} |" for step, loss in record["loss"]]
    return "\n".join(["| up to step | mean loss |", "|---:|---:|", *cells])


def fill_card(card: Path) -> None:
    """Replace what stands between the marks: tables come from files, not from typing."""
    text = card.read_text(encoding="utf-8")
    found = CELLS.read()
    kept = table([found[name] for name in CARD])
    for name, rows in (("probe", kept), ("loss", loss_table(card.parent / "training.json"))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = before + begin + "\n\n" + rows + "\n\n" + end + rest.split(end)[1]
    write_text(card, text)


def arguments_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", help="folders or hub ids")
    parser.add_argument("--tasks", type=Path, default=ROOT / "src/triggerfish/data/tasks")
    parser.add_argument(
        "--task",
        action="append",
        help=f"repeat for several; default sst2, ag_news, or with best {', '.join(TASKS)}",
    )
    parser.add_argument("--readout", default="first", help="first, mean, pooler, ... or best")
    parser.add_argument("--train-rows", type=int, default=3000)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", help="of the result file; default: last part of MODEL")
    parser.add_argument("--card", type=Path, help="write the table of kept results into this card")
    parser.add_argument("--table", action="store_true", help="render results/probe/README.md")
    return parser


def main() -> None:
    parser = arguments_of()
    arguments = parser.parse_args()
    if arguments.card:
        fill_card(arguments.card)
    if not (arguments.model or arguments.card or arguments.table):
        parser.error("MODEL is needed unless --card or --table is given")
    if arguments.name and len(arguments.model) > 1:
        parser.error("--name is for one MODEL")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    best = arguments.readout == "best"
    arguments.task = arguments.task or (list(TASKS) if best else ["sst2", "ag_news"])
    for model in arguments.model:
        result = measure(model, arguments)
        CELLS.append(str(result["name"]), result)
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if arguments.table:
        CELLS.tidy()
        write_text(RESULTS / "README.md", render())


if __name__ == "__main__":
    main()
