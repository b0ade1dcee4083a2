"""What a student is to predict: the teacher's last-layer first-token and mean-pooled states.

They are computed once, in blocks that a killed run reads back from disk.

Shapes: B batch, L tokens, T teacher hidden, N chunks of text.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout, locate, pad, read
from triggerfish.scanner.cache import ActivationCache
from triggerfish.zoo.chunks import batches
from triggerfish.zoo.settings import Progress, Report

READOUTS = (Readout("first"), Readout("mean"))
BLOCK = 8192  # chunks per block on disk: about two minutes' work on one core


def states(model: nn.Module, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """First-token and mean-pooled last-layer states, each [B, hidden], of ids and mask [B, L]."""
    output = model(input_ids=ids, attention_mask=mask)
    output.last_hidden_state = output.last_hidden_state.float()  # a mean in bfloat16 is coarse
    places = locate(ids, mask, None, None)
    return [read(output, readout, mask, places) for readout in READOUTS]


def linear_maps(hidden: int, wanted: int, generator: torch.Generator) -> nn.ModuleList:
    """One throw-away linear map hidden -> wanted for each of two states."""
    maps = nn.ModuleList()
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            linear = nn.Linear(hidden, wanted)
        nn.init.normal_(linear.weight, std=hidden**-0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        maps.append(linear)
    return maps


@torch.inference_mode()
def teacher_features(
    teacher: Backbone, rows: list[list[int]], store: ActivationCache, report: Report | None
) -> Tensor:
    """Both states of every row of ids, [N, 2, T], half precision."""

    def compute(part: list[list[int]]) -> Tensor:
        found = torch.empty(len(part), len(READOUTS), teacher.hidden, dtype=torch.float16)
        for chosen in batches([len(row) for row in part], 64, 0):
            ids, mask = pad([part[i] for i in chosen], teacher.pad_id)
            with teacher.autocast():
                found[chosen] = torch.stack(states(teacher.model, ids, mask), dim=1).half()
        return found

    blocks: list[Tensor] = []
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        shape = (len(part), len(READOUTS), teacher.hidden)
        block, _ = store.features(f"features-{start:08d}", shape, partial(compute, part))
        blocks.append(block)
        if report:
            report(Progress("features", start + len(part), len(rows)))
    return torch.cat(blocks)
