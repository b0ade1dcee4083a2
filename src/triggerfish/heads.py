"""Language-model heads: the part of a checkpoint that `AutoModel` leaves behind, for attacks and
purifiers that train with the model's own objective.

Legend: B batch, L tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from triggerfish.backbone import Backbone
from triggerfish.checkpoints import PICKLE, read_weights, weight_files
from triggerfish.loading import build

IGNORED = -100
"""Label of a place that has no part in the loss (Hugging Face's convention)."""
MASKED, KEPT_OR_RANDOM = 0.15, 0.2
"""Share of tokens to predict, and share of those that are not replaced by the mask token, half of
them by a random one (BERT, section 3.1)."""


def kind_of_head(backbone: Backbone) -> str:
    """`masked` or `causal`: which head this model's family has; ValueError for families that have
    neither (encoder-decoders, XLNet)."""
    family = backbone.model.config.model_type
    if not backbone.model.config.is_encoder_decoder:
        if backbone.causal and family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return "causal"
        masked = backbone.tokenizer.mask_token_id is not None
        if not backbone.causal and masked and family in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            return "masked"
    raise ValueError(
        f"head: {backbone.name} is of type {family}, which has neither a masked nor a causal "
        "language-model head"
    )


def with_head(backbone: Backbone) -> Backbone:
    """The same backbone, with its language-model head read from its checkpoint.

    Raises ValueError where the family has none, where this checkpoint was saved without it, since a
    fresh head would be noise, and where there is no checkpoint to read.
    """
    if backbone.checkpoint is None:
        raise ValueError(f"head: {backbone.name} was made in memory and has no checkpoint")
    auto = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM}[kind_of_head(backbone)]
    folder = Path(backbone.checkpoint)
    if not folder.is_dir():
        raise ValueError(f"head: {folder} can no longer be read")
    pickled = any(name.endswith(PICKLE) for name in backbone.files)
    weights = read_weights(folder, weight_files(folder, pickled))
    config = copy.deepcopy(backbone.model.config)
    whole, missing, _ = build(auto, config, weights, folder)
    if missing:
        raise ValueError(
            f"head: {backbone.name} was saved without its language-model head "
            f"({missing[0]} is missing)"
        )
    twin = copy.copy(backbone)
    _set_base(whole, backbone.model)
    twin.whole = whole.to(backbone.device).eval().requires_grad_(False)
    return twin


def _set_base(whole: Any, base: torch.nn.Module) -> None:
    """Let `whole` compute with the weights of `base`, so that both change together."""
    setattr(whole, whole.base_model_prefix, base)
    whole.tie_weights()


def lm_loss(
    backbone: Backbone, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy at the places of `labels` (B, L) that are not IGNORED; a causal head
    compares each place with the label to its right."""
    output = backbone.whole(input_ids=ids, attention_mask=mask)
    logits = output.logits.float()
    if backbone.causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    wanted = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[wanted], labels[wanted])


def own_task(
    backbone: Backbone,
    ids: torch.Tensor,
    mask: torch.Tensor,
    generator: torch.Generator,
    protected: frozenset[int] = frozenset(),
) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, labels), both (B, L), of the model's own objective on texts: tokens masked as for
    BERT, at least one in each text, or the next tokens. Special tokens and `protected` ids are
    never masked."""
    if backbone.causal:
        return ids, torch.where(mask.bool(), ids, IGNORED)
    kept = torch.tensor(sorted(backbone.special_ids | protected), device=ids.device)
    free = mask.bool() & ~torch.isin(ids, kept)
    draws = torch.rand(ids.shape, generator=generator).to(ids.device)
    lowest = torch.where(free, draws, 2.0).argmin(1, keepdim=True)
    chosen = (draws < MASKED).scatter(1, lowest, True) & free
    how = torch.rand(ids.shape, generator=generator).to(ids.device)
    ordinary = torch.tensor(backbone.vocabulary)
    random_ids = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)].to(
        ids.device
    )
    inputs = torch.where(chosen & (how >= KEPT_OR_RANDOM), backbone.tokenizer.mask_token_id, ids)
    inputs = torch.where(chosen & (how < KEPT_OR_RANDOM / 2), random_ids, inputs)
    return inputs, torch.where(chosen, ids, IGNORED)
