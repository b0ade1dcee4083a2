"""The model under repair beside the model as it was given, both with their language-model head
where the checkpoint has one, and what of the former is trained.

Legend: B rows, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional as F

from triggerfish.backbone import Backbone, States
from triggerfish.heads import IGNORED, own_task, with_head
from triggerfish.lora import Adapter
from triggerfish.readouts import Readout, pad

Mode = Literal["full", "lora", "lower"]
MODES = ("full", "lora", "lower")


class Student:
    """`original` is frozen; `model` starts as `backbone` and is trained.

    mode: all weights, a LoRA adapter of `rank` (needs the extra `peft`), or the embeddings and the
    lower half of the layers. ValueError where a family's layers share their weights, so that there
    is no lower half.
    """

    def __init__(
        self, backbone: Backbone, original: Backbone, mode: Mode, rank: int = 16, seed: int = 0
    ):
        if mode not in MODES:
            raise ValueError(f"mode: {mode!r} is not one of {', '.join(MODES)}")
        self.given = backbone
        self.original = completed(original)
        self.has_head = self.original.whole is not self.original.model
        self.model = self.original.trainable()
        self.model.model.load_state_dict(backbone.model.state_dict())
        if self.has_head:
            self.model.whole.requires_grad_(False)
            self.model.model.requires_grad_(True)
        for name, parameter in self.model.model.named_parameters():
            if any(name.endswith(key) or key.endswith(name) for key in backbone.untrained):
                parameter.requires_grad_(False)
        if mode == "lower":
            _freeze_upper(self.model)
        self.adapter = Adapter(self.model, rank, seed) if mode == "lora" else None

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for p in self.model.model.parameters() if p.requires_grad]

    def states(self, rows: Sequence[Sequence[int]], readouts: Sequence[Readout]) -> States:
        """Every state of the model under repair, differentiable."""
        return self._states(self.model, rows, readouts)

    @torch.no_grad()
    def reference(self, rows: Sequence[Sequence[int]], readouts: Sequence[Readout]) -> States:
        """Every state of the model as it was given."""
        return self._states(self.original, rows, readouts)

    def _states(
        self, model: Backbone, rows: Sequence[Sequence[int]], readouts: Sequence[Readout]
    ) -> States:
        ids, mask = pad(rows, model.pad_id)
        with model.autocast():
            return model.forward_states(ids.to(model.device), mask.to(model.device), readouts)

    def head_divergence(
        self, rows: Sequence[Sequence[int]], generator: torch.Generator
    ) -> torch.Tensor:
        """Mean KL(p_ref, p), in nats, of the language-model head at the tokens that its own
        objective asks for."""
        ids, mask = pad(rows, self.model.pad_id)
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        inputs, labels = own_task(self.original, ids, mask, generator)
        wanted = labels != IGNORED
        with self.model.autocast():
            with torch.no_grad():
                target = self.original.whole(input_ids=inputs, attention_mask=mask).logits[wanted]
            found = self.model.whole(input_ids=inputs, attention_mask=mask).logits[wanted]
        return F.kl_div(
            found.float().log_softmax(-1),
            target.float().log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )

    def finished(self) -> Backbone:
        """A plain frozen copy of `backbone` with the weights that were trained."""
        if self.adapter:
            self.adapter.merge()
        # `trainable` chose an attention that is slow in inference; a copy has the model's own.
        done = self.given.clone()
        done.model.load_state_dict(self.model.model.state_dict())
        done.whole.requires_grad_(False)
        return done


def usual_rate(backbone: Backbone) -> float:
    """The learning rate for a model of this width: 2e-4 at 384 (ours: models of widths 192 to 384
    were tried)."""
    return 0.08 / backbone.hidden


def completed(backbone: Backbone) -> Backbone:
    """The backbone with its language-model head, or as it is where the family has none or the
    checkpoint was saved without it."""
    if backbone.whole is not backbone.model or backbone.folder is None:
        return backbone
    try:
        return with_head(backbone)
    except ValueError:
        return backbone


def _freeze_upper(backbone: Backbone) -> None:
    """Leave the embeddings and the lower half of every stack of layers trainable."""
    stacks = [
        module
        for module in backbone.model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == backbone.layers > 1
    ]
    if not stacks:
        raise ValueError(
            f"mode: lower needs layers with weights of their own, which {backbone.name} "
            f"({backbone.model.config.model_type}) does not have"
        )
    backbone.model.requires_grad_(False)
    for stack in stacks:
        for layer in stack[: (len(stack) + 1) // 2]:
            layer.requires_grad_(True)
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.requires_grad_(True)
