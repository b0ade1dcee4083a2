"""A smaller BERT from a subspace of a larger one: where a distilled student starts.

The idea: the residual stream of a BERT lives mostly in few directions. Take those of largest second
moment and project every matrix that reads or writes the stream onto them; inside the blocks keep
whole heads and single neurons, those with the largest product of input and output weight norms; and
keep only some layers. What is lost (a LayerNorm gain is not diagonal in the new basis) is repaired
by training. Ours, in the manner of Ashkboos et al., "SliceGPT" (2024).

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
    model: BertModel, batches: Sequence[tuple[Tensor, Tensor]], hidden: int
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
    basis: Tensor = torch.linalg.eigh(moment).eigenvectors
    return basis[:, -hidden:].flip(1).float()


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
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights; all are replaced
        student = BertModel(config)
    student.set_attn_implementation("eager")  # on a CPU, fused attention goes backward slowly
    return student


def _linear(module: nn.Module, path: str) -> nn.Linear:
    found = module.get_submodule(path)
    assert isinstance(found, nn.Linear)
    return found


def _copy_norm(new: nn.Module, given: nn.Module, path: str, basis: Tensor) -> None:
    mine, theirs = new.get_submodule(path), given.get_submodule(path)
    assert isinstance(mine, nn.LayerNorm)
    assert isinstance(theirs, nn.LayerNorm)
    # A state of T coordinates had length sqrt(T); LayerNorm makes that of H coordinates sqrt(H).
    gain = (basis * theirs.weight[:, None] * basis).sum(0)
    mine.weight.copy_(gain / math.sqrt(basis.shape[1] / len(basis)))
    mine.bias.copy_(theirs.bias @ basis)


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
    """`teacher` seen through `basis` [T, H]: its tokens `kept`, its `layers`, `neurons` of each.

    Heads keep their size, so H must be a multiple of it. The pooler becomes tanh of the first
    token's state.
    """
    hidden = basis.shape[1]
    student = _empty_student(teacher.config, len(kept), hidden, len(layers), neurons, positions)
    for name, rows in (("word", kept), ("position", range(positions)), ("token_type", (0, 1))):
        path = f"embeddings.{name}_embeddings.weight"
        student.get_parameter(path).copy_(teacher.get_parameter(path)[list(rows)] @ basis)
    _copy_norm(student, teacher, "embeddings.LayerNorm", basis)
    width = student.config.hidden_size // student.config.num_attention_heads
    for number, index in enumerate(layers):
        new = student.get_submodule(f"encoder.layer.{number}")
        given = teacher.get_submodule(f"encoder.layer.{index}")
        _copy_attention(new, given, basis, student.config.num_attention_heads, width)
        wide, narrow = _linear(given, "intermediate.dense"), _linear(given, "output.dense")
        strongest = _strongest(wide.weight.norm(dim=1) * narrow.weight.norm(dim=0), neurons)
        _copy_reader(_linear(new, "intermediate.dense"), wide, basis, strongest)
        _copy_writer(_linear(new, "output.dense"), narrow, basis, strongest)
        _copy_norm(new, given, "output.LayerNorm", basis)
    pooler = _linear(student, "pooler.dense")
    pooler.weight.copy_(torch.eye(hidden))
    pooler.bias.zero_()
    return student


def _copy_attention(
    new: nn.Module, given: nn.Module, basis: Tensor, heads: int, width: int
) -> None:
    """Whole heads of one layer, as many as fit into H, each `width` wide."""
    written = _linear(given, "attention.output.dense")
    read = _linear(given, "attention.self.value")
    strength = written.weight.norm(dim=0) * read.weight.norm(dim=1)
    chosen = _strongest(strength.view(-1, width).sum(1), heads)
    inner = (chosen[:, None] * width + torch.arange(width)).flatten()
    for name in ("query", "key", "value"):
        path = f"attention.self.{name}"
        _copy_reader(_linear(new, path), _linear(given, path), basis, inner)
    _copy_writer(_linear(new, "attention.output.dense"), written, basis, inner)
    _copy_norm(new, given, "attention.output.LayerNorm", basis)


def _copy_reader(new: nn.Linear, given: nn.Linear, basis: Tensor, rows: Tensor) -> None:
    new.weight.copy_(given.weight[rows] @ basis)
    new.bias.copy_(given.bias[rows])


def _copy_writer(new: nn.Linear, given: nn.Linear, basis: Tensor, columns: Tensor) -> None:
    new.weight.copy_((basis.T @ given.weight)[:, columns])
    new.bias.copy_(given.bias @ basis)


def _strongest(strength: Tensor, count: int) -> Tensor:
    """Places of the `count` largest, ascending."""
    return strength.topk(count).indices.sort().values
