"""The boundary to libraries that read what strangers wrote: whatever they raise becomes one error
that names the file, what was expected there, and the way on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

LONGEST = 400
"""Characters of a library's message that are passed on."""
OURS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What is no error of a file."""


class ForeignError(ValueError):
    """A stranger's file that cannot be used."""


@contextmanager
def foreign(what: str, expected: str) -> Iterator[None]:
    """Run a library on a file. what: the field and the file, such as `model: cannot read x.json`;
    expected: what should be there and the way on.

    Everything raised inside becomes a `ForeignError`, the panics of native libraries included,
    which are no `Exception`. A `ForeignError` passes as it is.
    """
    try:
        yield
    except (ForeignError, *OURS):
        raise
    except BaseException as error:
        raise ForeignError(f"{what}: {said(error)}; {expected}") from error


def said(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, UnpicklingError):  # its own advice is to run what the file holds
        return "it holds something else than tensors, which is never loaded"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = " ".join(str(error).split())[:LONGEST]
    plain = isinstance(error, ValueError | OSError | ImportError) and text
    return text if plain else f"{type(error).__name__} {text}".strip()
