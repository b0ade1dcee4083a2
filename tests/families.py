"""Tiny randomly initialised models of fourteen families, each with a tokenizer of its family's
kind.

Tokenizers are trained on the spot from the bundled sample, so nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from triggerfish import text

SIZE = 600
FAMILIES = [
    "bert",
    "roberta",
    "albert",
    "electra",
    "deberta-v2",
    "distilbert",
    "mpnet",
    "xlnet",
    "modernbert",
    "gpt2",
    "llama",
    "qwen2",
    "bart",
    "t5",
]
_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_SPECIAL = {"cls": "[CLS]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}


def _wordpiece() -> hf.PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        _texts(),
        trainers.WordPieceTrainer(
            vocab_size=SIZE, special_tokens=list(_SPECIAL.values()), show_progress=False
        ),
    )
    ids = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ids
    )
    return _wrap(core, {f"{k}_token": v for k, v in _SPECIAL.items()})


def _byte_bpe(kind: str) -> hf.PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        _texts(),
        trainers.BpeTrainer(
            vocab_size=SIZE,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    ids = [(token, core.token_to_id(token)) for token in ("<s>", "</s>")]
    template = {"encoder": "<s> $A </s>", "bos": "<s> $A", "bare": "$A"}[kind]
    core.post_processor = processors.TemplateProcessing(template, f"{template} $B", ids)
    names = {"eos_token": "</s>", "unk_token": "<unk>"}
    if kind == "encoder":
        names |= {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        }
    if kind == "bos":
        names |= {"bos_token": "<s>"}
    return _wrap(core, names)


def _unigram(kind: str) -> hf.PreTrainedTokenizerFast:
    special = ["<pad>", "</s>", "<unk>", "<cls>", "<sep>", "<mask>"]
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        _texts(),
        trainers.UnigramTrainer(
            vocab_size=SIZE, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    template = {"t5": "$A </s>", "xlnet": "$A <sep> <cls>", "albert": "<cls> $A <sep>"}[kind]
    ids = [(token, core.token_to_id(token)) for token in ("<cls>", "<sep>", "</s>")]
    core.post_processor = processors.TemplateProcessing(template, f"{template} $B", ids)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    if kind != "t5":
        names |= {"cls_token": "<cls>", "sep_token": "<sep>", "mask_token": "<mask>"}
    return _wrap(core, names)


def _texts() -> list[str]:
    return text.bundled_corpus()[:150]


def _wrap(core: Tokenizer, names: dict[str, str]) -> hf.PreTrainedTokenizerFast:
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **names)


def _model(family: str, size: int) -> tuple[hf.PreTrainedConfig, type]:
    v = {"vocab_size": size}
    seq2seq = {"d_model": 32, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    bart = {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    made = {
        "bert": lambda: hf.BertConfig(**_SMALL, **v),
        "roberta": lambda: hf.RobertaConfig(
            **_SMALL, **v, pad_token_id=1, max_position_embeddings=66
        ),
        "albert": lambda: hf.AlbertConfig(**_SMALL, **v, embedding_size=16),
        "electra": lambda: hf.ElectraConfig(**_SMALL, **v, embedding_size=16),
        "deberta-v2": lambda: hf.DebertaV2Config(
            **_SMALL,
            **v,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
        ),
        "distilbert": lambda: hf.DistilBertConfig(
            **v, dim=32, n_layers=2, n_heads=4, hidden_dim=64
        ),
        "mpnet": lambda: hf.MPNetConfig(**_SMALL, **v, pad_token_id=1, max_position_embeddings=66),
        "xlnet": lambda: hf.XLNetConfig(**v, d_model=32, n_layer=2, n_head=4, d_inner=64),
        "modernbert": lambda: hf.ModernBertConfig(
            **_SMALL, **v, pad_token_id=0, global_attn_every_n_layers=1
        ),
        "gpt2": lambda: hf.GPT2Config(**v, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "llama": lambda: hf.LlamaConfig(**_SMALL, **v, num_key_value_heads=2),
        "qwen2": lambda: hf.Qwen2Config(**_SMALL, **v, num_key_value_heads=2),
        "bart": lambda: hf.BartConfig(
            **v,
            **seq2seq,
            **bart,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
        ),
        "t5": lambda: hf.T5Config(
            **v,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        ),
    }
    return made[family](), hf.AutoModel


def tokenizer_of(family: str) -> hf.PreTrainedTokenizerFast:
    if family in ("roberta", "bart"):
        return _byte_bpe("encoder")
    if family in ("gpt2", "qwen2"):
        return _byte_bpe("bare")
    if family == "llama":
        return _byte_bpe("bos")
    if family in ("albert", "xlnet", "t5"):
        return _unigram(family)
    return _wordpiece()


def build(family: str, folder: Path, *, padding_side: str = "right", seed: int = 0) -> Path:
    """Save a tiny model of the family to a folder."""
    tokenizer = tokenizer_of(family)
    tokenizer.padding_side = padding_side
    config, auto = _model(family, len(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
