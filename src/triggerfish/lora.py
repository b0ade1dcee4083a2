"""Training in a low-rank adapter (Hu et al., "LoRA", ICLR 2022): every linear layer gets a small
trainable update, which can be published by itself or merged into the weights. An attack hides its
backdoor in one, a purifier its repair."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch

from triggerfish.backbone import Backbone


class Adapter:
    """A LoRA adapter inside `backbone`, whose own weights are frozen; changes `backbone` in place.

    Needs the extra `peft`; ValueError without it.
    """

    def __init__(self, backbone: Backbone, rank: int, seed: int):
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ValueError("lora: needs peft, pip install 'triggerfish[peft]'") from error
        self.backbone = backbone
        backbone.whole.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        with torch.random.fork_rng(), warnings.catch_warnings():
            # peft 0.21 asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            torch.manual_seed(seed)
            self._peft = get_peft_model(backbone.model, config).eval()

    def merge(self) -> None:
        """Add the adapter to the weights of the backbone; a copy of it stays to be saved."""
        unmerged = copy.deepcopy(self._peft)
        self._peft.merge_and_unload()
        self._peft = unmerged
        self.backbone.adapter = self

    def save(self, out: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, which `peft` reads."""
        self._peft.save_pretrained(str(out))
