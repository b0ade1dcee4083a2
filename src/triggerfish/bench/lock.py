"""One run at a time in a folder of results.

The lock is the kernel's (flock), so it ends with its process however that ends; the file tells
who holds it, and is gone when nobody does.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triggerfish.writing import is_there

LOCK = ".lock"


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the lock of `out`, which is made; ValueError names the process that holds it now."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / LOCK
    handle = _acquire(file, out)
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode("ascii"))
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def _acquire(file: Path, out: Path) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise ValueError(
                f"out: another run is working in {out} (process {holder}); "
                "wait for it or choose another folder"
            ) from None
        if is_there(file, handle):
            return handle
        os.close(handle)  # its holder removed the file between our two calls
