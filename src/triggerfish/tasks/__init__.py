"""Labelled tasks by name: those of the study of complications, any folder of the data pack, the
bundled ones, and users' own tables or hub datasets.

    find_task("imdb", data)                                  a task of the study, see `paper`
    find_task("reviews.csv:text=review,label=stars")         a table of one's own
    find_task("hub:owner/name")                              a hub dataset (extra `hub`)
    find_tasks("paper", data)                                all of the study

Every task comes de-duplicated, with the counts of what was taken out.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triggerfish.names import unknown
from triggerfish.rows import HALF, Row
from triggerfish.tasks.cleaning import Cleaning, Leak, clean, leaks
from triggerfish.tasks.entities import joined, mentions
from triggerfish.tasks.paper import PAPER, PaperTask
from triggerfish.tasks.tables import (
    HUB,
    Columns,
    column,
    hub_splits,
    parse_columns,
    read_splits,
)
from triggerfish.text import Task, bundled_folders

__all__ = [
    "PAPER",
    "Cleaning",
    "Found",
    "Leak",
    "PaperTask",
    "Selection",
    "clean",
    "find_task",
    "find_tasks",
    "leaks",
]

HELD_OUT = {"test": 0.2, "validation": 0.1}
"""Share of the rows, or of what is left of them, that is held out where there is no such split."""
COLUMN = re.compile(r"\s*\w+=")
NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d+)?")
Labelled = list[tuple[str, str]]


@dataclass(frozen=True)
class Found:
    """A task, what de-duplication took out of it, and which task of the study it is, if any."""

    task: Task
    cleaning: Cleaning
    paper: PaperTask | None = None


@dataclass(frozen=True)
class Selection:
    """left_out: names of tasks with sensitive texts that were not asked for."""

    found: tuple[Found, ...]
    left_out: tuple[str, ...]

    @property
    def tasks(self) -> list[Task]:
        return [found.task for found in self.found]


def find_tasks(
    names: str | Sequence[str], data: str | Path | None = None, *, sensitive: bool = False
) -> Selection:
    """Several tasks: names, or one string with commas, or "paper" (the study's), or "all" (every
    folder of the data, or the bundled tasks without one).

    Of "paper" and "all", tasks whose texts hold slurs or self-harm only come with `sensitive`; a
    task that is named comes anyway.
    """
    listed = _listed(names) if isinstance(names, str) else list(names)
    hidden = {task.folder for task in PAPER if task.sensitive} | set(SENSITIVE)
    left_out: list[str] = []
    if listed in (["paper"], ["all"]):
        if listed == ["paper"]:
            pairs = [(task.key, task.folder) for task in PAPER]
        else:
            pairs = [(name, name) for name in sorted(_folders(data))]
        left_out = [] if sensitive else [name for name, folder in pairs if folder in hidden]
        listed = [name for name, _ in pairs if name not in left_out]
    return Selection(tuple(find_task(name, data) for name in listed), tuple(left_out))


def _listed(names: str) -> list[str]:
    """The tasks of a string with commas, some of which separate the columns of one task."""
    listed: list[str] = []
    for part in names.split(","):
        if listed and COLUMN.match(part) and parse_columns(listed[-1])[1]:
            listed[-1] += f",{part.strip()}"
        else:
            listed.append(part.strip())
    return listed


SENSITIVE = ("hate_speech18", "tweet_hate", "jigsaw_toxic", "olid")
"""Folders of the data pack, besides the study's, whose texts hold slurs or abuse."""


def find_task(spec: str, data: str | Path | None = None) -> Found:
    """One task, by its name in the study or in `data` (a folder that holds `tasks`) or among the
    bundled ones, by its path, or by its hub id, each with `:text=COLUMN,label=COLUMN,pair=COLUMN`
    where these are not called text, label and text_pair.

    Labels are numbered in the order of their values, numbers by size, and keep their names.
    ValueError for what is not found or cannot be a task.
    """
    name, columns = parse_columns(spec)
    if name.startswith(HUB):
        splits, classes = hub_splits(name.removeprefix(HUB))
        return _found(name.removeprefix(HUB), splits, columns, classes)
    path, paper = _locate(name, data)
    splits = read_splits(path)
    if paper and paper.dropped:
        splits = {
            split: [row for row in rows if row["label"] not in paper.dropped]
            for split, rows in splits.items()
        }
    title = paper.key if paper else path.name.partition(".")[0]
    return _found(title, splits, columns, _manifest_names(path), paper)


def _folders(data: str | Path | None) -> dict[str, Path]:
    if data is None:
        return bundled_folders()
    folder = Path(data) / "tasks"
    if not folder.is_dir():
        raise ValueError(f"data: {data} has no folder tasks")
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


def _locate(name: str, data: str | Path | None) -> tuple[Path, PaperTask | None]:
    known = {**bundled_folders(), **(_folders(data) if data is not None else {})}
    for task in PAPER:
        if name == task.key and task.folder in known:
            return known[task.folder], task
    if name in known:
        return known[name], None
    if Path(name).exists():
        return Path(name), None
    if name in {task.key for task in PAPER}:
        raise ValueError(f"task: {name} needs the folder of its texts (data)")
    raise unknown("task", name, known)


def _found(
    name: str,
    splits: dict[str, list[Row]],
    columns: Columns | None,
    classes: dict[str, list[str]],
    paper: PaperTask | None = None,
) -> Found:
    columns = columns or _usual(splits["train"])
    read = {
        split: _labelled(rows, columns, f"{name} ({split})", classes.get(columns.label, []))
        for split, rows in splits.items()
    }
    for split in ("test", "validation"):
        if split not in read:
            read["train"], read[split] = _hold_out(read["train"], HELD_OUT[split])
    names = _ordered({label for _, label in read["train"]}, classes.get(columns.label, []))
    if len(names) < 2:
        raise ValueError(f"task: {name} has {len(names)} classes, expected at least two")
    strange = {label for rows in read.values() for _, label in rows} - set(names)
    if strange:
        raise ValueError(f"task: {name} has labels that train lacks: {', '.join(sorted(strange))}")
    number = {label: place for place, label in enumerate(names)}
    train, test, validation = (
        [(text, number[label]) for text, label in read[split]]
        for split in ("train", "test", "validation")
    )
    task, cleaning = clean(Task(name, tuple(names), train, test, validation))
    return Found(task, cleaning, paper)


def _usual(rows: Sequence[Row]) -> Columns:
    """The column names of the data pack."""
    if "tokens" in rows[0]:
        return Columns("tokens", "tags")
    return Columns(pair="text_pair" if "text_pair" in rows[0] else None)


def _labelled(
    rows: Sequence[Row], columns: Columns, where: str, classes: Sequence[str]
) -> Labelled:
    """(text, label as a string) of rows of texts, of pairs or of tagged tokens."""
    texts, labels = (column(rows, name, where) for name in (columns.text, columns.label))
    if texts and isinstance(texts[0], list):
        for name, values in ((columns.text, texts), (columns.label, labels)):
            _check(values, name, where, _is_tokens, "a list of strings")
        return mentions(list(zip(texts, labels, strict=True)))
    _check(texts, columns.text, where, _is_text, "a text")
    _check(labels, columns.label, where, _is_class, "the name or the number of a class")
    if columns.pair is not None:
        seconds = column(rows, columns.pair, where)
        _check(seconds, columns.pair, where, _is_text, "a text")
        texts = [joined(a, b) for a, b in zip(texts, seconds, strict=True)]
    return [(text, _label(label, classes)) for text, label in zip(texts, labels, strict=True)]


def _check(
    values: Sequence[Any], name: str, where: str, right: Callable[[Any], bool], expected: str
) -> None:
    for number, value in enumerate(values, start=1):
        if not right(value):
            raise ValueError(
                f"task: row {number} of {where} has {value!r:.60} in {name}, expected {expected}"
            )


def _is_text(value: Any) -> bool:
    """A blank text has nothing that a trigger could replace, and no tokenizer takes half of a
    surrogate pair."""
    return isinstance(value, str) and bool(value.strip()) and not HALF.search(value)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_class(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) or (isinstance(value, str) and not HALF.search(value))


def _label(value: Any, classes: Sequence[str]) -> str:
    """The name of a class: its own where numbers have names, else the value without the spaces
    around it."""
    if classes and str(value).isdecimal() and int(value) < len(classes):
        return classes[int(value)]
    return str(value).strip()


def _ordered(labels: set[str], classes: Sequence[str]) -> list[str]:
    if labels <= set(classes):
        return [name for name in classes if name in labels]
    if all(NUMBER.fullmatch(label) for label in labels):
        return sorted(labels, key=float)
    return sorted(labels)


def _hold_out(rows: Labelled, share: float) -> tuple[Labelled, Labelled]:
    """(what is left, what is held out): the same share of every class, at least one row of it, and
    the same rows each time."""
    rng = random.Random(0)
    kept: Labelled = []
    held: Labelled = []
    for label in sorted({label for _, label in rows}):
        own = [row for row in rows if row[1] == label]
        rng.shuffle(own)
        cut = max(1, round(share * len(own)))
        held += own[:cut]
        kept += own[cut:]
    rng.shuffle(kept)
    rng.shuffle(held)
    return kept, held


def _manifest_names(path: Path) -> dict[str, list[str]]:
    """Names of the classes of a task of the data pack, whose rows only hold numbers."""
    manifest = path.parent.parent / "manifest.json"
    if not path.is_dir() or not manifest.is_file():
        return {}
    try:
        for task in json.loads(manifest.read_text(encoding="utf-8")).get("text_tasks", ()):
            if task["name"] == path.name:
                names = task["label_names"]
                return {"label": [str(names[str(number)]) for number in range(len(names))]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"data: {manifest} is no manifest: its text_tasks are not all objects with a name and "
            "with label_names"
        ) from error
    return {}
