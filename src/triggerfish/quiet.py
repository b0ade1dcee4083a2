"""Hugging Face without its own output: library code neither prints nor draws progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import logging as hub
from transformers.utils import logging as transformers


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no progress bars while a checkpoint is read or written."""
    loggers = (transformers, hub)
    verbosities = [one.get_verbosity() for one in loggers]
    for one in loggers:
        one.set_verbosity_error()
    transformers.disable_progress_bar()
    try:
        yield
    finally:
        for one, verbosity in zip(loggers, verbosities, strict=True):
            one.set_verbosity(verbosity)
        transformers.enable_progress_bar()
