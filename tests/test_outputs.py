"""Outputs: checked before any work, whole or not there at all, and never in place of an input, a
device, a pipe or a link."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from report_samples import backdoored
from triggerfish.outputs import Folder, check_outputs
from triggerfish.writing import (
    beside,
    write_bytes,
    write_tensors,
    write_text,
    writing,
    writing_folder,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a link out of it, as in the cache of the hub."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "blob").write_text("weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    return folder


def file_in_place_of_folder(tmp: Path) -> Folder:
    (tmp / "file").touch()
    return Folder(tmp / "file" / "out", ("mark",))


def other_folder(tmp: Path) -> Folder:
    (tmp / "mine").mkdir()
    (tmp / "mine" / "thesis.txt").touch()
    return Folder(tmp / "mine", ("mark",))


def hard_link(tmp: Path) -> Path:
    os.link(tmp / "model" / "config.json", tmp / "other.json")
    return tmp / "other.json"


def link_to_input(tmp: Path) -> Path:
    (tmp / "link").symlink_to(tmp / "model" / "config.json")
    return tmp / "link"


def circle(tmp: Path) -> Path:
    (tmp / "a").symlink_to(tmp / "b")
    (tmp / "b").symlink_to(tmp / "a")
    return tmp / "a"


def socket_like(tmp: Path) -> Path:
    os.mknod(tmp / "socket", stat.S_IFSOCK | 0o600)
    return tmp / "socket"


REFUSED: dict[str, tuple[Callable[[Path], Path | Folder], str]] = {
    "a folder": (lambda tmp: tmp, "out: .* is a folder; expected a file"),
    "no parent": (lambda tmp: tmp / "no" / "x", "out: folder .*no does not exist"),
    "below a file": (lambda tmp: tmp / "model" / "config.json" / "x", "out: .* Not a directory"),
    "no new files": (lambda tmp: Path("/proc/x.json"), "out: cannot write to /proc/x.json"),
    "name too long": (lambda tmp: tmp / ("x" * 300), "out: cannot write to .*name too long"),
    "circle": (circle, "out: cannot write to .*Too many levels"),
    "socket": (socket_like, "out: .* is no file, pipe or character device"),
    "part of the model": (lambda tmp: tmp / "model" / "config.json", "out: .* part of the model"),
    "hard link": (hard_link, "out: .*other.json is part of the model"),
    "link": (link_to_input, "out: .*link is part of the model"),
    "behind a link": (lambda tmp: tmp / "blob", "out: .*blob is part of the model"),
    "corpus": (lambda tmp: tmp / "texts.txt", "out: .* is the corpus itself"),
    "file for a folder": (file_in_place_of_folder, "out: cannot make folder .* is not a folder"),
    "other folder": (other_folder, "out: .*mine holds something else; expected a new or empty"),
    "model as folder": (lambda tmp: Folder(tmp / "model", ("mark",)), "is the model itself"),
    "model, marked": (lambda tmp: Folder(tmp / "model", ("config.json",)), "the model itself"),
    "in the model": (lambda tmp: Folder(tmp / "model" / "x", ("m",)), "out: .* part of the model"),
    "around the model": (lambda tmp: Folder(tmp, ("model",)), "out: .* part of the model"),
    "store is the model": (lambda tmp: Folder(tmp / "model"), "out: .* is the model itself"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_output_that_cannot_be_is_refused_at_once(
    case: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("a")
    make, message = REFUSED[case]
    output = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        check_outputs({"model": str(model), "corpus": tmp_path / "texts.txt"}, out=output)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_may_be_written_passes(model: Path, tmp_path: Path) -> None:
    backdoored().save(model / "scan.json")  # of an earlier scan of this folder
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "attack.json").touch()
    os.mkfifo(tmp_path / "pipe")
    for output in (
        *(tmp_path / "new.json", model / "new.json", model / "scan.json", tmp_path / "pipe"),
        *(Path("/dev/null"), Path("/dev/stdout"), Folder(tmp_path / "a" / "b", ("attack.json",))),
        *(Folder(tmp_path / "old", ("attack.json",)), Folder(tmp_path)),
    ):
        check_outputs({"model": str(model), "reference": "org/name", "corpus": None}, out=output)
    check_outputs({}, out=Path("/dev/null"), html=Path("/dev/null"), state=Folder(tmp_path))


@pytest.mark.parametrize("second", ["x", "./x", "link", "hard"])
def test_two_outputs_are_not_one(second: str, tmp_path: Path) -> None:
    write_text(tmp_path / "x", "a")
    (tmp_path / "link").symlink_to("x")
    os.link(tmp_path / "x", tmp_path / "hard")
    with pytest.raises(ValueError, match=r"html: .* is also the place for out"):
        check_outputs({}, out=tmp_path / "x", html=tmp_path / second)


def test_standard_input_and_output_are_inputs_and_outputs(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("a")
    code = (
        "import sys; from pathlib import Path; from triggerfish.outputs import check_outputs\n"
        "check_outputs({'file': sys.argv[1]}, out=Path(sys.argv[2]) if sys.argv[2:] else None)"
    )
    for arguments, message in ((["-", str(rows)], "out: "), ([str(rows)], "file: ")):
        with rows.open("rb") as given, rows.open("ab") as output:
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                stdin=given,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert f"ValueError: {message}" in done.stderr


def interrupted(file: Path) -> None:
    with writing(file) as half:
        half.write(b"ne")
        raise KeyboardInterrupt


def large_folder(out: Path) -> None:
    with writing_folder(out) as folder:
        (folder / "first").write_text("a")
        (folder / "second").write_bytes(bytes(100_000))


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "scan.json"
    write_text(file, "old")
    file.chmod(0o640)
    with pytest.raises(KeyboardInterrupt):
        interrupted(file)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["scan.json"]
    beside(file).write_text("left by a process that was killed, and longer")
    write_text(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["scan.json"]


def test_links_are_followed_and_pipes_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    for text in ("one", "two"):  # the link leads to nothing, then to a file
        write_text(tmp_path / "link", text)
        assert (tmp_path / "there" / "file").read_text() == text
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join()
    assert got == ["through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_text(Path("/dev/null"), "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    # A link in the place of the unfinished file is not followed.
    write_text(tmp_path / "victim", "kept")
    beside(tmp_path / "new").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(tmp_path / "new", "x")
    assert (tmp_path / "victim").read_text() == "kept"


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path: Path) -> None:
    """The limit on the size of files stands for the full disk."""
    tensors, more = {"x": torch.ones(2)}, {"x": torch.ones(100_000)}
    write_tensors(tmp_path / "w.safetensors", tensors)
    write_text(tmp_path / "t.json", "old")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        for name, write in (
            ("w.safetensors", lambda: write_tensors(tmp_path / "w.safetensors", more)),
            ("t.json", lambda: write_bytes(tmp_path / "t.json", bytes(100_000))),
        ):
            with pytest.raises(OSError, match=name):
                write()
        with pytest.raises(OSError, match="out") as failed:
            large_folder(tmp_path / "out")
        assert failed.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_is_written_beside_and_moved(tmp_path: Path) -> None:
    for number in (1, 2):  # new, then in place of the first
        with writing_folder(tmp_path / "a" / "out") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "x").write_text(str(number))
        (tmp_path / "a" / "out" / "kept").touch()
    assert (tmp_path / "a" / "out" / "sub" / "x").read_text() == "2"
    assert sorted(os.listdir(tmp_path / "a" / "out")) == ["kept", "sub"]
    assert os.listdir(tmp_path / "a") == ["out"]
