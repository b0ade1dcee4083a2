"""The program around the commands: signals, errors and exit codes.

A command's own code (0, 1 or 3) leaves here only when the command came to its end and all that it
printed is written. Everything else, errors of libraries included, is one line on stderr and code 2;
128 and the signal's number after SIGINT (130) and SIGTERM (143). `--debug` adds the traceback.

Nothing is imported at the top that takes time, so a Ctrl-C while the libraries load ends here too.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

CANNOT_RUN = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Signals:
    """SIGINT and SIGTERM raise KeyboardInterrupt; `number`: the one that came, or None. A library
    may make another error of it while it loads, so the number says how the program ended."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> _Signals:
        self.hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self.before = [(one, signal.signal(one, self._came)) for one in SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self.hook
        for one, handler in self.before:
            signal.signal(one, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt

    def _unraisable(self, found: sys.UnraisableHookArgs) -> None:
        """A signal that came where Python drops errors, in a destructor, comes again."""
        if isinstance(found.exc_value, KeyboardInterrupt) and self.number is not None:
            threading.Timer(0.01, os.kill, (os.getpid(), self.number)).start()
        else:
            self.hook(found)


def main() -> None:
    """Run the command line, and leave with the code that the module describes."""
    debug = "--debug" in sys.argv
    _open_streams()
    with _Signals() as signals:
        try:
            code, line = _run([argument for argument in sys.argv[1:] if argument != "--debug"]), ""
        except BaseException as error:  # also the panics of native libraries
            code, line = _ended(error, signals.number)
            if debug and not isinstance(error, KeyboardInterrupt):
                line = _traceback(error) + line
        for one in SIGNALS:  # too late: what is left is to say how it ended
            signal.signal(one, signal.SIG_IGN)
            atexit.register(signal.signal, one, signal.SIG_IGN)
        _close_output()
        if line:
            with suppress(OSError):
                print(line, file=sys.stderr, flush=True)
    raise SystemExit(code)


def _run(arguments: list[str]) -> int:
    """The exit code of a command that came to its end."""
    import typer
    from typer.main import get_command

    from triggerfish.cli import app

    command = get_command(app)
    code = 0
    try:  # not `app()`, which makes exit codes of its own of errors and interrupts
        with command.make_context("triggerfish", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        code = end.exit_code
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error
    return code


def _ended(error: BaseException, number: int | None) -> tuple[int, str]:
    """Exit code and one line for a command that did not come to its end."""
    if number is None and isinstance(error, KeyboardInterrupt):
        number = signal.SIGINT
    if number is not None:
        kept = error.args if isinstance(error, KeyboardInterrupt) else ()
        return 128 + number, "; ".join(["interrupted", *map(str, kept)])
    return CANNOT_RUN, f"error: {_shown(_message(error))}"


def _message(error: BaseException) -> str:
    from typer.exceptions import TyperException

    if isinstance(error, TyperException):
        return f"{error.format_message() or 'a command is missing'} (see --help)"
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return "standard output: its reader closed it before all was written"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, SystemExit):
        return f"a library ended the program with code {error.code}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ValueError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _shown(message: str) -> str:
    line = " ".join(message.split())
    try:
        from triggerfish.report.escape import visible

        return visible(line)
    except Exception:  # no memory is left to load it
        return ascii(line)


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _open_streams() -> None:
    """A stream that was closed by who started us is none in Python, and its number would go to the
    next file. Writing to a closed standard output stays an error."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if handle != number:
                os.dup2(handle, number)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def _close_output() -> None:
    """What cannot be written any more must not change the exit code when Python ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
