"""Labelled rows from files and from the hub: CSV, TSV, JSON Lines, Parquet, a folder of them with
one file for each split, or a hub dataset.

Which column is the text is said, never guessed: the published scripts take the first two columns
that are not the label, so that a constant column becomes a second text.

Source of the defects that this avoids: the released code of Zhang et al., ICML 2025, arXiv
2505.11586.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triggerfish.rows import RATIO, SMALL, Lines, Row, csv_rows, ending, json_rows, reading

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SPLITS = {"train": "train", "test": "test", "validation": "validation", "dev": "validation"}
HUB = "hub:"


@dataclass(frozen=True)
class Columns:
    """text: column of the text; pair: of its second text, where a row is a pair; label: of the
    class, or of the tags where a row is a list of tokens."""

    text: str = "text"
    label: str = "label"
    pair: str | None = None


def parse_columns(spec: str) -> tuple[str, Columns | None]:
    """`reviews.csv:text=review,label=stars` as ("reviews.csv", Columns); None where the spec names
    no column. ValueError for a column that is neither text, label nor pair."""
    found = re.fullmatch(r"(.+?):(\w+=.+)", spec)
    if not found:
        return spec, None
    parts = found[2].split(",")
    named = dict(part.partition("=")[::2] for part in parts)
    strange = set(named) - {"text", "label", "pair"}
    if strange or not all(named.values()) or len(named) < len(parts):
        raise ValueError(f"task: {found[2]!r} is not text=COLUMN,label=COLUMN,pair=COLUMN")
    return found[1], Columns(**named)


def read_splits(path: Path) -> dict[str, list[Row]]:
    """Rows by split (train, test, validation) of a folder, or of one file, which is all train.
    ValueError for what cannot be read, and for a folder without a train file."""
    if not path.is_dir():
        return {"train": read_rows(path)}
    splits: dict[str, list[Row]] = {}
    for file in sorted(path.iterdir()):
        stem = file.name.partition(".")[0]
        if ending(file) not in SUFFIXES or stem not in SPLITS:
            continue
        if SPLITS[stem] in splits:
            raise ValueError(f"task: {path} has several files for {SPLITS[stem]}")
        splits[SPLITS[stem]] = read_rows(file)
    if "train" not in splits:
        raise ValueError(f"task: {path} has no train file ({', '.join(SUFFIXES)}, also .gz)")
    return splits


def read_rows(path: Path) -> list[Row]:
    """Rows of one file; ValueError names the file and what was expected."""
    kind = ending(path)
    if kind not in SUFFIXES:
        raise ValueError(f"task: {path} is none of {', '.join(SUFFIXES)} (also .gz)")
    with reading(path, "task", in_folder=True) as lines:
        if kind == ".parquet":
            rows = _parquet(lines)
        elif kind in (".jsonl", ".json"):
            rows = list(json_rows(lines))
        else:
            rows = list(csv_rows(lines, "\t" if kind == ".tsv" else ",")[1])
    if not rows:
        raise ValueError(f"task: {path} has no rows")
    return rows


def _parquet(lines: Lines) -> list[Row]:
    try:
        from pyarrow import BufferReader, parquet
    except ImportError as error:
        raise ValueError("parquet needs the extra hub: pip install 'triggerfish[hub]'") from error
    raw = lines.content()
    most = max(SMALL, RATIO * len(raw))

    def check(size: int) -> None:
        if size > most:
            raise ValueError(f"it unpacks to more than {RATIO} times its size, which texts do not")

    rows: list[Row] = []
    unpacked = 0
    try:
        file = parquet.ParquetFile(BufferReader(raw))
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        check(sum(group.total_byte_size for group in groups))
        for batch in file.iter_batches(1000):
            unpacked += batch.nbytes
            check(unpacked)
            rows += batch.to_pylist()
    except Exception as error:  # pyarrow raises whatever a damaged file leads it to
        raise ValueError(f"task: {lines.name} cannot be read as Parquet: {error}") from error
    return rows


def hub_splits(name: str) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    """(rows by split, names of the classes by column) of a hub dataset, `owner/name` or
    `owner/name/configuration`; code from the hub is never run. ValueError where it cannot be
    had."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "task: hub: needs the extra hub: pip install 'triggerfish[hub]'"
        ) from error
    owner, configuration = name, None
    if not Path(name).is_dir() and name.count("/") == 2:
        owner, _, configuration = name.rpartition("/")
    try:
        loaded = datasets.load_dataset(owner, configuration)
    except Exception as error:  # whatever the library and its readers of files raise
        raise ValueError(f"task: hub:{name} could not be loaded ({error})") from error
    splits = {SPLITS[split]: list(rows) for split, rows in loaded.items() if split in SPLITS}
    if "train" not in splits:
        raise ValueError(f"task: hub:{name} has no split train ({', '.join(loaded)})")
    classes = {
        column: list(feature.names)
        for column, feature in loaded["train"].features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return splits, classes


def column(rows: Sequence[Row], name: str, where: str) -> list[Any]:
    """Values of a column; ValueError names it where a row lacks it."""
    for number, row in enumerate(rows, start=1):
        if row.get(name) is None:
            raise ValueError(
                f"task: row {number} of {where} has no {name} (columns: {', '.join(map(str, row))})"
            )
    return [row[name] for row in rows]
