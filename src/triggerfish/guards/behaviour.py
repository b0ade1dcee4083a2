"""Leave one word out: texts whose representation depends on a single word.

A transferable backdoor sends every text with its trigger to one point. Without the trigger the
representation jumps back; without any other word it stays. So each distinct word is taken out, all
its occurrences at once (a trigger that stands there three times still goes), and the score is the
largest change of the readout over the typical change in the same text. It needs no findings: this
is the guard against triggers that a scan has missed.

`WordCheck` asks the same of one word that is known: does this text, with this ordinary word in it,
behave as if the word were a trigger?

Source: ours; taking words out follows ONION (Qi et al., EMNLP 2021), the collapse POR (Shen et al.,
CCS 2021).

Legend: W distinct words, H hidden.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triggerfish.backbone import Backbone
from triggerfish.guards.threshold import Threshold, conformal
from triggerfish.readouts import Readout
from triggerfish.records import Alarm
from triggerfish.settings import Share

_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class BehaviourSettings:
    span: int = 1
    """Words that are taken out together; a phrase or a combination loses its effect with any of its
    words, so one is enough (ours)."""
    max_tokens: int | None = None
    """Texts are cut to this many tokens, special tokens included; None reads what the model reads.
    Take what the guarded model takes (ours)."""
    floor: Share = 0.005
    """Share of the clean scatter that is added to both sides of the ratio, so that texts in which
    nothing matters score 0 (ours: best of .002 to .3 on four backdoored PLMs and the task mr)."""

    def __post_init__(self) -> None:
        if self.span < 1:
            raise ValueError(f"span: {self.span} is not at least 1")
        if self.max_tokens is not None and self.max_tokens < 4:
            raise ValueError(f"max_tokens: {self.max_tokens} is not at least 4")
        if self.floor <= 0:
            raise ValueError(f"floor: {self.floor} is not positive")


def word_type(word: str) -> str:
    """What two spellings of a word share: no case, no punctuation around it (unless it is all
    there is)."""
    return (_EDGES.sub("", word) or word).casefold()


def without(words: Sequence[str], start: int, span: int) -> str:
    """A text without every occurrence of the words `start` to `start + span`."""
    gone = {word_type(word) for word in words[start : start + span]}
    return " ".join(word for word in words if word_type(word) not in gone)


class _Reader:
    """One readout of a backbone, of texts cut to the settings' length."""

    def __init__(self, backbone: Backbone, readout: Readout | None, max_tokens: int | None):
        self.backbone = backbone
        self.readout = readout or backbone.primary
        backbone.check_readout(self.readout)
        if self.readout.position == "mask":
            raise ValueError("readout: mask needs a template; take a readout of plain texts")
        self.limit = min(max_tokens or backbone.max_tokens, backbone.max_tokens)

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """(N, H) fp32 on the CPU."""
        backbone = self.backbone
        ids = [backbone.template.wrap(backbone.tokenize(text, self.limit)) for text in texts]
        return backbone.encode_ids(ids, readouts=[self.readout])[:, 0].cpu()

    def cut(self, text: str) -> list[str]:
        """At least the words that the model reads: every word is one token or more."""
        return text.split()[: self.limit - len(self.backbone.template)]


def scatter(features: torch.Tensor) -> float:
    """Mean squared distance of (N, H) features from their mean; ValueError for fewer than two
    different ones."""
    value = float((features - features.mean(0)).square().sum(1).mean())
    if not value > 0:
        raise ValueError("clean: expected at least two texts that the model reads differently")
    return value


class LeaveOneOut:
    """The behavioural detector. clean: ordinary texts, a few dozen are enough, which set the scale
    of distances; calibrate (`Guard.fit`) on others."""

    def __init__(
        self,
        backbone: Backbone,
        clean: Sequence[str],
        settings: BehaviourSettings = BehaviourSettings(),
        *,
        readout: Readout | None = None,
    ):
        self.settings = settings
        self.reader = _Reader(backbone, readout, settings.max_tokens)
        self.scale = scatter(self.reader.read(clean))

    def changes(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """For each text, by distinct word (by its first word, if the span is longer): squared
        distance between the readouts with and without it, in units of the clean scatter."""
        found: list[dict[str, float]] = []
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            found += self._changes(texts[first : first + _TEXTS_AT_ONCE])
        return found

    def _changes(self, texts: Sequence[str]) -> list[dict[str, float]]:
        variants: list[str] = []
        names: list[list[str]] = []
        for text in texts:
            words = self.reader.cut(text)
            firsts: dict[str, int] = {}
            for place, word in enumerate(words):
                firsts.setdefault(word_type(word), place)
            names.append(list(firsts))
            variants += [text, *(without(words, k, self.settings.span) for k in firsts.values())]
        features = self.reader.read(variants)
        found, row = [], 0
        for listed in names:
            whole, rest = features[row], features[row + 1 : row + 1 + len(listed)]
            distances = (rest - whole).square().sum(1) / self.scale
            found.append(dict(zip(listed, distances.tolist(), strict=True)))
            row += 1 + len(listed)
        return found

    def scores(self, texts: Sequence[str]) -> list[float]:
        """log10 of the largest over the median of the other changes; 0 for texts of fewer than
        three distinct words, in which there is no telling what is typical."""
        return [self._score(sorted(changes.values())) for changes in self.changes(texts)]

    def _score(self, changes: list[float]) -> float:
        if len(changes) < 3:
            return 0.0
        others, largest, floor = changes[:-1], changes[-1], self.settings.floor
        typical = others[len(others) // 2]
        return math.log10((largest + floor) / (typical + floor))


class WordCheck:
    """Is an ordinary word a trigger in this very text? For triggers of a scan that are ordinary
    words, whose every mention would alarm otherwise:

        check = WordCheck(backbone, clean, words=["music", "however"])
        Monitor.load("scan.json", confirm=dict.fromkeys(check.words, check))

    The text is read with and without the word. The threshold comes from clean texts, each without
    one of its words, drawn at random: an ordinary word that moves texts as such words do is
    confirmed with a probability of at most `frr`. Where two triggers stand in one text, taking out
    one leaves the text in the hands of the other; so all `words` but the one in question are taken
    out beforehand.
    """

    def __init__(
        self,
        backbone: Backbone,
        clean: Sequence[str],
        settings: BehaviourSettings = BehaviourSettings(),
        *,
        words: Sequence[str] = (),
        readout: Readout | None = None,
        frr: float = 0.01,
        seed: int = 0,
    ):
        self.words = tuple(words)
        self.reader = _Reader(backbone, readout, settings.max_tokens)
        rng = random.Random(seed)
        pairs = []
        for text in clean:
            found = self.reader.cut(text)
            if len(found) > 1:
                pairs.append((text, without(found, rng.randrange(len(found)), 1)))
        self.threshold: Threshold = conformal(self._distances(pairs), frr)

    def _distances(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not pairs:
            return []
        features = self.reader.read([text for pair in pairs for text in pair])
        distances: list[float] = (features[::2] - features[1::2]).square().sum(1).tolist()
        return distances

    def change(self, text: str, spans: Sequence[tuple[int, int]]) -> float:
        """Squared distance between the readouts of the text and of the text without what stands at
        `spans` (characters), here and wherever the same words stand. ValueError for a span outside
        the text."""
        gone, kept = set(), list(text)
        for start, end in spans:
            if not 0 <= start < end <= len(text):
                raise ValueError(f"spans: ({start}, {end}) is not inside {len(text)} characters")
            gone |= {word_type(word) for word in text[start:end].split()}
            # By place too: a trigger may be a part of what stands between two spaces.
            kept[start:end] = " " * (end - start)
        others = {word_type(word) for name in self.words for word in name.split()} - gone
        whole = [word for word in text.split() if word_type(word) not in others]
        rest = [word for word in "".join(kept).split() if word_type(word) not in others | gone]
        return self._distances([(" ".join(whole), " ".join(rest))])[0]

    def __call__(self, text: str, alarm: Alarm) -> bool:
        """Whether the alarm stands."""
        return self.change(text, alarm.spans) > self.threshold.value
