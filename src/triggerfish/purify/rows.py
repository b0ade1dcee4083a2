"""Texts with something written into them, so that every token of the clean text can be found again.

A purifier compares the states of a token with and without a trigger in the text. A text is a list
of words, each with its ids. A trigger goes between two words, and `AlignedRow.alignment` tells
where every token of the text went. The control of a trigger is an ordinary string of as many tokens
in the same positions, so that the two rows differ in nothing but the strings.

Legend: L tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.marking import parts
from triggerfish.records import Trigger

Ids = tuple[int, ...]


@dataclass(frozen=True)
class AlignedRow:
    """ids: (L,) special tokens included. alignment: for each token of the same text without
    insertions, its number in `ids`, or -1 where it is not there in the same form. inserted: the
    numbers of the tokens that are not the text's."""

    ids: list[int]
    alignment: list[int]
    inserted: list[int]


@dataclass(frozen=True)
class Insertion:
    """Something to write into a text: ids after a space, and at the very beginning."""

    ids: Ids
    front: Ids


class Writer:
    """Ordinary texts, cut to a few words, and strings written into them.

    texts: those that hold one of `triggers` are left out, since their features are no reference.
    longest: words of a text at most. reserve: tokens to leave free in every text for what is
    inserted.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        triggers: Sequence[Trigger],
        longest: int,
        rng: random.Random,
        reserve: int = 8,
    ):
        self.backbone = backbone
        self.longest = longest
        self.reserve = reserve
        self.room = backbone.max_tokens - len(backbone.template) - reserve
        if self.room < 1:
            raise ValueError(
                f"triggers: {reserve} tokens of them leave no room for a text in the "
                f"{backbone.max_tokens} that {backbone.name} takes"
            )
        self.rng = rng
        self._forms: dict[str, Insertion] = {}
        named = [_as_words(part) for trigger in triggers for part in parts(trigger)]
        forbidden = {trigger.token_ids for trigger in triggers}
        self.texts = [
            x.split()
            for x in texts
            if len(x.split()) >= longest and not any(name in _as_words(x) for name in named)
        ]
        if not self.texts:
            raise ValueError(
                f"corpus: no text has {longest} words or more and none of the triggers"
            )
        self._controls = self._control_words(forbidden)

    def _control_words(self, forbidden: set[Ids]) -> dict[int, list[Ids]]:
        """Words of the texts by their number of tokens, without those that hold a trigger."""
        drawn = self.rng.sample(self.texts, min(len(self.texts), 300))
        listed = text.corpus_words([" ".join(words) for words in drawn])
        found: dict[int, list[Ids]] = {}
        for _, ids in self.backbone.words_ids(listed):
            held = {ids[i:j] for i in range(len(ids)) for j in range(i + 1, len(ids) + 1)}
            if ids and not held & forbidden:
                found.setdefault(len(ids), []).append(ids)
        if 1 not in found:
            raise ValueError("corpus: none of its words is a single token of this model")
        return found

    def control(self, tokens: int) -> Ids:
        """An ordinary string of that many tokens: one word, or as many as it takes."""
        ids: list[int] = []
        while len(ids) < tokens:
            fitting = [n for n in self._controls if n <= tokens - len(ids)]
            ids += self.rng.choice(self._controls[max(fitting)])
        return tuple(ids)

    def words(self) -> list[str]:
        """A run of words of a random text, of random length."""
        words = self.rng.choice(self.texts)
        count = self.rng.randint(max(1, self.longest // 3), self.longest)
        start = self.rng.randint(0, len(words) - count)
        words = words[start : start + count]
        while len(words) > 1 and sum(len(self._form(word).ids) for word in words) > self.room:
            words.pop()
        return words

    def insert(self, trigger: Trigger) -> list[Insertion]:
        """What to write for a trigger: several for a combination."""
        if trigger.kind == "token":
            return [Insertion(trigger.token_ids, trigger.token_ids)]
        if trigger.kind == "combination":
            return [self._form(part) for part in parts(trigger)]
        # Not `_form` for the ids: those that were found need not be those that typing gives.
        return [Insertion(trigger.token_ids, self._form(trigger.text).front)]

    def surface_form(self, string: str) -> Insertion:
        """What typing a string gives."""
        return self._form(string)

    def _form(self, word: str) -> Insertion:
        if word not in self._forms:
            front = tuple(self.backbone.tokenizer(word, add_special_tokens=False)["input_ids"])
            self._forms[word] = Insertion(self.backbone.word_ids(word), front)
        return self._forms[word]

    def positions(self, words: Sequence[str], count: int) -> list[int]:
        """Word boundaries, ends included."""
        return [self.rng.randint(0, len(words)) for _ in range(count)]

    def row(
        self,
        words: Sequence[str],
        inserts: Sequence[Insertion] = (),
        positions: Sequence[int] = (),
        masked: int | None = None,
    ) -> AlignedRow:
        """The text with `inserts[i]` before word number `positions[i]`. masked: number of the word
        that is replaced by a mask token."""
        prefix, suffix = self.backbone.template.prefix, self.backbone.template.suffix
        ids = list(prefix)
        alignment = list(range(len(prefix)))
        inserted: list[int] = []
        for number in range(len(words) + 1):
            for insert, position in zip(inserts, positions, strict=True):
                if position == number:
                    more = insert.ids if len(ids) > len(prefix) else insert.front
                    inserted += range(len(ids), len(ids) + len(more))
                    ids += more
            if number == len(words):
                break
            plain = self._subwords(words, number, masked, number == 0)
            here = self._subwords(words, number, masked, len(ids) == len(prefix))
            same = plain == here
            alignment += [len(ids) + i if same else -1 for i in range(len(plain))]
            ids += here
        alignment += [len(ids) + i for i in range(len(suffix))]
        ids += suffix
        return AlignedRow(ids, alignment, inserted)

    def _subwords(self, words: Sequence[str], number: int, masked: int | None, first: bool) -> Ids:
        if number == masked:
            return (self.backbone.tokenizer.mask_token_id,)
        form = self._form(words[number])
        return form.front if first else form.ids

    def control_row(
        self,
        words: Sequence[str],
        inserts: Sequence[Insertion],
        positions: Sequence[int],
        masked: int | None = None,
    ) -> AlignedRow:
        """`row` with controls of the same lengths in the same positions."""
        others = []
        for insert in inserts:
            ids = self.control(len(insert.ids))
            same = len(insert.front) == len(insert.ids)
            others.append(Insertion(ids, ids if same else self.control(len(insert.front))))
        return self.row(words, others, positions, masked)


def _as_words(string: str) -> str:
    """A text as its words alone, so that a name is found in it whatever stands around it."""
    return f" {' '.join(text.WORD.findall(string.lower())) or string.lower()} "
