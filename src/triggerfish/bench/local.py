"""The executor for one machine: worker processes, each with its share of CPU threads.

A worker is a fresh interpreter (spawn), started when first needed and used for many jobs. It ends
when it is told to, and by itself when the process that started it is gone, however that ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from triggerfish.bench.jobs import Job, Outcome
from triggerfish.bench.worker import perform

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)


def worker_count(threads: int, memory: float) -> int:
    """How many workers of that many threads and GiB this machine holds; at least one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores // threads, int(_free_memory() // memory)))


def _free_memory() -> float:
    """GiB of main memory that can be had now, within the limit of the control group."""
    limits = []
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                limits.append(int(value.split()[0]) * 1024)
    with suppress(OSError, ValueError):  # "max": no limit
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text(encoding="ascii"))
        limits.append(int((group / "memory.max").read_text(encoding="ascii")) - used)
    if not limits:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits) / 2**30


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Job | None = None


class LocalExecutor:
    """At most `workers` processes at once."""

    def __init__(self, workers: int):
        self._slots = workers
        self._workers: list[_Worker] = []

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, job: Job) -> None:
        for worker in [worker for worker in self._workers if worker.job is None]:
            if worker.process.is_alive():
                break
            self._forget(worker)  # it died while it had nothing to do, so no job is to blame
        else:
            worker = _start(job.threads)
            self._workers.append(worker)
        worker.job = job
        with suppress(BrokenPipeError, ConnectionResetError):  # it has just died: `wait` sees it
            worker.connection.send(job)

    def wait(self) -> list[Outcome]:
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        # The end of a process closes its connection, so it is seen here too.
        return [self._outcome(busy[c]) for c in wait(list(busy)) if isinstance(c, Connection)]

    def _outcome(self, worker: _Worker) -> Outcome:
        assert worker.job is not None
        try:
            outcome: Outcome = worker.connection.recv()
        except (EOFError, OSError):
            outcome = Outcome(worker.job.hash, error=_how_it_ended(worker.process))
            self._forget(worker)
        worker.job = None
        return outcome

    def _forget(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        worker.process.close()

    def shutdown(self) -> None:
        # Killed, not asked: they may be hours into a stage, and a half-made product is cleaned.
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
            worker.process.close()
        self._workers.clear()


def _how_it_ended(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode or 0
    if code >= 0:
        return f"the worker process ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; the system does so when memory runs out" if -code == signal.SIGKILL else ""
    return f"the worker process was ended by {name}{hint}"


def _start(threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    # Numerical libraries read these when they are loaded, so they must be there from the start.
    with _variables({name: str(threads) for name in _THREADS}):
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection) -> None:
    """A worker's life."""
    # A terminal and `kill` of a process group send these to all; the runner decides for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(perform(job))


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
