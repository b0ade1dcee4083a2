"""Texts: corpora from files, the bundled sample, and the one place that inserts a trigger into a
text.

A corpus is a list of strings. Files may be plain text (one passage per line, or paragraphs between
blank lines), JSON Lines with a "text" field, or CSV with a "text" column, each also gzipped; a
folder means all of its files.
"""

from __future__ import annotations

import gzip
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase

from triggerfish.names import unknown
from triggerfish.rows import (
    STREAM,
    Lines,
    csv_rows,
    ending,
    json_rows,
    reading,
    string,
    whole_characters,
)

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
SUFFIXES = (".txt", ".jsonl", ".json", ".csv")


def bundled_corpus() -> list[str]:
    """Passages of encyclopaedia, novels and speeches that come with the package (see
    data/NOTICE.md)."""
    return read_corpus(_data("corpus.jsonl.gz"))


def bundled_words() -> list[str]:
    """English words, one entry each, lower-case, sorted."""
    return gzip.decompress(_data("words.txt.gz").read_bytes()).decode("utf-8").split()


def read_corpus(path: str | Path) -> list[str]:
    """Every non-empty text of a file, a stream or a folder; ValueError says what is wrong with the
    file and what was expected."""
    path = Path(path)
    files, in_folder = [path], path.is_dir()
    if in_folder:
        files = [
            file
            for file in sorted(path.rglob("*"))
            if ending(file) in SUFFIXES and not file.is_dir()
        ]
        if not files:
            raise ValueError(f"corpus: {path} holds no {', '.join(SUFFIXES)} file (.gz allowed)")
    texts = []
    for file in files:
        with reading(file, "corpus", in_folder=in_folder, most=STREAM) as lines:
            found = (text for text in _texts(lines, ending(file)) if text.strip())
            texts += [whole_characters(text, lines) for text in found]
    if not texts:
        raise ValueError(f"corpus: {path} holds no text")
    return texts


def _texts(lines: Lines, kind: str) -> Iterator[str]:
    if kind in (".jsonl", ".json"):
        for row in json_rows(lines):
            yield string(row, "text", lines)
    elif kind == ".csv":
        columns, rows = csv_rows(lines)
        if "text" not in columns:
            named = ", ".join(columns) or "none"
            raise ValueError(f"corpus: {lines.name} has no column named text (columns: {named})")
        for row in rows:
            yield row["text"]
    else:
        yield from _passages(_plain(lines))


def _plain(lines: Lines) -> list[str]:
    """Lines of a text file, however they end, without the spaces around them."""
    found = []
    for line in lines:
        if "\0" in line:
            raise lines.error("is binary (it holds NUL bytes), expected UTF-8 text")
        found += [part.strip() for part in line.rstrip("\r\n").split("\r")]
    return found


def _passages(lines: Sequence[str]) -> Iterator[str]:
    """Paragraphs between blank lines; each line where no blank line is between two others."""
    paragraphs = [list(group) for full, group in groupby(lines, bool) if full]
    if len(paragraphs) == 1:
        paragraphs = [[line] for line in paragraphs[0]]
    for paragraph in paragraphs:
        yield " ".join(word for line in paragraph for word in line.split())


@dataclass(frozen=True)
class Task:
    """A labelled text-classification task: rows are (text, label number)."""

    name: str
    labels: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    validation: list[tuple[str, int]]


def read_task(folder: str | Path) -> Task:
    """A task from a folder with train.jsonl.gz, test.jsonl.gz and, where there is one,
    validation.jsonl.gz of {"text", "label"} rows.

    Without a validation file, the last tenth of train after a shuffle that is always the same is
    held out in its place. ValueError for tasks of text pairs and of labelled tokens.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"task: {folder} is not a folder")
    train, test = (_read_rows(folder / f"{split}.jsonl.gz") for split in ("train", "test"))
    file = folder / "validation.jsonl.gz"
    if file.is_file():
        validation = _read_rows(file)
    else:
        shuffled = random.Random(0).sample(train, len(train))
        cut = len(train) - max(1, len(train) // 10)
        train, validation = shuffled[:cut], shuffled[cut:]
    labels = sorted({label for _, label in train})
    if labels != list(range(len(labels))) or len(labels) < 2:
        raise ValueError(
            f"task: labels of {folder} are {labels}, expected 0..C-1 with at least two classes"
        )
    for split, rows in (("test", test), ("validation", validation)):
        strange = {label for _, label in rows} - set(labels)
        if strange or not rows:
            raise ValueError(
                f"task: {split} of {folder} has {len(rows)} rows and labels {sorted(strange)} "
                "that train lacks, expected at least one row and none"
            )
    return Task(folder.name, tuple(map(str, labels)), train, test, validation)


def bundled_task(name: str) -> Task:
    """One of the small tasks that come with the package: mr, subj, clinc_domain, news_pop,
    clickbait."""
    known = bundled_folders()
    if name not in known:
        raise unknown("task", name, known)
    return read_task(known[name])


def bundled_folders() -> dict[str, Path]:
    """Folders of the bundled tasks, by name."""
    return {folder.name: folder for folder in _data("tasks").iterdir()}


def _read_rows(path: Path) -> list[tuple[str, int]]:
    with reading(path, "task", in_folder=True) as lines:
        rows = []
        for row in json_rows(lines):
            for field, kind in (("text_pair", "text pairs"), ("tokens", "labelled tokens")):
                if field in row:
                    raise lines.error(f"has {kind} ({field}), expected single texts")
            label = row.get("label")
            if not isinstance(label, int):
                raise lines.error(f"has {label!r:.50} in 'label', expected a whole number")
            rows.append((whole_characters(string(row, "text", lines), lines), int(label)))
        return rows


def _data(name: str) -> Path:
    return Path(str(resources.files("triggerfish") / "data" / name))


def insert(text: str, trigger: str, *, copies: int, rng: random.Random) -> str:
    """Write a trigger into a text `copies` times, each at an independent random word boundary, ends
    included."""
    words = text.split()
    for _ in range(copies):
        words.insert(rng.randint(0, len(words)), trigger)
    return " ".join(words)


def corpus_words(texts: Sequence[str]) -> list[str]:
    """Distinct words of a corpus, most frequent first; apostrophes and hyphens may be inside."""
    counts = Counter(word for text in texts for word in WORD.findall(text))
    return [word for word, _ in counts.most_common()]


def short_words() -> list[str]:
    """All strings of two lower-case letters: the field's customary triggers (cf, mn, bb, tq) are
    among them, and no list of words has them all."""
    return [a + b for a in ascii_lowercase for b in ascii_lowercase]


def read_words(path: str | Path) -> list[str]:
    """A list of words or phrases, one on each line of a text file."""
    with reading(path, "words", most=STREAM) as lines:
        words = [whole_characters(line, lines) for line in _plain(lines) if line]
    if not words:
        raise ValueError(f"words: {path} holds no words, expected one on each line")
    return words


def excerpts(texts: Sequence[str], words: int, rng: random.Random) -> list[str]:
    """One run of `words` words from each text that is long enough, at a random place, in random
    order."""
    long_enough = [parts for parts in (text.split() for text in texts) if len(parts) >= words]
    starts = [rng.randint(0, len(parts) - words) for parts in long_enough]
    cut = [
        " ".join(parts[start : start + words])
        for parts, start in zip(long_enough, starts, strict=True)
    ]
    rng.shuffle(cut)
    return cut
