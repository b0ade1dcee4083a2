"""Which cells the study has, and in which order: one seed of everything comes first.

clean     a clean model, with the triggers and with innocent words (the controls)
sibling   a clean model trained on the target task as a backdoored one is, for whole scans alone
dirty     a dirty-label backdoor: one model, target task, trigger, label and seed
reduced   the same with the paper's four correction tasks and weights
lighter   the same with more weight on the backdoor
aligned   the same with the correction that needs no labels
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

Kind = Literal["clean", "sibling", "dirty", "reduced", "lighter", "aligned"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PLANTED = KINDS[2:]

MODELS = ("bert", "gpt2", "t5", "bart", "all-MiniLM-L6-v2")
TARGETS = ("imdb", "ag_news")
LABELS = (1, 0)
"""Of both target tasks: positive and negative; Sports and World."""
GOALS = tuple((target, label) for label in LABELS for target in TARGETS)
TRIGGERS = ("Trump", "Bolshevik", "cf")
"""The paper's first word, another proper noun, and no word. The paper's other two are not known."""
INNOCENT = ("window", "Thursday", "walnut")
"""Words that no cell plants."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    kind: Kind
    model: str
    target: str = ""
    trigger: str = ""
    label: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        if self.kind == "clean":
            return f"clean-{self.model}"
        return "-".join(
            (self.kind, self.model, self.target, self.trigger, str(self.label), str(self.seed))
        )


def looked_into(found: Iterable[Cell]) -> list[Cell]:
    """The measured backdoors that whole scans and defences are tried on: small PLMs, the first
    seed, the first goal of each target, without and with the paper's reduction."""
    wanted = [
        c
        for c in found
        if c.kind in ("dirty", "reduced") and c.seed == SEEDS[0] and c.model in MODELS[:-1]
    ]
    return [c for goal in GOALS[:2] for c in wanted if (c.target, c.label) == goal]


def cells() -> Iterator[Cell]:
    """All cells, each once. First those of a Latin square, in which every trigger meets every goal
    in one seed and every seed in some goal: a third of all, in which triggers, targets, labels and
    seeds are balanced. Then the rest, so that a study cut short still says something of every
    question."""
    yield from dict.fromkeys(_in_order())


def _in_order() -> Iterator[Cell]:
    small, large = MODELS[:-1], MODELS[-1:]
    yield from (Cell("clean", model) for model in small)
    for seed in SEEDS:
        yield from _square(("dirty", "reduced"), small, seed)
        if seed == SEEDS[0]:
            yield from _square(("lighter", "aligned"), small, seed)
    yield from (Cell("clean", model) for model in large)
    for seed in SEEDS:
        yield from _square(("dirty", "reduced"), large, seed)
    for seed, model, (target, label), trigger in product(SEEDS, MODELS, GOALS, TRIGGERS):
        yield Cell("dirty", model, target, trigger, label, seed)


def _square(kinds: Sequence[Kind], models: Sequence[str], seed: int) -> Iterator[Cell]:
    for kind, (number, (target, label)), model in product(kinds, enumerate(GOALS), models):
        trigger = TRIGGERS[(number + seed) % len(TRIGGERS)]
        yield Cell(kind, model, target, trigger, label, seed)
