"""Where results go, checked before the work and not after it: against the disk, against what is
read, and against each other. Nothing is made here, so a refused command leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from triggerfish.rows import STDIN
from triggerfish.writing import ENDING, destination, status, writable

Source = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class Folder:
    """A folder for results. marks: names of which one at least is in what an earlier command of the
    same kind left; None for a folder that holds folders of others too, such as a cache."""

    path: Path
    marks: tuple[str, ...] | None = None


def check_outputs(
    inputs: Mapping[str, Source], /, **outputs: Path | Folder | Sequence[Path] | None
) -> None:
    """ValueError, by the name of the option, for an output that cannot be written, that is an input
    too, or that is another output.

    inputs: what is read, by the name of the option; what is no path here, such as a hub id, is
    passed over. outputs: files, and folders.
    """
    given = [(name, path) for name, value in inputs.items() for path in _paths(value)]
    asked: list[tuple[str, Path | Folder]] = []
    for option, output in outputs.items():
        each = output if isinstance(output, Sequence) else [output]
        asked += [(option, one) for one in each if one is not None]
    for option, output in asked:
        path = output.path if isinstance(output, Folder) else output
        try:
            for name, source in given:
                if _overwrites(output, source):
                    same = destination(path) == destination(source)
                    how = f"the {name} itself" if same else f"part of the {name}, {source}"
                    raise ValueError(f"{option}: {path} is {how}; expected another place")
            if isinstance(output, Folder):
                _check_folder(option, output)
            else:
                _check_file(option, output)
        except OSError as error:
            raise ValueError(f"{option}: cannot write to {path}: {error.strerror}") from error
    for name, source in given:
        there = source.stat()
        if stat.S_ISREG(there.st_mode) and _is_stdout(there):
            raise ValueError(f"{name}: {source} is also the standard output of this command")
    for (first, one), (second, other) in combinations(asked, 2):
        if _one_place(one, other):
            path = other.path if isinstance(other, Folder) else other
            raise ValueError(f"{second}: {path} is also the place for {first}")


def task_sources(tasks: str | None, data: Path | None) -> dict[str, Source]:
    """The inputs that --tasks and --data name."""
    named = [name.partition(":")[0] for name in (tasks or "").split(",")]
    return {"tasks": named, "data": data / "tasks" if data else None}


def _paths(value: Source) -> Iterator[Path]:
    if value is None or value == STDIN:
        value = [] if value is None else "/dev/stdin"
    for one in [value] if isinstance(value, str | Path) else value:
        if os.path.exists(one):
            yield Path(one)


def _check_file(option: str, path: Path) -> None:
    target = destination(path)
    there = status(target)
    if there is None:
        if not target.parent.is_dir():
            raise ValueError(f"{option}: folder {path.parent} does not exist")
    elif stat.S_ISDIR(there.st_mode):
        raise ValueError(f"{option}: {path} is a folder; expected a file")
    elif not writable(there):
        raise ValueError(f"{option}: {path} is no file, pipe or character device")
    elif not os.access(target, os.W_OK):
        raise ValueError(f"{option}: no right to write to {path}")
    if there is None or stat.S_ISREG(there.st_mode):
        _try(target.parent)


def _check_folder(option: str, folder: Folder) -> None:
    target = destination(folder.path)
    there = next(x for x in (target, *target.parents) if os.path.lexists(x))
    if not there.is_dir():
        raise ValueError(f"{option}: cannot make folder {folder.path}: {there} is not a folder")
    _try(there)
    if folder.marks is None or there != target:
        return
    names = {entry.name for entry in target.iterdir() if not entry.name.endswith(ENDING)}
    if names and names.isdisjoint(folder.marks):
        raise ValueError(
            f"{option}: {folder.path} holds something else; expected a new or empty folder, or one "
            "that the same command wrote"
        )


def _try(folder: Path) -> None:
    """OSError where no file can be made; root has the right to where it cannot, too."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(0, f"no right to write in {folder}")
    with tempfile.TemporaryFile(dir=folder):
        pass


def _overwrites(output: Path | Folder, source: Path) -> bool:
    """Whether writing `output` would change `source`, a file or a folder."""
    origin = destination(source)
    if isinstance(output, Folder):
        target = destination(output.path)
        inside = output.marks is not None and target in origin.parents
        return target == origin or origin in target.parents or inside
    target = destination(output)
    there = status(target)
    if there is None or not (stat.S_ISREG(there.st_mode) or stat.S_ISFIFO(there.st_mode)):
        return False
    if not origin.is_dir():
        return os.path.samestat(there, source.stat())
    inside = origin in target.parents or any(_same(there, file) for file in source.rglob("*"))
    return inside and not _is_result(target)


def _is_result(file: Path) -> bool:
    """Whether an earlier command wrote this file as its result. Nothing reads such a file for being
    in the folder of a model or of texts, so the next result may replace it there."""
    if file.suffix in (".html", ".sarif"):
        return True
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"schema", "provenance"} <= content.keys()


def _same(there: os.stat_result, file: Path) -> bool:
    found = status(file)
    return found is not None and os.path.samestat(there, found)


def _is_stdout(there: os.stat_result) -> bool:
    try:
        return os.path.samestat(there, os.fstat(1))
    except OSError:
        return False  # it is closed


def _one_place(one: Path | Folder, other: Path | Folder) -> bool:
    """Whether two outputs would fall on each other. A file may lie in a folder."""
    places = [x.path if isinstance(x, Folder) else x for x in (one, other)]
    first, second = map(destination, places)
    there = [status(x) for x in (first, second)]
    if any(x is not None and stat.S_ISCHR(x.st_mode) for x in there):
        return False  # devices take all that comes
    if isinstance(one, Folder) and isinstance(other, Folder) and None in (one.marks, other.marks):
        return False
    return first == second or (
        there[0] is not None and there[1] is not None and os.path.samestat(there[0], there[1])
    )
