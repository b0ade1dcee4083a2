"""How the program ends: a command's own exit code only when its result is delivered, 2 and one line
for every error, 130 and 143 after signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from report_samples import backdoored
from triggerfish import cli
from triggerfish.program import main
from triggerfish.terminal import continuing


class PanicException(BaseException):
    """As of a library in Rust."""


def too_deep() -> None:
    too_deep()


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def signalled(number: int) -> None:
    with continuing("the same command continues"):
        os.kill(os.getpid(), number)


def signalled_while_importing() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ImportError("cannot import half of it") from error


class Dropped:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def signalled_in_a_destructor() -> None:
    Dropped()
    signal.pause()


ENDS: dict[str, tuple[Callable[[], None], int, str]] = {
    "clean": (lambda: None, 0, ""),
    "verdict": (raising(typer.Exit(3)), 3, ""),
    "value": (raising(ValueError("corpus: bad\x1b\nline")), 2, "error: corpus: bad\\x1b line"),
    "file": (raising(OSError(28, "No space left", "x.json")), 2, "error: x.json: No space left"),
    "bug": (raising(KeyError("k")), 2, "error: KeyError: 'k' (--debug shows where)"),
    "panic": (raising(PanicException("no map")), 2, "error: PanicException: no map (--debug"),
    "deep": (too_deep, 2, "error: RecursionError: maximum recursion depth"),
    "memory": (raising(MemoryError()), 2, "error: out of memory"),
    "pipe": (raising(BrokenPipeError(32, "Broken pipe")), 2, "error: standard output: its reader"),
    "end of file": (raising(EOFError("no more")), 2, "error: EOFError: no more"),
    "library": (lambda: sys.exit(1), 2, "error: a library ended the program with code 1"),
    "generator": (raising(GeneratorExit()), 2, "error: GeneratorExit: "),
    "abort": (raising(typer.Abort()), 2, "error: Abort: "),
    "interrupt": (raising(KeyboardInterrupt()), 130, "interrupted"),
    "sigint": (
        lambda: signalled(signal.SIGINT),
        130,
        "interrupted; the same command continues",
    ),
    "sigterm": (
        lambda: signalled(signal.SIGTERM),
        143,
        "interrupted; the same command continues",
    ),
    "sigint in an import": (signalled_while_importing, 130, "interrupted"),
    "sigint in a destructor": (signalled_in_a_destructor, 130, "interrupted"),
}


@pytest.mark.parametrize("case", ENDS)
def test_how_a_command_ends(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, code, line = ENDS[case]
    app = typer.Typer()
    app.command("x")(command)
    app.command("y")(command)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["triggerfish", "x"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert len(said.splitlines()) == (1 if line else 0), said


@pytest.mark.parametrize("redirected", [">/dev/full", ">&-", "| true"])
def test_a_result_that_nobody_got_has_no_exit_code_of_its_own(
    redirected: str, tmp_path: Path
) -> None:
    backdoored().save(tmp_path / "scan.json")
    command = f"{sys.executable} -m triggerfish report {tmp_path / 'scan.json'} --format json"
    shell = f"set -o pipefail; {command} {redirected}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
