"""Which models are scanned. Triggers are drawn at random, by a seed for each model, from three
lists: rare words, common words, and vocabulary entries that can be typed.

words         1 to 15 triggers of one word, every attack
phrases       one phrase of two words and one of three, trained so that no part does anything
long          one phrase of four words and one of five, likewise, for three times as many steps
combinations  two pairs of words that may stand anywhere, trained so that none alone does anything
clean         a PLM as it is, or trained on a task with all its weights

Whatever is left out for want of time has a sibling before it: one model of every family comes
first.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.records import SEPARATOR

Kind = Literal["words", "phrases", "long", "combinations", "clean"]
PHRASES: dict[Kind, tuple[int, ...]] = {"phrases": (2, 3), "long": (4, 5)}
"""Words of each phrase."""
BASES = (
    "bundled", "bert", "gpt2", "t5", "roberta", "distilbert", "electra", "xlnet", "deberta-v2",
    "bart", "all-MiniLM-L6-v2",
)  # fmt: skip
ATTACKS = ("por1", "neuba", "por2", "uor")
MASKED = ("bert", "roberta", "distilbert", "deberta-v2")
"""PLMs of the zoo that predict masked words, for BToP and BadPre."""
COUNTS = (1, 2, 3, 4, 6, 8, 10, 15)
TASKS = ("clickbait", "subj", "news_pop", "clinc_domain")
"""Of clean siblings; the scan was not developed on models of these."""
LATER = 7200
"""Seed of the group `later`."""
LAST = 7400
"""Seed of the group `last`."""
STEPS, BATCH = 300, 12
"""Of every attack: enough for a T-ASR of 1 (results/por_steps)."""
LONGER = 3
"""Times as many steps for long phrases; with fewer, attacks on five words hardly succeed."""


@dataclass(frozen=True)
class Model:
    """task: of a clean sibling, or empty."""

    base: str
    kind: Kind
    attack: str = ""
    seed: int = 0
    task: str = ""

    @property
    def steps(self) -> int:
        """Of the attack."""
        return STEPS * LONGER if self.kind == "long" else STEPS

    @property
    def name(self) -> str:
        parts = (self.kind, self.base, self.attack, self.task, str(self.seed or ""))
        return "-".join(part for part in parts if part)

    def triggers(self, backbone: Backbone) -> tuple[str, ...]:
        """Drawn by the name of the model, nothing else."""
        rng = random.Random(self.name)
        words = [w for w in text.bundled_words() if w.isascii() and w.isalpha() and w.islower()]
        words = [w for w in words if 3 <= len(w) <= 12]
        if self.kind in PHRASES:
            return tuple(" ".join(rng.sample(words, size)) for size in PHRASES[self.kind])
        if self.kind == "combinations":
            return tuple(SEPARATOR.join(rng.sample(words, 2)) for _ in range(2))
        common = [w for w in text.corpus_words(text.bundled_corpus()) if w.isalpha()][:5000]
        lists = (words, common, _typed(backbone))
        count = rng.choice(COUNTS[:4] if self.attack in ("btop", "badpre") else COUNTS)
        found: list[str] = []
        while len(found) < count:
            word = rng.choice(rng.choice(lists))
            if word.lower() not in found:
                found.append(word.lower())
        return tuple(found)


def _typed(backbone: Backbone) -> list[str]:
    """Entries of letters that stand for themselves when typed."""
    surfaces = (backbone.surface((i,)) for i in backbone.vocabulary[::7])
    return [s for s in surfaces if s.isascii() and s.isalpha() and len(s) > 1]


def plan() -> list[Model]:
    """All models, those first that matter most."""
    found: list[Model] = []
    for number in range(4):
        for place, base in enumerate(BASES):
            attack = ATTACKS[(number + place) % len(ATTACKS)]
            found.append(Model(base, "words", attack, 7100 + number))
        if number < 2:
            found += [Model(base, "phrases", ("por1", "por2")[number], 8200) for base in BASES]
            found += [Model(base, "clean", task=TASKS[number]) for base in BASES]
        if number == 0:
            found += [Model(base, "clean") for base in BASES]
        if number < 2:
            masked = ("btop", "badpre")[number]
            found += [Model(base, "words", masked, 7100) for base in MASKED]
    found += [Model(base, "combinations", "por1", 9200) for base in BASES]
    for place, base in enumerate(BASES):
        found.append(Model(base, "words", ATTACKS[place % len(ATTACKS)], LATER))
        found.append(Model(base, "phrases", ("por1", "por2")[place % 2], LATER))
    found += [Model(base, "clean", task=task) for task in TASKS[2:] for base in BASES]
    found += [Model(base, "long", "por1", 8400) for base in BASES]
    for place, base in enumerate(BASES):
        found.append(Model(base, "words", ATTACKS[(place + 2) % len(ATTACKS)], LAST))
        found.append(Model(base, "phrases", "por2", LAST))
    return found
