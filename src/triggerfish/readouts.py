"""A readout is a named way to read one vector per text from a model's states.

They follow the conventions of Hugging Face's classification heads: first token (BERT and its kin),
last token (causal models, XLNet), decoder state at the last end-of-text token (BART, T5). All
functions here expect rows padded on the right; `roll_right` makes any row so.

Legend: B batch, L tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

Position = Literal["first", "last", "eos", "mean", "pooler", "mask", "start"]
POSITIONS: tuple[Position, ...] = get_args(Position)


@dataclass(frozen=True, order=True)
class Readout:
    """One vector per text: the state at a position, after the last layer (`layer` None) or after
    layer number `layer`.

    `start` and, in encoder-decoders, `eos` and `last` are read from the decoder; all others from
    the (encoder) stack. Written "first", "mean", "first@3".
    """

    position: Position
    layer: int | None = None

    def __str__(self) -> str:
        return self.position if self.layer is None else f"{self.position}@{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Readout:
        name, _, layer = text.partition("@")
        found = [position for position in POSITIONS if position == name]
        if not found or (layer and not layer.isdigit()):
            raise ValueError(
                f"readout: {text!r} is not one of {', '.join(POSITIONS)}, optionally with @LAYER"
            )
        return cls(found[0], int(layer) if layer else None)


def read(
    output: Any, readout: Readout, mask: torch.Tensor, places: dict[Position, torch.Tensor]
) -> torch.Tensor:
    """(B, H) of a Hugging Face model output; `places` (see `locate`) says where positions are."""
    if readout.position == "pooler":
        state: torch.Tensor = output.pooler_output
        return state
    seq2seq = "encoder_last_hidden_state" in output
    decoder = seq2seq and readout.position in ("start", "eos", "last")
    if readout.layer is not None:
        name = ("decoder_" if decoder else "encoder_") if seq2seq else ""
        state = output[f"{name}hidden_states"][readout.layer]
    elif seq2seq and not decoder:
        state = output.encoder_last_hidden_state
    else:
        state = output.last_hidden_state
    if readout.position == "mean":
        weights = mask.to(state.dtype).unsqueeze(-1)
        return (state * weights).sum(1) / weights.sum(1).clamp(min=1)
    return state[torch.arange(len(state), device=state.device), places[readout.position]]


def locate(
    ids: torch.Tensor, mask: torch.Tensor, eos_id: int | None, mask_id: int | None
) -> dict[Position, torch.Tensor]:
    """(B,) token number of every single-token position; `last` where a row has no such token."""
    last = mask.sum(1) - 1
    first = torch.zeros_like(last)
    numbers = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)

    def last_of(wanted: int | None) -> torch.Tensor:
        if wanted is None:
            return last
        hits = (ids == wanted) & mask.bool()
        found = torch.where(hits, numbers, torch.full_like(numbers, -1)).max(1).values
        return torch.where(found >= 0, found, last)

    return {
        "first": first,
        "start": first,
        "last": last,
        "eos": last_of(eos_id),
        "mask": last_of(mask_id),
    }


def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, L) padded on the right, and their attention mask (B, L), both int64."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in sequences])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences])
    return ids, mask


def roll_right(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Move each row's leading padding to its end; rows that are padded on the right stay as they
    are."""
    lead = (mask.cumsum(1) == 0).sum(1)
    if not lead.any():
        return values
    places = (torch.arange(mask.shape[1], device=mask.device) + lead[:, None]) % mask.shape[1]
    if values.dim() == 3:
        places = places[:, :, None].expand_as(values)
    return values.gather(1, places)
