"""The student's vocabulary: the subwords of the teacher's WordPiece vocabulary that open text uses
most.

Usefulness is the rank in the texts plus the rank in the teacher's vocabulary, which is ordered by
frequency in its own, wider text: novels and encyclopaedias alone would drop everyday words of news
and reviews.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from transformers import BertTokenizer

from triggerfish.zoo.settings import DistilSettings

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


def trim_vocabulary(
    teacher: BertTokenizer, texts: Sequence[str], settings: DistilSettings
) -> list[int]:
    """Teacher ids in the student's order: specials, characters, `keep`, the most useful
    subwords."""
    subwords = teacher.get_vocab()
    missing = [token for token in SPECIALS if token not in subwords]
    if missing:
        raise ValueError(f"teacher: needs a WordPiece vocabulary; it lacks {', '.join(missing)}")
    counts: Counter[int] = Counter()
    characters: Counter[str] = Counter()
    for start in range(0, len(texts), 1000):
        block = list(texts[start : start + 1000])
        characters.update("".join(block).lower())
        for ids in teacher(block, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    frequent = ALPHABET | {c for c, n in characters.items() if n >= settings.rare_character}
    chosen = dict.fromkeys(subwords[token] for token in SPECIALS)
    for subword, i in sorted(subwords.items(), key=lambda item: item[1]):
        if subword.removeprefix("##") in frequent or subword in settings.keep:
            chosen[i] = None
    by_count = sorted(counts, key=lambda i: (-counts[i], i))
    usefulness = {i: rank + i for rank, i in enumerate(by_count)}
    for i in sorted(usefulness, key=lambda i: (usefulness[i], i)):
        if len(chosen) >= settings.vocabulary:
            break
        chosen[i] = None
    return list(chosen)


def small_tokenizer(
    teacher: BertTokenizer, kept: Sequence[int], settings: DistilSettings
) -> BertTokenizer:
    """A tokenizer whose ids number the teacher's ids `kept`."""
    return BertTokenizer(
        vocab={name: i for i, name in enumerate(teacher.convert_ids_to_tokens(list(kept)))},
        model_max_length=settings.positions,
        do_lower_case=getattr(teacher, "do_lower_case", True),
    )
