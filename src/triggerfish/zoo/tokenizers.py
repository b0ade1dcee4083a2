"""Tokenizers of the families' kinds, trained from plain text: WordPiece (BERT's kin), byte-level
BPE (RoBERTa and most decoders) and Unigram (the SentencePiece families), each with its family's
special tokens in its family's order and its family's layout of one text and of a pair.

Sources: Schuster and Nakajima (2012), Sennrich et al. (2016) on bytes as in Radford et al. (2019),
Kudo (2018).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import transformers as hf
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

MARK = "\u2581"  # stands before the first subword of a word, as in SentencePiece


class Layout(TypedDict):
    """How special tokens stand around a text ($A) and around two; where the pair has types (`:1`),
    the tokenizer gives token types to the model."""

    single: str
    pair: str


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer.

    specials: special tokens in the order of their ids. roles: which token is the pad, cls, ... one.
    single, pair: see `Layout`.
    sentinels: how many `<extra_id_K>` tokens follow (T5).
    """

    model: Literal["wordpiece", "bytes", "unigram"]
    specials: tuple[str, ...]
    roles: dict[str, str]
    single: str = "$A"
    pair: str = "$A $B"
    lower: bool = False
    sentinels: int = 0
    padding_side: Literal["right", "left"] = "right"


_BRACKETS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ANGLES = {
    "bos": "<s>",
    "pad": "<pad>",
    "eos": "</s>",
    "unk": "<unk>",
    "cls": "<s>",
    "sep": "</s>",
    "mask": "<mask>",
}
_TYPED: Layout = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
_UNTYPED: Layout = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B [SEP]"}
_ROBERTA: Layout = {"single": "<s> $A </s>", "pair": "<s> $A </s> </s> $B </s>"}

KINDS: dict[str, Kind] = {
    "bert": Kind("wordpiece", tuple(_BRACKETS.values()), _BRACKETS, **_TYPED, lower=True),
    "distilbert": Kind("wordpiece", tuple(_BRACKETS.values()), _BRACKETS, **_UNTYPED, lower=True),
    "mpnet": Kind(
        "wordpiece",
        ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"),
        _ANGLES | {"unk": "[UNK]"},
        **_ROBERTA,
        lower=True,
    ),
    "roberta": Kind("bytes", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), _ANGLES, **_ROBERTA),
    "modernbert": Kind("bytes", tuple(_BRACKETS.values()), _BRACKETS, **_UNTYPED),
    "gpt2": Kind(
        "bytes",
        ("<|endoftext|>",),
        {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
    ),
    "opt": Kind(
        "bytes",
        ("<s>", "<pad>", "</s>", "<unk>"),
        {"bos": "</s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>"},
        "</s> $A",
        "</s> $A $B",
    ),
    "llama": Kind(
        "bytes",
        ("<unk>", "<s>", "</s>"),
        {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
        "<s> $A",
        "<s> $A $B",
    ),
    "qwen2": Kind("bytes", ("<|endoftext|>",), {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}),
    "albert": Kind(
        "unigram",
        ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        _BRACKETS | {"pad": "<pad>", "unk": "<unk>"},
        **_TYPED,
        lower=True,
    ),
    "deberta-v2": Kind("unigram", tuple(_BRACKETS.values()), _BRACKETS, **_TYPED),
    "xlnet": Kind(
        "unigram",
        ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"),
        _ANGLES | {"cls": "<cls>", "sep": "<sep>"},
        "$A <sep> <cls>",
        "$A <sep> $B:1 <sep>:1 <cls>:2",
        padding_side="left",
    ),
    "t5": Kind(
        "unigram",
        ("<pad>", "</s>", "<unk>"),
        {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
        "$A </s>",
        "$A </s> $B </s>",
        sentinels=32,
    ),
}


def train_tokenizer(
    kind: str, texts: Sequence[str], *, vocabulary: int, longest: int
) -> hf.PreTrainedTokenizerFast:
    """A tokenizer of a kind named in `KINDS`, with at most `vocabulary` entries in all, that cuts
    texts at `longest` tokens when asked to."""
    form = KINDS[kind]
    sentinels = [f"<extra_id_{k}>" for k in range(form.sentinels)]
    specials = [AddedToken(name, special=True) for name in (*form.specials, *sentinels)]
    core = _TRAIN[form.model](texts, form, specials, vocabulary)
    ids = [(name, core.token_to_id(name)) for name in form.specials]
    core.post_processor = processors.TemplateProcessing(
        single=form.single, pair=form.pair, special_tokens=ids
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=longest,
        padding_side=form.padding_side,
        extra_special_tokens=sentinels,
        model_input_names=[
            "input_ids",
            *(["token_type_ids"] if ":1" in form.pair else []),
            "attention_mask",
        ],
        **{f"{role}_token": name for role, name in form.roles.items()},
    )


def _wordpiece(
    texts: Sequence[str], form: Kind, specials: list[AddedToken], vocabulary: int
) -> Tokenizer:
    """Subwords come from byte pairs of marked words: the library's own WordPiece trainer numbers
    continuations in an order that changes from run to run."""
    normalizer = normalizers.BertNormalizer(lowercase=form.lower)
    words = pre_tokenizers.BertPreTokenizer()
    clean = [normalizer.normalize_str(text) for text in texts]
    counts = Counter(character for text in clean for character in text)
    common = sorted(counts, key=lambda c: (-counts[c], c))[: min(1000, vocabulary // 5)]
    alphabet = sorted(set(common) - {" ", MARK})
    rare = {ord(c): " " for c in counts.keys() - set(alphabet)}
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.Metaspace(MARK, prepend_scheme="always", split=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False)
    pairs.train_from_iterator((text.translate(rare) for text in clean), trainer)
    by_merge = sorted(pairs.get_vocab().items(), key=lambda item: item[1])
    subwords = [
        subword[1:] if subword.startswith(MARK) else f"##{subword}"
        for subword, _ in by_merge
        if subword != MARK
    ]
    named = [token.content for token in specials]
    ordered = dict.fromkeys([*named, *alphabet, *(f"##{c}" for c in alphabet), *subwords])
    vocab = {subword: i for i, subword in enumerate(list(ordered)[:vocabulary])}
    core = Tokenizer(models.WordPiece(vocab, unk_token=form.roles["unk"]))
    core.add_special_tokens(specials)
    core.normalizer, core.pre_tokenizer = normalizer, words
    core.decoder = decoders.WordPiece()
    return core


def _bytes(
    texts: Sequence[str], form: Kind, specials: list[AddedToken], vocabulary: int
) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def _unigram(
    texts: Sequence[str], form: Kind, specials: list[AddedToken], vocabulary: int
) -> Tokenizer:
    """Entries are put in order of score and name: the library's order and its scores of rare
    characters change from run to run."""
    core = Tokenizer(models.Unigram())
    folding = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    core.normalizer = normalizers.Sequence(
        [*folding, normalizers.Lowercase()] if form.lower else folding
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        unk_token=form.roles["unk"],
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    scored = json.loads(core.to_str())["model"]["vocab"]
    fixed = [token.content for token in specials]
    learned = {subword: round(score, 6) for subword, score in scored if subword not in set(fixed)}
    # Characters that were too rare to learn get scores around the lowest one, in a random order.
    floor = min(learned.values(), default=0.0)
    edge = floor + 2e-4 * sum(len(subword) == 1 for subword in learned)
    for subword, score in learned.items():
        if len(subword) == 1 and score <= edge:
            learned[subword] = floor
    ordered = sorted(learned.items(), key=lambda item: (-item[1], item[0]))
    unknown = fixed.index(form.roles["unk"])
    core.model = models.Unigram([*((subword, 0.0) for subword in fixed), *ordered], unknown, False)
    core.add_special_tokens(specials)
    return core


_TRAIN = {"wordpiece": _wordpiece, "bytes": _bytes, "unigram": _unigram}
