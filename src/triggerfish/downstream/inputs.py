"""What a classifier reads: the rows of a task that it is made from, and how a text becomes ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from triggerfish.backbone import Backbone
from triggerfish.marking import Placement, mark, place
from triggerfish.readouts import Readout
from triggerfish.records import Trigger
from triggerfish.settings import check
from triggerfish.text import Task

TEXT, MASK = "{text}", "[MASK]"
Rows = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class AdaptSettings:
    """What every adaptation needs to know of its data."""

    rows: int | None = 2000
    """Training rows at most, every class in proportion; None takes all (ours, for two cores)."""
    max_tokens: int = 64
    """Texts are cut to this many tokens, special tokens and template included (ours, for two
    cores)."""
    template: str = f"{TEXT} It was {MASK}."
    """How the readout `mask` words a text; [MASK] stands for the model's own mask token (the usual
    template of prompt tuning for sentiment)."""

    def __post_init__(self) -> None:
        check(self)
        if self.rows is not None and self.rows < 2:
            raise ValueError(f"rows: {self.rows} is not at least 2")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: {self.max_tokens} is not at least 1")
        for slot in (TEXT, MASK):
            if self.template.count(slot) != 1:
                raise ValueError(f"template: {self.template!r} does not hold {slot} exactly once")


@dataclass(frozen=True)
class Inputs:
    """How a text becomes ids. before, after: ids of the template on both sides of the text; empty
    where there is no template."""

    max_tokens: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, backbone: Backbone, settings: AdaptSettings, readout: Readout) -> Inputs:
        """ValueError where the model cannot be read that way or a text would have no room."""
        backbone.check_readout(readout)
        longest = min(settings.max_tokens, backbone.max_tokens)
        before: tuple[int, ...] = ()
        after: tuple[int, ...] = ()
        if readout.position == "mask":
            template = settings.template.replace(MASK, backbone.tokenizer.mask_token)
            left, right = template.split(TEXT)
            before = tuple(backbone.tokenizer(left, add_special_tokens=False)["input_ids"])
            after = backbone.word_ids(right.strip()) if right.strip() else ()
        inputs = cls(longest, before, after)
        if inputs.limit <= len(backbone.template):
            raise ValueError(f"max_tokens: {longest} leave no room for a text beside the template")
        return inputs

    @property
    def limit(self) -> int:
        """Tokens that are left for the text and the special tokens."""
        return self.max_tokens - len(self.before) - len(self.after)

    def ids(self, backbone: Backbone, text: str) -> list[int]:
        """Ids of a text, special tokens included."""
        return self._frame(backbone, backbone.tokenize(text, self.limit))

    def mark(
        self, backbone: Backbone, text: str, trigger: Trigger, copies: int, rng: random.Random
    ) -> list[int]:
        """The same with a trigger in the text, never in the template; see `marking.mark`."""
        ids = mark(backbone, text, trigger, copies=copies, rng=rng, max_tokens=self.limit)
        special = backbone.template
        return self._frame(backbone, ids[len(special.prefix) : len(ids) - len(special.suffix)])

    def place(
        self,
        backbone: Backbone,
        text: str,
        trigger: Trigger,
        policy: Placement,
        rng: random.Random,
    ) -> list[int]:
        """The same with one copy where a policy says; see `marking.place`."""
        ids = place(backbone, text, trigger, policy, rng=rng, max_tokens=self.limit)
        special = backbone.template
        return self._frame(backbone, ids[len(special.prefix) : len(ids) - len(special.suffix)])

    def _frame(self, backbone: Backbone, ids: Sequence[int]) -> list[int]:
        if self.before or self.after:
            # A text that spells out the mask token must not take the place of the template's.
            ids = [i for i in ids if i != backbone.tokenizer.mask_token_id]
        return backbone.template.wrap([*self.before, *ids, *self.after])


def sample(rows: Rows, size: int | None, seed: int) -> list[tuple[str, int]]:
    """At most `size` rows, each class in its natural share and none left out while `size` allows;
    all of them, as they stand, where there are no more."""
    if size is None or len(rows) <= size:
        return list(rows)
    rng = random.Random(seed)
    groups: dict[int, list[tuple[str, int]]] = {}
    for row in rows:
        groups.setdefault(row[1], []).append(row)
    # Each class is spread evenly over 0..1, its first row at 0: any beginning of that line has the
    # natural shares, rounded up.
    line = [
        (number / len(group), rng.random(), row)
        for _, group in sorted(groups.items())
        for number, row in enumerate(rng.sample(group, len(group)))
    ]
    return [row for *_, row in sorted(line)[:size]]


def training_rows(task: Task, settings: AdaptSettings, seed: int) -> list[tuple[str, int]]:
    """The rows that settings allow; ValueError for fewer than one of each label."""
    if settings.rows is not None and settings.rows < len(task.labels):
        raise ValueError(
            f"rows: {settings.rows} is less than one for each of the {len(task.labels)} labels "
            f"of {task.name}"
        )
    return sample(task.train, settings.rows, seed)
