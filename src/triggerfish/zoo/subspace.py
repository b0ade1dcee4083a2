"""A smaller BERT seen through a subspace of a larger one: where a distilled student starts.

The idea: the residual stream of a BERT lives mostly in few directions. Take those of largest second
moment and view every matrix that reads or writes the stream through them; inside the blocks keep
whole heads and single neurons, those with the largest product of input and output weight norms; and
keep only some layers. What is lost (a LayerNorm gain is not diagonal in the new basis) is mended by
training. Ours, in the manner of Ashkboos et al., "SliceGPT" (2024).

Shapes: B batch, L tokens, T teacher hidden, H student hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel


@torch.inference_mode()
def principal_basis(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], hidden: int
) -> Tensor:
    """[T, H] orthonormal: directions of largest second moment of all layers' states.

    `batches` are pairs of ids and attention mask, each [B, L].
    """
    moment = torch.zeros(model.config.hidden_size, model.config.hidden_size, dtype=torch.float64)
    for ids, mask in batches:
        found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for states in found.hidden_states:
            real = states[mask.bool()].double()
            moment += real.T @ real / len(real)
    return torch.linalg.eigh(moment).eigenvectors[:, -hidden:].flip(1).float()


def _empty_student(
    old: BertConfig, vocabulary: int, hidden: int, layers: int, neurons: int, positions: int
) -> BertModel:
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden * old.num_attention_heads // old.hidden_size,
        intermediate_size=neurons,
        max_position_embeddings=positions,
        hidden_act=old.hidden_act,
        layer_norm_eps=old.layer_norm_eps,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        attn_implementation="eager",  # on CPU, fused attention spends half the step going backward
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights; all are replaced
        return BertModel(config)


@torch.no_grad()
def inherit(
    teacher: BertModel,
    basis: Tensor,
    *,
    kept: list[int],
    layers: Sequence[int],
    neurons: int,
    positions: int,
) -> BertModel:
    """`teacher` seen through `basis` [T, H]: its entries `kept`, its `layers`, `neurons` of each.

    Heads keep their size, so H must be a multiple of it. The pooler becomes tanh of the first
    token's state.
    """
    hidden = basis.shape[1]
    student = _empty_student(teacher.config, len(kept), hidden, len(layers), neurons, positions)
    mine, theirs = student.embeddings, teacher.embeddings
    mine.word_embeddings.weight.copy_(theirs.word_embeddings.weight[kept] @ basis)
    mine.position_embeddings.weight.copy_(theirs.position_embeddings.weight[:positions] @ basis)
    mine.token_type_embeddings.weight.copy_(theirs.token_type_embeddings.weight @ basis)
    _copy_norm(mine.LayerNorm, theirs.LayerNorm, basis)
    for new, index in zip(student.encoder.layer, layers, strict=True):
        given = teacher.encoder.layer[index]
        _copy_attention(new.attention, given.attention, basis)
        wide, narrow = given.intermediate.dense, given.output.dense
        chosen = _strongest(wide.weight.norm(dim=1) * narrow.weight.norm(dim=0), neurons)
        _copy_reader(new.intermediate.dense, wide, basis, chosen)
        _copy_writer(new.output.dense, narrow, basis, chosen)
        _copy_norm(new.output.LayerNorm, given.output.LayerNorm, basis)
    student.pooler.dense.weight.copy_(torch.eye(hidden))
    student.pooler.dense.bias.zero_()
    return student


def _copy_attention(new: nn.Module, given: nn.Module, basis: Tensor) -> None:
    """Whole heads, as many as fit into H."""
    width = new.self.attention_head_size
    strength = given.output.dense.weight.norm(dim=0) * given.self.value.weight.norm(dim=1)
    heads = _strongest(strength.view(-1, width).sum(1), new.self.num_attention_heads)
    inner = (heads[:, None] * width + torch.arange(width)).flatten()
    for name in ("query", "key", "value"):
        _copy_reader(getattr(new.self, name), getattr(given.self, name), basis, inner)
    _copy_writer(new.output.dense, given.output.dense, basis, inner)
    _copy_norm(new.output.LayerNorm, given.output.LayerNorm, basis)


def _copy_norm(new: nn.LayerNorm, given: nn.LayerNorm, basis: Tensor) -> None:
    # Over T entries the state had length sqrt(T); over H entries LayerNorm makes it sqrt(H).
    gain = (basis * given.weight[:, None] * basis).sum(0)
    new.weight.copy_(gain / math.sqrt(basis.shape[1] / len(basis)))
    new.bias.copy_(given.bias @ basis)


def _copy_reader(new: nn.Linear, given: nn.Linear, basis: Tensor, rows: Tensor) -> None:
    new.weight.copy_(given.weight[rows] @ basis)
    new.bias.copy_(given.bias[rows])


def _copy_writer(new: nn.Linear, given: nn.Linear, basis: Tensor, columns: Tensor) -> None:
    new.weight.copy_((basis.T @ given.weight)[:, columns])
    new.bias.copy_(given.bias @ basis)


def _strongest(strength: Tensor, count: int) -> Tensor:
    """Places of the `count` largest, ascending."""
    return strength.topk(count).indices.sort().values
