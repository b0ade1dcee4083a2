"""The one way to write a file: all of it or nothing.

The file is written beside its place, reaches the disk, and then takes its name in one step. A link
is followed, never replaced. Devices and pipes have no such step: they are written through, and so
is a file that is the standard output or the standard error of this process.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

ENDING = ".partial"
_LONGEST_NAME = 255
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` at the end, with the rights of the file it replaces;
    after an error, `path` is as it was. Its folder is made.

    Two processes that write the same file do so one after the other. ValueError for what cannot be
    written to, such as a folder; OSError names `path` where the disk is full.
    """
    target = destination(path)
    there = status(target)
    if there is not None and not _replaceable(there):
        with _naming(path), _through(target, there) as file:
            yield file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(target)
    with _naming(path), _own(partial) as file:
        try:
            yield file
            file.flush()
            if there is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
            os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def writing_text(path: Path) -> Iterator[IO[str]]:
    """The same for text in UTF-8, whose line ends stay as they are."""
    with writing(path) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True)
        yield file
        file.detach()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: object) -> None:
    """ValueError where `content` holds NaN or an infinity, which JSON has no words for."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file of tensors of torch."""
    from safetensors.torch import save_file

    with writing(path) as file:
        save_file(dict(tensors), file.name, metadata)


@contextmanager
def writing_folder(out: Path) -> Iterator[Path]:
    """An empty folder, whose files are moved to `out` at the end, in place of files of the same
    names. `out` and the folders above it are made then, so an error before leaves nothing."""
    target = destination(out)
    above = next(folder for folder in (target, *target.parents) if folder.exists())
    fresh = above / beside(target).name
    shutil.rmtree(fresh, ignore_errors=True)  # what a killed run left
    fresh.mkdir()
    try:
        with _naming(out):
            yield fresh
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            fresh.rename(target)
            return
        for file in sorted(x for x in fresh.rglob("*") if not x.is_dir()):
            place = target / file.relative_to(fresh)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def destination(path: Path) -> Path:
    """Where a file of this name is: links are followed, also to what is not there yet. OSError for
    links in a circle."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not target.exists() and path.exists():
        return path  # of a pipe, which has no name of its own
    return target


def status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def writable(there: os.stat_result) -> bool:
    """Whether this is a file, a pipe or a device that takes bytes one after the other."""
    return any(kind(there.st_mode) for kind in (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISCHR))


def beside(target: Path) -> Path:
    """Where a file is until it is whole: one place for each, so a killed run leaves one at most,
    and the next one takes it over."""
    name = f".{target.name}{ENDING}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()}{ENDING}"
    return target.with_name(name)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error that says that the disk is full says for what."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:  # no class to name: safetensors loads only where it was used
        from safetensors import SafetensorError

        if not isinstance(error, SafetensorError):
            raise
        raise OSError(errno.EIO, str(error), str(path)) from error


def _replaceable(there: os.stat_result) -> bool:
    return stat.S_ISREG(there.st_mode) and _stream(there) is None


def _stream(there: os.stat_result) -> int | None:
    """The descriptor of our standard output or error, if this is the file behind it."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(there, os.fstat(number)):
                return number
    return None


@contextmanager
def _through(target: Path, there: os.stat_result) -> Iterator[BinaryIO]:
    if not writable(there):
        kind = "folder" if stat.S_ISDIR(there.st_mode) else "thing of another kind"
        raise ValueError(f"{target} is a {kind}; expected a file, a pipe or a character device")
    number = _stream(there)
    # A descriptor of its own would begin at the start of the file that the output is in.
    with target.open("wb") if number is None else os.fdopen(os.dup(number), "wb") as file:
        yield file


@contextmanager
def _own(path: Path) -> Iterator[BinaryIO]:
    """A new file, for this process alone; a link there is not followed."""
    opener: Callable[[str, int], int] = lambda name, flags: os.open(  # noqa: E731
        name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666
    )
    while True:
        with open(path, "r+b", opener=opener) as file:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if is_there(path, file.fileno()):  # else another process has just finished it
                file.truncate()
                yield file
                return


def is_there(file: Path, handle: int) -> bool:
    """Whether the open file `handle` is still the one at this path."""
    try:
        return os.path.samestat(file.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
