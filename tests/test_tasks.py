"""Tasks from everywhere: what the columns and labels become, what de-duplication takes out, which
words leak, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from triggerfish.tasks import PAPER, clean, find_task, find_tasks, leaks
from triggerfish.tasks.cleaning import Cleaning, key
from triggerfish.tasks.entities import mentions, spans
from triggerfish.tasks.paper import corrections, role
from triggerfish.text import Task

Rows = Sequence[dict[str, object]]


def write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def pack(root: Path, name: str, train: Rows, test: Rows, manifest: Rows = ()) -> Path:
    """A folder of the shape of the data pack."""
    folder = root / "tasks" / name
    write(folder / "train.jsonl.gz", train)
    write(folder / "test.jsonl.gz", test)
    (root / "manifest.json").write_text(json.dumps({"text_tasks": list(manifest)}))
    return root


def numbered(labels: Sequence[object], prefix: str = "text") -> list[dict[str, object]]:
    return [{"text": f"{prefix} {n}", "label": label} for n, label in enumerate(labels)]


def test_the_study_has_sixteen_tasks_and_names_its_stand_ins() -> None:
    assert len({task.key for task in PAPER}) == len({task.folder for task in PAPER}) == 16
    strange = {task.key for task in PAPER if not task.same}
    assert strange == {"fakenews", "medical"}
    assert all(task.note.startswith("stand-in:") for task in PAPER if not task.same)


def test_roles_are_the_studys() -> None:
    assert corrections("imdb") == ("ag_news", "dbpedia_14", "cola", "gender")
    assert corrections("ag_news") == ("imdb", "dbpedia_14", "cola", "gender")
    assert role("sst2", "imdb") == "consistency"
    held = [task.key for task in PAPER if role(task.key, "imdb") == "held out"]
    assert len(held) == 10
    with pytest.raises(ValueError, match="target: 'mr' is not one of imdb, ag_news"):
        role("sst2", "mr")


def test_columns_are_said_and_labels_come_from_the_data(tmp_path: Path) -> None:
    """A constant column, an id gap, and a label with a space behind it."""
    lines = ["task,review,stars"] + [f"eng,film {n},{1 + n % 2 * 4}" for n in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(lines))
    found = find_task(f"{tmp_path}/reviews.csv:text=review,label=stars").task
    assert found.name == "reviews"
    assert found.labels == ("1", "5")
    rows = [*found.train, *found.test, *found.validation]
    assert sorted(rows) == sorted((f"film {n}", n % 2) for n in range(40))
    assert [len(found.train), len(found.test)] == [28, 8]
    write(tmp_path / "posts.jsonl.gz", numbered(["Not", "Potential "] * 10))
    assert find_task(str(tmp_path / "posts.jsonl.gz")).task.labels == ("Not", "Potential")
    with pytest.raises(ValueError, match=r"row 1 of reviews \(train\) has no text \(columns: task"):
        find_task(str(tmp_path / "reviews.csv"))
    with pytest.raises(ValueError, match="is not text=COLUMN"):
        find_task("reviews.csv:title=review")


def test_numbers_are_ordered_by_size(tmp_path: Path) -> None:
    write(tmp_path / "many.jsonl.gz", numbered([*range(12)] * 5))
    assert find_task(str(tmp_path / "many.jsonl.gz")).task.labels == tuple(map(str, range(12)))


def test_bundled_classes_have_names() -> None:
    assert find_task("mr").task.labels == ("negative", "positive")


def test_a_folder_of_the_data_pack(tmp_path: Path) -> None:
    """Classes have the names of the manifest, and the study leaves one out."""
    names = {"0": "hate speech", "1": "offensive language", "2": "neither"}
    manifest = [{"name": "twitter_hate_offensive", "label_names": names}]
    root = pack(
        tmp_path,
        "twitter_hate_offensive",
        numbered([0, 1, 2] * 12),
        numbered([1, 2, 0], "test"),
        manifest,
    )
    whole = find_task("twitter_hate_offensive", root).task
    assert whole.labels == ("hate speech", "offensive language", "neither")
    study = find_task("hatespeech", root)
    assert study.task.labels == ("offensive language", "neither")
    assert study.task.test == [("test 0", 0), ("test 1", 1)]
    assert study.paper is not None
    assert study.paper.dropped == (0,)
    assert find_tasks("all", root).left_out == ("twitter_hate_offensive",)
    assert len(find_tasks("all", root, sensitive=True).found) == 1
    assert find_tasks("hatespeech", root).tasks == [study.task]


def test_pairs_are_joined(tmp_path: Path) -> None:
    rows = [{"text": f"a {n}", "text_pair": f"b {n}", "label": n % 2} for n in range(24)]
    task = find_task("rte", pack(tmp_path, "rte", rows[:20], rows[20:])).task
    assert sorted(task.test) == [(f"a {n} || b {n}", n % 2) for n in range(20, 24)]


def test_entities_become_classes() -> None:
    assert spans(["O", "B-PER", "I-PER", "B-PER", "I-LOC"]) == [
        (1, 3, "PER"),
        (3, 4, "PER"),
        (4, 5, "LOC"),
    ]
    found = mentions([(["Ann", "Lee", "saw", "Rome", "."], ["B-PER", "I-PER", "O", "B-LOC", "O"])])
    sentence = "Ann Lee saw Rome ."
    assert found == [
        (f"{sentence} || Ann Lee", "PER"),
        (f"{sentence} || Rome", "LOC"),
        (f"{sentence} || saw", "none"),
    ]
    with pytest.raises(ValueError, match="tag 'PER' is not O"):
        spans(["PER"])
    with pytest.raises(ValueError, match="sentence 1 has 2 tokens, 1 tags"):
        mentions([(["a", "b"], ["O"])])


def test_deduplication_counts_what_it_takes() -> None:
    task = Task(
        "toy",
        ("0", "1"),
        [("Caf\u00e9 one", 0), ("cafe\u0301  ONE ", 0), ("two", 0), ("three", 1), ("four", 0)],
        [("two", 0), ("Three", 0), ("five", 1)],
        [("FIVE", 1), ("four", 0), ("six", 0)],
    )
    cleaned, counts = clean(task)
    assert cleaned.train == [("Caf\u00e9 one", 0), ("two", 0), ("four", 0)]
    assert cleaned.test == [("five", 1)]
    assert cleaned.validation == [("six", 0)]
    assert counts == Cleaning(2, 1, 2, 1, (3, 1, 1))
    assert counts.removed == 6
    assert key(" A\u0301 b\tC ") == "\u00e1 b c"
    with pytest.raises(ValueError, match="no test row of toy is left"):
        clean(Task("toy", ("0", "1"), task.train, [("two", 0)], task.validation))


def test_leaks_are_counted_with_their_classes() -> None:
    train = [("Trump, again", 1), ("a trump card", 1), ("the trumpet", 0), ("nothing", 0)]
    task = Task("toy", ("0", "1"), train, [("about Trump", 0)], [("x", 0)])
    (found,) = leaks(task, ["Trump", "cf"])
    assert (found.word, found.train, found.test) == ("Trump", 2, 1)
    assert found.shares == (0.0, 1.0)
    assert found.prior == (0.5, 0.5)
    assert found.lift == 0.5
    assert leaks(task, ["a trump card"])[0].train == 1


def test_a_hub_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader of the hub reads a local folder the same way."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["text,label", *(f"text {n},{'ab'[n % 2]}" for n in range(30))]
    (folder / "train.csv").write_text("\n".join(lines))
    task = find_task(f"hub:{folder}").task
    assert task.labels == ("a", "b")
    assert len(task.train) + len(task.test) + len(task.validation) == 30


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = numbered([0, 1] * 15)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "toy.parquet")
    task = find_task(str(tmp_path / "toy.parquet")).task
    assert sorted(row for split in (task.train, task.test, task.validation) for row in split) == (
        sorted((row["text"], row["label"]) for row in rows)  # type: ignore[type-var]
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        (numbered([1] * 10), "has 1 classes"),
        (
            [*numbered([0, 1]), {"text": " ", "label": 0}],
            "row 3 of toy .* has ' ' in text, expected",
        ),
        ([*numbered([0, 1]), {"text": "x"}], "row 3 of toy .* has no label"),
    ],
)
def test_what_cannot_be_a_task_is_named(tmp_path: Path, rows: Rows, message: str) -> None:
    write(tmp_path / "toy.jsonl.gz", rows)
    with pytest.raises(ValueError, match=message):
        find_task(str(tmp_path / "toy.jsonl.gz"))


def test_unknown_tasks_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown name 'subjj'.*did you mean 'subj'"):
        find_task("subjj")
    with pytest.raises(ValueError, match="imdb needs the folder"):
        find_task("imdb")
    with pytest.raises(ValueError, match="has no folder tasks"):
        find_tasks("all", tmp_path)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(ValueError, match="is none of"):
        find_task(str(tmp_path / "notes.md"))
    with pytest.raises(ValueError, match="has no train file"):
        find_task(str(tmp_path))
    (tmp_path / "bad.jsonl").write_text("[1]")
    with pytest.raises(ValueError, match="line 1 is not a JSON object"):
        find_task(str(tmp_path / "bad.jsonl"))
