"""In which precision a model computes where rounding does not matter: screening and training.

bfloat16 autocast is about twice as fast as float32 on a processor with bfloat16 instructions, and
three to eight times slower on one without (docs/decisions/0001-precision.md). `choose` decides by
timing one matrix product in both, on one thread, once per process.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
CHOICES = ("auto", "fp32", "bf16")
ROWS, WIDTH = 1024, 512
"""Shape of the product that is timed: a small batch of a small model, some milliseconds."""
REPEATS = 5


def choose(precision: str, device: torch.device) -> Precision:
    """What "auto" means on this device; "fp32" and "bf16" as they are, ValueError for the rest."""
    if precision == "fp32":
        return "fp32"
    if precision == "bf16":
        return "bf16"
    if precision == "auto":
        return _fastest(device)
    raise ValueError(f"precision: {precision!r} is not one of {', '.join(CHOICES)}")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model computes in that precision; its weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@cache
def _fastest(device: torch.device) -> Precision:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    left, right = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine, and hide the ratio
    with torch.inference_mode():
        for _ in range(REPEATS + 1):
            for precision, taken in seconds.items():
                started = time.perf_counter()
                with autocast(device, precision):
                    torch.nn.functional.linear(left, right)
                taken.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    # The least of some, since others may use the machine; the first of each only warms up.
    return min(seconds, key=lambda precision: min(seconds[precision][1:]))
