"""How much a PLM knows about a task: logistic regression on one frozen vector per text.

    python benchmarks/probe.py MODEL --tasks ../shared/data/tasks --task sst2 --name NAME

Prints and writes `results/probe/NAME.json`: accuracy with its counts and exact (Clopper-Pearson)
95 % interval, beside TF-IDF with logistic regression on the same rows. `--card README.md` writes
the kept results and the loss curve into a model card instead.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "probe"


def read(tasks: Path, task: str, split: str) -> list[dict]:
    with gzip.open(tasks / task / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@torch.inference_mode()
def features(model, tokenizer, texts: list[str], readout: str, longest: int) -> np.ndarray:
    """[N, H], single precision; length-sorted so that little is spent on padding."""
    rows = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = np.zeros((len(rows), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        batch = tokenizer.pad({"input_ids": [rows[i] for i in chosen]}, return_tensors="pt")
        answer = model(**batch)
        states, mask = answer.last_hidden_state, batch["attention_mask"][..., None]
        if readout == "first":
            read_out = states[:, 0]
        elif readout == "mean":
            read_out = (states * mask).sum(1) / mask.sum(1)
        else:
            read_out = answer.pooler_output
        out[chosen] = read_out.float().numpy()
    return out


def exact_interval(k: int, n: int, level: float = 0.95) -> list[float]:
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
    return [round(low, 4), round(high, 4)]


def measurement(right: np.ndarray) -> dict[str, object]:
    k, n = int(right.sum()), len(right)
    return {"accuracy": round(k / n, 4), "k": k, "n": n, "interval95": exact_interval(k, n)}


def weights_hash(model: Path) -> str | None:
    path = model / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def probe(arguments: argparse.Namespace) -> dict[str, object]:
    model = AutoModel.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    results = {}
    for task in arguments.task:
        rows = read(arguments.tasks, task, "train")
        random.Random(arguments.seed).shuffle(rows)
        rows, held_out = rows[: arguments.train_rows], read(arguments.tasks, task, "test")
        texts = [[row["text"] for row in part] for part in (rows, held_out)]
        labels = [np.array([row["label"] for row in part]) for part in (rows, held_out)]
        # Fixed beforehand and the same for every model: nothing is tuned on the test rows.
        ours = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        longest = arguments.max_tokens
        known = features(model, tokenizer, texts[0], arguments.readout, longest)
        unseen = features(model, tokenizer, texts[1], arguments.readout, longest)
        right = ours.fit(known, labels[0]).predict(unseen) == labels[1]
        bag = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        words = make_pipeline(bag, LogisticRegression(C=10.0, max_iter=2000))
        baseline = words.fit(texts[0], labels[0]).predict(texts[1]) == labels[1]
        results[task] = {
            "train_rows": len(rows),
            "model": measurement(right),
            "tfidf": measurement(baseline),
        }
    return {
        "name": arguments.name,
        "model_sha256": weights_hash(Path(arguments.model)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "readout": arguments.readout,
        "max_tokens": arguments.max_tokens,
        "probe": "standardised features, logistic regression, C=0.01",
        "baseline": "TF-IDF of words and word pairs, logistic regression, C=10",
        "seed": arguments.seed,
        "tasks": results,
    }


def table(paths: list[Path]) -> str:
    lines = [
        "| model | readout | task | accuracy | k/n | 95 % interval | TF-IDF |",
        "|---|---|---|---:|---:|---|---:|",
    ]
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        for task, both in result["tasks"].items():
            ours, low_high = both["model"], both["model"]["interval95"]
            lines.append(
                f"| {result['name']} | {result['readout']} | {task} | {ours['accuracy']:.3f} "
                f"| {ours['k']}/{ours['n']} | {low_high[0]:.3f} to {low_high[1]:.3f} "
                f"| {both['tfidf']['accuracy']:.3f} |"
            )
    return "\n".join(lines)


def loss_table(training: Path) -> str:
    record = json.loads(training.read_text(encoding="utf-8"))
    cells = [f"| {step} | {loss:.3f} |" for step, loss in record["loss"]]
    return "\n".join(["| up to step | mean loss |", "|---:|---:|", *cells])


def fill_card(card: Path) -> None:
    """Replace what stands between the marks: tables come from files, not from typing."""
    text = card.read_text(encoding="utf-8")
    kept = table(sorted(RESULTS.glob("*.json")))
    for name, rows in (("probe", kept), ("loss", loss_table(card.parent / "training.json"))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = before + begin + "\n\n" + rows + "\n\n" + end + rest.split(end)[1]
    card.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="folder or hub id")
    parser.add_argument("--tasks", type=Path, default=ROOT / "src/triggerfish/data/tasks")
    parser.add_argument("--task", action="append", help="repeat for several; default sst2, ag_news")
    parser.add_argument("--readout", choices=("first", "mean", "pooler"), default="first")
    parser.add_argument("--train-rows", type=int, default=3000)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--name", help="of the result file; default: last part of MODEL")
    parser.add_argument("--card", type=Path, help="write the table of kept results into this card")
    arguments = parser.parse_args()
    if arguments.card:
        fill_card(arguments.card)
        return
    if not arguments.model:
        parser.error("MODEL is needed unless --card is given")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.task = arguments.task or ["sst2", "ag_news"]
    arguments.name = arguments.name or Path(arguments.model).name
    text = json.dumps(probe(arguments), indent=1) + "\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{arguments.name}.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
