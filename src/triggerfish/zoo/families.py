"""The families that `pretrain` knows: a table, one line each, of tokenizer kind, config, class with
the pre-training head, objective, and the readout that the library's classification head uses.

Configs keep their family's defaults (dropout among them, for whoever fine-tunes) but for sizes and
the tokenizer's ids. Pre-training itself runs without dropout.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
import transformers as hf
from torch import nn

from triggerfish.readouts import Position
from triggerfish.zoo import objectives
from triggerfish.zoo.settings import Size

Tokenizer = hf.PreTrainedTokenizerFast
Maker = Callable[[Size, Tokenizer], hf.PreTrainedConfig]
Config = Callable[..., hf.PreTrainedConfig]


@dataclass(frozen=True)
class Family:
    """tokenizer: a name in `tokenizers.KINDS`. config: from sizes and the trained tokenizer.
    model: the class that is published. objective: its loss (see objectives.py). readout: where the
    classification head reads. helper: what is trained beside the model and thrown away."""

    tokenizer: str
    config: Maker
    model: type[hf.PreTrainedModel]
    objective: objectives.Objective
    readout: Position = "first"
    helper: Callable[[nn.Module], nn.Module] = objectives.no_helper


class Ids(TypedDict):
    """What every config names alike."""

    vocab_size: int
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | None


class Stack(TypedDict):
    """The four sizes under their usual names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


def _ids(tokenizer: Tokenizer) -> Ids:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _stack(size: Size) -> Stack:
    return {
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feedforward,
    }


def _like_bert(config: Config) -> Maker:
    return lambda size, tokenizer: config(
        **_stack(size), **_ids(tokenizer), max_position_embeddings=size.positions
    )


def _like_roberta(config: Config) -> Maker:
    # Positions are counted from the pad id + 1 on, which is 2.
    return lambda size, tokenizer: config(
        **_stack(size), **_ids(tokenizer), max_position_embeddings=size.positions + 2
    )


def _factorised(config: Config) -> Maker:
    """Embeddings narrower than the states: 2/3 of H here, in whole sixteens."""
    return lambda size, tokenizer: config(
        **_stack(size),
        **_ids(tokenizer),
        max_position_embeddings=size.positions,
        embedding_size=max(16, size.hidden * 2 // 3 // 16 * 16),
    )


def _grouped(config: Config) -> Maker:
    """Two query heads share one key and value head; embeddings tied, as small models of the family
    have them."""
    return lambda size, tokenizer: config(
        **_stack(size),
        **_ids(tokenizer),
        max_position_embeddings=size.positions,
        num_key_value_heads=size.heads // 2,
        tie_word_embeddings=True,
    )


def _deberta(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    config: Config = hf.DebertaV2Config  # its declared fields lack some of the published model's
    return config(
        **_stack(size),
        **_ids(tokenizer),
        max_position_embeddings=size.positions,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        type_vocab_size=0,
    )


def _distilbert(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    return hf.DistilBertConfig(
        **_ids(tokenizer),
        dim=size.hidden,
        n_layers=size.layers,
        n_heads=size.heads,
        hidden_dim=size.feedforward,
        max_position_embeddings=size.positions,
    )


def _modernbert(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    return hf.ModernBertConfig(
        **_stack(size),
        **_ids(tokenizer),
        max_position_embeddings=size.positions,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )


def _xlnet(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    return hf.XLNetConfig(
        **_ids(tokenizer),
        d_model=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
        d_inner=size.feedforward,
    )


def _gpt2(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    return hf.GPT2Config(
        **_ids(tokenizer),
        n_embd=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
        n_inner=size.feedforward,
        n_positions=size.positions,
    )


def _opt(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    return hf.OPTConfig(
        **_ids(tokenizer),
        hidden_size=size.hidden,
        word_embed_proj_dim=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        ffn_dim=size.feedforward,
        max_position_embeddings=size.positions,
    )


def _bart(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    return hf.BartConfig(
        **_ids(tokenizer),
        d_model=size.hidden,
        encoder_layers=max(1, size.layers // 2),
        decoder_layers=max(1, size.layers // 2),
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.feedforward,
        decoder_ffn_dim=size.feedforward,
        max_position_embeddings=size.positions,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )


def _t5(size: Size, tokenizer: Tokenizer) -> hf.PreTrainedConfig:
    config: Config = hf.T5Config  # its declared fields lack the decoder's first token
    return config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        d_model=size.hidden,
        d_kv=size.hidden // size.heads,
        d_ff=size.feedforward,
        num_layers=max(1, size.layers // 2),
        num_heads=size.heads,
        decoder_start_token_id=tokenizer.pad_token_id,
    )


FAMILIES: dict[str, Family] = {
    "bert": Family("bert", _like_bert(hf.BertConfig), hf.BertForMaskedLM, objectives.masked),
    "roberta": Family(
        "roberta", _like_roberta(hf.RobertaConfig), hf.RobertaForMaskedLM, objectives.masked
    ),
    "albert": Family(
        "albert", _factorised(hf.AlbertConfig), hf.AlbertForMaskedLM, objectives.masked
    ),
    "electra": Family(
        "bert",
        _factorised(hf.ElectraConfig),
        hf.ElectraForPreTraining,
        objectives.replaced,
        helper=objectives.generator_of,
    ),
    "deberta-v2": Family("deberta-v2", _deberta, hf.DebertaV2ForMaskedLM, objectives.masked),
    "distilbert": Family("distilbert", _distilbert, hf.DistilBertForMaskedLM, objectives.masked),
    "mpnet": Family("mpnet", _like_roberta(hf.MPNetConfig), hf.MPNetForMaskedLM, objectives.masked),
    "xlnet": Family("xlnet", _xlnet, hf.XLNetLMHeadModel, objectives.permuted, "last"),
    "ernie": Family("bert", _like_bert(hf.ErnieConfig), hf.ErnieForMaskedLM, objectives.masked),
    "modernbert": Family("modernbert", _modernbert, hf.ModernBertForMaskedLM, objectives.masked),
    "gpt2": Family("gpt2", _gpt2, hf.GPT2LMHeadModel, objectives.causal, "last"),
    "opt": Family("opt", _opt, hf.OPTForCausalLM, objectives.causal, "last"),
    "llama": Family(
        "llama", _grouped(hf.LlamaConfig), hf.LlamaForCausalLM, objectives.causal, "last"
    ),
    "qwen2": Family(
        "qwen2", _grouped(hf.Qwen2Config), hf.Qwen2ForCausalLM, objectives.causal, "last"
    ),
    "bart": Family("roberta", _bart, hf.BartForConditionalGeneration, objectives.infilled, "eos"),
    "t5": Family("t5", _t5, hf.T5ForConditionalGeneration, objectives.corrupted, "eos"),
}


def family_named(name: str) -> Family:
    """The family of that name; ValueError with the nearest name where there is none."""
    if name not in FAMILIES:
        near = difflib.get_close_matches(name.lower(), FAMILIES, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"family: {name!r} is not one of {', '.join(FAMILIES)}; did you mean {near}?"
        )
    return FAMILIES[name]


def base_of(model: hf.PreTrainedModel) -> nn.Module:
    """The base model inside a model with a pre-training head, as `AutoModel` would load it; they
    share their weights."""
    if not isinstance(model, hf.T5ForConditionalGeneration):
        base: nn.Module = model.base_model
        return base
    with torch.random.fork_rng(devices=[]):
        whole = hf.T5Model(model.config)
    whole.shared, whole.encoder, whole.decoder = model.shared, model.encoder, model.decoder
    return whole
