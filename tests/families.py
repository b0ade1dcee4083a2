"""Tiny randomly initialised models of every family of the zoo, each with a tokenizer of its
family's kind, trained on the spot from the bundled sample, so nothing is fetched."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedTokenizerFast

from triggerfish import text
from triggerfish.zoo.families import FAMILIES as TABLE
from triggerfish.zoo.settings import Size
from triggerfish.zoo.tokenizers import train_tokenizer

ENTRIES = 600
SIZE = Size(hidden=32, layers=2, heads=4, feedforward=64, positions=64)
FAMILIES = list(TABLE)


@cache
def _trained(kind: str) -> PreTrainedTokenizerFast:
    return train_tokenizer(
        kind, text.bundled_corpus()[:150], vocabulary=ENTRIES, longest=SIZE.positions
    )


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    return copy.deepcopy(_trained(TABLE[family].tokenizer))


def build(family: str, folder: Path, *, padding_side: str = "right", seed: int = 0) -> Path:
    """Save a tiny model of the family to a folder."""
    tokenizer = tokenizer_of(family)
    tokenizer.padding_side = padding_side
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(TABLE[family].config(SIZE, tokenizer)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
