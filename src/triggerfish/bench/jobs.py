"""What travels between the runner and whoever does the work, and the seam between the two.

Jobs and outcomes are plain records, so they can be pickled to another process or machine. Store
folders must be reachable from where a job is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from triggerfish.bench.stages import Value


@dataclass(frozen=True)
class Job:
    """Run one stage: make a product, or measure a cell."""

    plan: str
    """ "module:NAME" of the plan."""
    stage: str
    hash: str
    """Of the product or cell; a job's name."""
    settings: Mapping[str, Value]
    """The stage's axes."""
    products: Mapping[str, str]
    """Hashes of the products it uses, by stage."""
    threads: int
    store: str
    """Root of the product store."""
    owner: str
    """The run; see `store.new_owner`."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    hash: str
    seconds: float = 0.0
    """Of the stage alone, without imports."""
    result: Mapping[str, Value] | None = None
    """Of a measuring stage, exactly as JSON gives it back."""
    environment: Mapping[str, str] | None = None
    """Versions and hardware, with `result`."""
    error: str = ""
    """One line; empty when the job succeeded."""
    traceback: str = ""


class Executor(Protocol):
    """Does jobs somewhere. Nothing it is given depends on the order in which jobs end."""

    @property
    def slots(self) -> int:
        """How many jobs it does at once; the runner submits no more."""

    def submit(self, job: Job) -> None:
        """Start a job; returns at once."""

    def wait(self) -> list[Outcome]:
        """Wait until at least one submitted job has ended, in whatever way: a worker that died is
        the failure of its job."""

    def shutdown(self) -> None:
        """End all workers at once, whatever they are doing."""
