"""Corpora, lists of words and tables that are damaged, hostile or only odd: read right, or refused
in one line that names the file, the line and the field."""

from __future__ import annotations

import gzip
import os
import random
import threading
import zlib
from pathlib import Path

import pytest

from triggerfish.rows import LONGEST, SMALL
from triggerfish.tasks import find_task, find_tasks
from triggerfish.text import read_corpus, read_words

ONE_TEXT = b'{"text": "a"}\n'


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    ("name", "data", "texts"),
    [
        ("bom.txt", b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        ("mixed.txt", b"one\r\ntwo\rthree\nfour", ["one", "two", "three", "four"]),
        ("windows.txt", b"a\r\nb\r\n\r\nc\r\n", ["a b", "c"]),
        ("ends.txt", b"one\ntwo\n\n", ["one", "two"]),
        ("no ending", gzip.compress(b"one\ntwo", mtime=0), ["one", "two"]),
        (
            "two.txt.gz",
            gzip.compress(b"one\n", mtime=0) + gzip.compress(b"two\n", mtime=0),
            ["one", "two"],
        ),
        ("bom.csv", b'\xef\xbb\xbfid,text\r\n1,"a\r\nb"\r\n\r\n2,\r\n', ["a\r\nb"]),
        ("long.csv", b"text\n" + b"a" * 200_000, ["a" * 200_000]),
        ("crlf.jsonl", b'{"text": "a"}\r\n \r\n{"text": "b\\u2028"}', ["a", "b\u2028"]),
        ("nan.jsonl", b'{"text": "a", "score": NaN}', ["a"]),
    ],
)
def test_odd_corpora_are_read(tmp_path: Path, name: str, data: bytes, texts: list[str]) -> None:
    assert read_corpus(write(tmp_path, name, data)) == texts


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        *(
            ("a.jsonl", ONE_TEXT + b'{"text": %s}' % value, f"a.jsonl line 2 has {kind} in 'text'")
            for value, kind in (
                (b"null", "NoneType"),
                (b"NaN", "float"),
                (b"5", "int"),
                (b'["a"]', "list"),
            )
        ),
        ("a.jsonl", ONE_TEXT + b"{}", "line 2 has no field 'text', expected a string"),
        ("a.jsonl", ONE_TEXT + b"[" * 10**5, "line 2 is not JSON"),
        ("a.jsonl", ONE_TEXT + b'{"text": 1' + b"0" * 5000, "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "\\ud800"}', "line 1 holds half of a surrogate pair"),
        ("a.json", b'[{"text": "a"}]', "line 1 is not a JSON object"),
        ("a.csv", b"id,body\n1,a", "no column named text .columns: id, body"),
        ("a.csv", b"", "no column named text .columns: none"),
        ("a.csv", b'text\n"a\nb', "line 3 is not CSV"),
        ("a.csv", b"text,id\na,1\nb", "line 3 ends a row of 1 cells, expected 2"),
        ("a.csv", b"text,text\na,b", "line 1 names the column 'text' twice"),
        ("a.txt", b"one\n\xff\xfeo\x00", "line 2 is not UTF-8 .byte 0"),
        ("a.txt", b"one\nt\0o", "line 2 is binary"),
        ("a.txt", b"", "holds no text"),
        ("a.txt.gz", b"one", "is no intact gzip file"),
        (
            "a.txt.gz",
            gzip.compress(random.Random(0).randbytes(999).hex().encode(), mtime=0)[:-300],
            "is no intact gzip",
        ),
        ("a.txt.gz", b"\x1f\x8b\x08" + b"\0" * 7 + zlib.compress(b"a"), "is no intact gzip file"),
        ("a.txt", b"a" * (LONGEST + 1), f"line 1 is longer than {LONGEST} bytes"),
    ],
)
def test_damaged_corpora_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^corpus: .*{message}"):
        read_corpus(write(tmp_path, name, data))


@pytest.mark.parametrize("text", [b"a", b"a\n"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, text: bytes) -> None:
    """Memory is measured by the hostile corpus (`hostile/run.py`)."""
    bomb = write(tmp_path, "bomb.txt.gz", gzip.compress(text * 4 * SMALL, compresslevel=1, mtime=0))
    with pytest.raises(ValueError, match=r"bomb.txt.gz unpacks to more than 50 times its size"):
        read_corpus(bomb)


def test_streams_are_read_where_they_are_named(tmp_path: Path) -> None:
    fifo = tmp_path / "a.txt"
    os.mkfifo(fifo)
    threading.Thread(target=fifo.write_text, args=["one\ntwo"]).start()
    assert read_corpus(fifo) == ["one", "two"]
    inlet, outlet = os.pipe()
    os.write(outlet, gzip.compress(b"three", mtime=0))
    os.close(outlet)
    assert read_corpus(f"/dev/fd/{inlet}") == ["three"]
    os.close(inlet)
    for kind in ("fifo", "device"):
        with pytest.raises(ValueError, match=r"corpus: .*a.txt is a special file"):
            read_corpus(tmp_path)
        fifo.unlink()
        if kind == "fifo":
            fifo.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="line 1 is longer than"):
        read_corpus("/dev/zero")


def test_a_folder_is_read_without_its_oddities(tmp_path: Path) -> None:
    (tmp_path / "in" / "folder.txt").mkdir(parents=True)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    write(tmp_path / "in" / "folder.txt", "a.txt", b"one")
    write(tmp_path / "in", "notes.md", b"\xff")
    assert read_corpus(tmp_path / "in") == ["one"]
    (tmp_path / "in" / "b.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"b.txt does not exist"):
        read_corpus(tmp_path / "in")
    with pytest.raises(ValueError, match=r"words: .*in is a folder, expected a file"):
        read_words(tmp_path / "in")


def test_words_are_lines(tmp_path: Path) -> None:
    assert read_words(write(tmp_path, "w", b"\xef\xbb\xbfone \r\n\ra b\n")) == ["one", "a b"]
    with pytest.raises(ValueError, match=r"words: .* line 1 is binary"):
        read_words(write(tmp_path, "w", b"a\0b"))


TABLE = b"body,stars\n" + b"".join(b"film %d,%d\n" % (n, n % 2) for n in range(40))


def test_commas_of_columns_do_not_separate_tasks(tmp_path: Path) -> None:
    spec = f"{write(tmp_path, 'reviews.csv', TABLE)}:text=body,label=stars"
    for names, expected in (
        (spec, ["reviews"]),
        (f"{spec}, subj", ["reviews", "subj"]),
        (f"subj,{spec}", ["subj", "reviews"]),
        (f"{spec} , {spec}", ["reviews", "reviews"]),
    ):
        assert [task.name for task in find_tasks(names).tasks] == expected
    with pytest.raises(ValueError, match="is not text=COLUMN"):
        find_tasks(f"{spec},text=body")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"text": "x", "label": NaN}', "row 41 of toy .* has nan in label, expected the name"),
        (b'{"text": "x", "label": [1]}', r"row 41 of toy .* has \[1\] in label"),
        (b'{"text": 5, "label": 1}', "row 41 of toy .* has 5 in text, expected a text"),
        (b'{"text": "\\udc00", "label": 1}', "row 41 of toy .* in text, expected a text"),
        (b'{"text": "x", "label": null}', "row 41 of toy .* has no label"),
    ],
)
def test_rows_of_a_task_are_named(tmp_path: Path, row: bytes, message: str) -> None:
    rows = b"".join(b'{"text": "film %d", "label": %d}\n' % (n, n % 2) for n in range(40))
    with pytest.raises(ValueError, match=message):
        find_task(str(write(tmp_path, "toy.jsonl", rows + row)))


def test_tables_of_another_shape_are_named(tmp_path: Path) -> None:
    tags = b'{"tokens": ["a"], "tags": %s}'
    for value in (b"5", b'["O", 1]', b'{"a": 1}'):
        with pytest.raises(ValueError, match=r"row 1 of t .* in tags, expected a list of strings"):
            find_task(str(write(tmp_path, "t.jsonl", tags % value)))
    with pytest.raises(ValueError, match=r"task: .*t.parquet cannot be read as Parquet"):
        find_task(str(write(tmp_path, "t.parquet", b"PAR1 no table PAR1")))
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["a" * 2**20] * 400, "label": [0] * 400})
    parquet.write_table(table, tmp_path / "t.parquet", compression="gzip")
    with pytest.raises(ValueError, match="unpacks to more than 50 times its size"):
        find_task(str(tmp_path / "t.parquet"))
