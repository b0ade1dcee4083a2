"""What happens in a worker: one job, from its settings to its product or result.

Any executor calls `perform` where the work is to be done.
"""

from __future__ import annotations

import json
import platform
import random
import time
import traceback
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from triggerfish.bench import plans
from triggerfish.bench.jobs import Job, Outcome
from triggerfish.bench.stages import Plan, Stage, Value, Work, identity
from triggerfish.bench.store import Store

_ERROR_WIDTH = 300


def perform(job: Job) -> Outcome:
    """Do a job; whatever a stage raises becomes the outcome's error."""
    try:
        plan = plans.load(job.plan)
        stage = plan.stage(job.stage)
        _prepare(plan, job)
        store = Store(Path(job.store), job.owner)
        if not stage.measures and store.has(stage.name, job.hash):
            return Outcome(job.hash)  # another run with the same store has made it meanwhile
        return _run(plan, stage, job, store)
    except (Exception, SystemExit) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(job.hash, error=line[:_ERROR_WIDTH], traceback=traceback.format_exc())


def _run(plan: Plan, stage: Stage, job: Job, store: Store) -> Outcome:
    with store.scratch(stage.name, job.hash) as folder:
        products = {name: store.folder(name, hash) for name, hash in job.products.items()}
        started = time.monotonic()
        returned = stage.run(Work(job.settings, products, folder, job.threads))
        seconds = round(time.monotonic() - started, 3)
        if stage.measures:
            result = _json(stage, returned)
            found = _environment(plan, job.threads)
            return Outcome(job.hash, seconds, result=result, environment=found)
        if returned is not None:
            raise TypeError(f"stage {stage.name!r} makes a product, so it must return None")
        content = identity(stage, job.settings, job.products, job.threads)
        store.finish(folder, stage.name, job.hash, {**content, "seconds": seconds})
    return Outcome(job.hash, seconds)


def _json(stage: Stage, returned: Mapping[str, object] | None) -> dict[str, Value]:
    if not isinstance(returned, Mapping):
        raise TypeError(f"stage {stage.name!r} measures, so it must return a mapping")
    try:
        found: dict[str, Value] = json.loads(json.dumps(dict(returned), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"stage {stage.name!r} returned what JSON cannot say: {error}") from error
    return found


def _prepare(plan: Plan, job: Job) -> None:
    """Set threads, and the seeds of global generators: no stage should draw from them, but one that
    does (dropout, say) must not depend on which jobs its worker has done before."""
    seed = int(job.hash[:8], 16)
    random.seed(seed)
    if plan.torch:
        import numpy
        import torch

        numpy.random.seed(seed)
        torch.manual_seed(seed)
        torch.set_num_threads(job.threads)


def _environment(plan: Plan, threads: int) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("triggerfish", "torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    found["platform"] = f"{platform.system()} {platform.machine()}"
    found["device"] = "cpu"
    if plan.torch:
        import torch

        if torch.cuda.is_available():
            found["device"] = f"cuda ({torch.cuda.get_device_name()})"
    found["threads"] = str(threads)
    return found
