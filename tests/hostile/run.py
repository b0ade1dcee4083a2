"""Run the hostile corpus through the real command line and print one table.

    python tests/hostile/run.py            all cases (`make hostile`)
    python tests/hostile/run.py --quick    those of `make test`
    python tests/hostile/run.py config index       these kinds

Each case runs in a process of its own, forked from one that has the libraries loaded, with a limit
of time and memory. Exit code 1: a case went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from hostile import bodies
from hostile.corpus import Case, Place, all_cases, make_base
from triggerfish.program import main

SECONDS, WAITING = 60, 240
MEGABYTES = 1500
"""Limits of one case: seconds of the processor, seconds by the clock, which a case spends that
waits for ever or a machine that is busy, and memory beyond that of the loaded libraries."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SPECIFIC = re.compile(r"^error: (Invalid value for '--|/|[\w .\[\]-]+: )", re.M)


@dataclass(frozen=True)
class Outcome:
    case: Case
    code: int
    seconds: float
    megabytes: float
    wrong: tuple[str, ...]


def run_case(case: Case, base: Path) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        place = Place(Path(name), base)
        for part in ("out", "cwd"):
            (place.folder / part).mkdir()
        arguments = case.make(place)
        before = _state(place)
        code, seconds, megabytes, late = _forked(arguments, place)
        wrong = list(_wrong(case, code, place))
        if late:
            wrong.insert(0, f"no end after {seconds:.0f} s")
        if megabytes > MEGABYTES:
            wrong.append(f"took {megabytes:.0f} MB")
        after = _state(place)
        if changed := sorted(
            path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        ):
            wrong.append(f"wrote outside its output: {changed[:3]}")
        if problem := case.check(place):
            wrong.append(problem)
        return Outcome(case, code, seconds, megabytes, tuple(wrong))


def _wrong(case: Case, code: int, place: Place) -> Iterator[str]:
    said = {
        part: (place.folder / part).read_bytes().decode("utf-8", "replace")
        for part in ("stdout", "stderr")
    }
    last = " ".join(said["stderr"].split())[-200:]
    if code not in case.codes:
        yield f"exit code {code}, expected {' or '.join(map(str, case.codes))}: {last}"
    if "Traceback (most recent" in said["stderr"]:
        yield f"a traceback: {last}"
    if "--debug shows where" in said["stderr"] or (
        code == 2 and not SPECIFIC.search(said["stderr"])
    ):
        yield f"an unclear error: {last}"
    if (
        code in case.codes
        and case.says
        and not re.search(case.says, said["stderr"] + said["stdout"], re.S)
    ):
        yield f"does not say {case.says!r}: {last}"
    for part, shown in said.items():
        if found := CONTROL.search(shown.replace("\r", "").replace("\n", "")):
            yield f"{part} holds the control character {found[0]!a}"


def _forked(arguments: list[str], place: Place) -> tuple[int, float, float, bool]:
    """(exit code, seconds of the processor, megabytes beyond those of this process, whether it was
    stopped)."""
    held, began = _resident(os.getpid()), time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            code = _child(arguments, place)
        finally:
            os._exit(code)
    late = False
    while not (found := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() - began > WAITING or _resident(child) > held + 3 * MEGABYTES * 1024:
            late = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    _, status, used = found
    seconds = used.ru_utime + used.ru_stime
    megabytes = max(0.0, (used.ru_maxrss - held) / 1024)
    return os.waitstatus_to_exitcode(status), seconds, megabytes, late or seconds > SECONDS - 1


def _child(arguments: list[str], place: Place) -> int:
    for number, part in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(place.folder / part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    # In place of those of this process, which a test may have replaced.
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(place.folder / "cwd")
    os.environ |= {"XDG_CACHE_HOME": str(place.out / "cache"), "HOME": str(place.folder / "cwd")}
    sys.argv = ["triggerfish", *arguments]
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _resident(process: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * resource.getpagesize() // 1024
    return 0


def _state(place: Place) -> dict[str, object]:
    """What must not change: every file of the case but its outputs, and the shared ones."""
    found: dict[str, object] = {}
    for root in (place.folder, place.base):
        for folder, folders, files in os.walk(root):
            if Path(folder) == place.folder:
                folders[:] = [name for name in folders if name != "out"]
                files = [name for name in files if name not in ("stdout", "stderr")]
            for name in (*folders, *files):
                file = os.path.join(folder, name)
                facts = os.lstat(file)
                found[file] = (
                    facts.st_mode,
                    facts.st_ino,
                    facts.st_size if name in files else 0,
                    facts.st_mtime_ns if name in files else 0,
                )
    return found


def table(outcomes: Iterable[Outcome]) -> str:
    """One row for each kind of input."""
    kinds: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        kinds.setdefault(outcome.case.kind, []).append(outcome)
    kinds["all"] = [outcome for group in list(kinds.values()) for outcome in group]
    rows = ["| input | cases | worst seconds | worst MB | wrong |", "|---|---:|---:|---:|---:|"]
    for kind, group in kinds.items():
        worst = (max(o.seconds for o in group), max(o.megabytes for o in group))
        wrong = sum(bool(o.wrong) for o in group)
        rows.append(f"| {kind} | {len(group)} | {worst[0]:.1f} | {worst[1]:.0f} | {wrong} |")
    return "\n".join(rows)


def answered() -> list[Outcome]:
    """The requests of `bodies`, as cases."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            Outcome(
                Case("request", answer.request.name, lambda _: []),
                answer.status,
                answer.seconds,
                0.0,
                (answer.wrong,) if answer.wrong else (),
            )
            for answer in bodies.run(Path(folder))
        ]


def prepare() -> None:
    """What every case would import again."""
    torch.set_num_threads(1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    import triggerfish.complications
    import triggerfish.monitor
    import triggerfish.report
    import triggerfish.scanner.methods  # noqa: F401


def run(cases: Iterable[Case], base: Path, *, show: bool = False) -> list[Outcome]:
    outcomes = []
    for case in cases:
        outcomes.append(run_case(case, base))
        if show:
            tell(outcomes[-1:])
    return outcomes


def tell(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.wrong:
            where = f"{outcome.case.kind}: {outcome.case.name}"
            print(f"{where}: {'; '.join(outcome.wrong)}", flush=True)


def cli() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    prepare()
    chosen = [
        case
        for case in all_cases()
        if (case.quick or not given.quick) and (not given.kinds or case.kind in given.kinds)
    ]
    base = Path(tempfile.mkdtemp(prefix="hostile-base-"))
    try:
        outcomes = run(chosen, make_base(base), show=True)
    finally:
        shutil.rmtree(base)
    if not given.quick and (not given.kinds or "request" in given.kinds):
        asked = answered()
        tell(asked)
        outcomes += asked
    print(table(outcomes))
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(cli())
