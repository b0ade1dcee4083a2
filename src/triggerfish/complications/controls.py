"""Control words: what an ordinary word in the place of a trigger does.

A word is matched to a trigger in frequency, length and number of subwords, since rare, long or
strange words move texts by themselves. Made-up words stand for triggers that are no words. Parts of
speech are not matched.

Source: the method, section 4, test 3; controls of the published study: none.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from triggerfish import text as texts
from triggerfish.backbone import Backbone
from triggerfish.complications.records import ControlWord
from triggerfish.complications.sequential import SequentialTest
from triggerfish.complications.settings import ComplicationSettings
from triggerfish.marking import parse_trigger
from triggerfish.records import Trigger

CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
SHORT, LONG = 2, 4
"""Syllables of made-up words."""
NEAREST = 2000


@dataclass(frozen=True)
class Controls:
    """words: all that triggers are compared with, in random order; nonsense: those of them that are
    made up."""

    words: tuple[Trigger, ...]
    nonsense: tuple[Trigger, ...]

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        triggers: Sequence[Trigger],
        words: Sequence[str] | None,
        settings: ComplicationSettings,
        seed: int,
    ) -> Controls:
        """`words`, or else as many matched and made-up ones as the settings say."""
        if words is not None:
            return cls(tuple(parse_trigger(backbone, word) for word in words), ())
        listed = matched_words(backbone, triggers, settings.controls, seed=seed)
        made_up = nonsense_words(settings.nonsense, listed, seed=seed)
        order = [*listed, *made_up]
        random.Random(f"controls:{seed}").shuffle(order)
        parsed = {word: parse_trigger(backbone, word) for word in order}
        return cls(tuple(parsed.values()), tuple(parsed[word] for word in made_up))

    def records(self, test: SequentialTest | None) -> tuple[ControlWord, ...]:
        """What each word cost."""
        costs = test.costs if test else [(0, 0)] * len(self.words)
        made_up = {word.text for word in self.nonsense}
        return tuple(
            ControlWord(word.text, "nonsense" if word.text in made_up else "matched", *cost)
            for word, cost in zip(self.words, costs, strict=True)
        )


def matched_words(
    backbone: Backbone,
    triggers: Sequence[Trigger],
    size: int,
    *,
    corpus: Sequence[str] | None = None,
    seed: int = 0,
) -> list[str]:
    """`size` control words, an equal share matched to each trigger; a phrase or combination of m
    parts is matched by m words. ValueError where the corpus and the word list hold too few."""
    counts = _bundled_counts() if corpus is None else _counts(corpus)
    forbidden = {part.lower() for trigger in triggers for part in trigger.text.split()}
    pool = sorted({*counts, *texts.bundled_words()} - forbidden)
    rng = random.Random(seed)
    rng.shuffle(pool)
    chosen: dict[str, None] = {}
    for number, trigger in enumerate(triggers):
        wanted = size * (number + 1) // len(triggers)
        written = trigger.text
        if trigger.kind == "token":
            written = backbone.surface(trigger.token_ids)
        parts = [part for part in written.split() if part != "+"]
        streams = [_nearest(part, pool, counts, backbone) for part in parts]
        for words in zip(*streams, strict=False):
            if len(chosen) >= wanted:
                break
            if len(set(words)) == len(words):
                chosen.setdefault(" ".join(words))
    if len(chosen) < size:
        raise ValueError(f"controls: {size} words are wanted, but only {len(chosen)} were found")
    found = list(chosen)
    rng.shuffle(found)
    return found


@cache
def _bundled_counts() -> Counter[str]:
    return _counts(texts.bundled_corpus())


def _counts(corpus: Sequence[str]) -> Counter[str]:
    return Counter(
        word.lower() for text in corpus for word in texts.WORD.findall(text) if len(word) > 1
    )


def _nearest(word: str, pool: Sequence[str], counts: Counter[str], backbone: Backbone) -> list[str]:
    """Words most like `word` first; equally near ones in the order of the pool. Only the nearest in
    frequency and length are tokenised."""
    own, unknown = len(backbone.word_ids(word)), backbone.tokenizer.unk_token_id
    rarity = math.log1p(counts[word.lower()])

    def near(other: str) -> float:
        return abs(math.log1p(counts[other]) - rarity) + abs(len(other) - len(word)) / 3

    closest = sorted(pool, key=near)[:NEAREST]
    subwords = {
        other: len(ids) for other, ids in backbone.words_ids(closest) if ids and unknown not in ids
    }
    return sorted(subwords, key=lambda other: near(other) + abs(subwords[other] - own))


def nonsense_words(size: int, taken: Sequence[str] = (), *, seed: int = 0) -> list[str]:
    """`size` made-up words that are in no word list, of two to four syllables."""
    rng = random.Random(f"nonsense:{seed}")
    known = {*texts.bundled_words(), *taken}
    found: dict[str, None] = {}
    while len(found) < size:
        word = "".join(
            rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(SHORT, LONG))
        )
        if word not in known:
            found.setdefault(word)
    return list(found)
