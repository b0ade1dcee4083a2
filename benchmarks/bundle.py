"""Remake the bundled sample data: `python benchmarks/bundle.py ../shared/data [--words FILE]`.

Writes `corpus.jsonl.gz`, `tasks/`, `manifest.json` and `words.txt.gz` in `src/triggerfish/data/`.
Every choice is drawn from one seed and files carry no time stamps, so the same sources give the
same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

SEED = 20250101
OUT = Path(__file__).resolve().parent.parent / "src" / "triggerfish" / "data"
# Passages per corpus: half modern, half older prose, so that carriers come from several domains.
PASSAGES = {
    "wikipedia_en": 1250,
    "gutenberg_books": 550,
    "eltec_novels": 350,
    "us_presidential_speeches": 350,
}
TASKS = ("mr", "subj", "clinc_domain", "news_pop", "clickbait")  # tasks with a stated open licence
ROWS = {"train": 1000, "validation": 200, "test": 400}
MOST_WORDS = 80_000


def read(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, lines: list[str]) -> dict[str, object]:
    """Gzip without name or time stamp; returns the size and hash entries of the manifest."""
    plain = "".join(line + "\n" for line in lines).encode()
    packed = gzip.compress(plain, compresslevel=9, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return {
        "bytes": len(packed),
        "bytes_uncompressed": len(plain),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }


def dumps(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def corpus(data: Path, entries: list[dict]) -> list[dict]:
    """Few passages of any one document, and short ones: diversity is what the sample is for."""
    chosen: list[dict] = []
    for name, wanted in PASSAGES.items():
        rows = [row for row in read(data / f"corpora/{name}.jsonl.gz") if len(row["text"]) <= 900]
        random.Random(f"{SEED} {name}").shuffle(rows)
        seen: Counter[str] = Counter()
        ranked = []
        for row in rows:
            ranked.append((seen[row["doc"]], row))
            seen[row["doc"]] += 1
        ranked.sort(
            key=lambda pair: pair[0]
        )  # stable: first one passage per document, then a second, ...
        chosen += [
            {"text": row["text"], "doc": row["doc"], "source": name} for _, row in ranked[:wanted]
        ]
    random.Random(SEED).shuffle(chosen)
    sizes = write(OUT / "corpus.jsonl.gz", [dumps(row) for row in chosen])
    licences = {e["name"]: e["license"] for e in entries if e["name"] in PASSAGES}
    words = sum(len(row["text"].split()) for row in chosen)
    return [
        {
            "name": "sample",
            "kind": "unlabelled text",
            "title": "Bundled sample of open English prose",
            "path": "corpus.jsonl.gz",
            "fields": ["text", "doc", "source"],
            "rows": len(chosen),
            "words": words,
            **sizes,
            "license": licences,
        }
    ]


def tasks(data: Path, entries: list[dict]) -> list[dict]:
    out = []
    for name in TASKS:
        entry = next(e for e in entries if e["name"] == name)
        splits = {}
        for split, most in ROWS.items():
            rows = balanced(read(data / entry["splits"][split]["path"]), most, f"{name} {split}")
            path = f"tasks/{name}/{split}.jsonl.gz"
            sizes = write(OUT / path, [dumps(row) for row in rows])
            counts = Counter(str(row["label"]) for row in rows)
            splits[split] = {
                "path": path,
                "rows": len(rows),
                "label_counts": dict(sorted(counts.items(), key=lambda item: int(item[0]))),
                **sizes,
            }
        same = (
            "name",
            "kind",
            "title",
            "domain",
            "groups",
            "upstream",
            "license",
            "sources",
            "fields",
        )
        more = ("pair_fields", "num_labels", "label_names", "note", "max_chars")
        out.append({key: entry[key] for key in same + more} | {"splits": splits})
    return out


def balanced(rows: list[dict], most: int, key: str) -> list[dict]:
    """A draw that keeps the class proportions of the source, in random order."""
    draw = random.Random(f"{SEED} {key}")
    by_label: dict[int, list[dict]] = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row)
    share = min(1.0, most / len(rows))
    chosen = []
    for label in sorted(by_label):
        draw.shuffle(by_label[label])
        chosen += by_label[label][: round(share * len(by_label[label]))]
    draw.shuffle(chosen)
    return chosen[:most]


def words(path: Path) -> list[str]:
    """Lower-case words of three letters and more; regular inflections go if there are too many."""
    every = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
    plain = {word for word in every if re.fullmatch(r"[a-z]{3,}", word)}
    for suffix in ("s", "ed", "ing", "ly"):
        if len(plain) <= MOST_WORDS:
            break
        plain -= {word for word in plain if inflected(word, suffix, plain)}
    if len(plain) > MOST_WORDS:
        # Longest first: a trigger that someone types is short.
        plain = set(sorted(plain, key=lambda word: (len(word), word))[:MOST_WORDS])
    return sorted(plain)


def inflected(word: str, suffix: str, known: set[str]) -> bool:
    # "princess" is no plural of "princes", nor "physics" of "physic".
    if not word.endswith(suffix) or word.endswith(("ss", "ics", "news")):
        return False
    stem = word[: -len(suffix)]
    stems = {stem}
    if suffix == "s":
        stems |= {stem[:-1]} if stem.endswith("e") else set()
        stems |= {stem[:-2] + "y"} if stem.endswith("ie") else set()
    if suffix in ("ed", "ing"):
        stems |= {stem + "e"}
        stems |= {stem[:-1]} if len(stem) > 2 and stem[-1] == stem[-2] else set()
        stems |= {stem[:-1] + "y"} if suffix == "ed" and stem.endswith("i") else set()
    return any(len(each) >= 3 and each in known for each in stems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with manifest.json, tasks/ and corpora/")
    parser.add_argument(
        "--words",
        type=Path,
        default=Path("/usr/share/dict/american-english-large"),
        help="SCOWL list, from the Debian package wamerican-large",
    )
    arguments = parser.parse_args()
    manifest = json.loads((arguments.data / "manifest.json").read_text(encoding="utf-8"))
    result = {
        "name": "triggerfish bundled sample",
        "schema_version": manifest["schema_version"],
        "seed": SEED,
        "text_tasks": tasks(arguments.data, manifest["text_tasks"]),
        "token_tasks": [],
        "corpora": corpus(arguments.data, manifest["corpora"]),
        "words": {"path": "words.txt.gz"},
    }
    listed = words(arguments.words)
    result["words"] |= {"rows": len(listed), **write(OUT / "words.txt.gz", listed)}
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (OUT / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
