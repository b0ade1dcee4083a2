"""How far a candidate collapses the representations of ordinary texts: the statistics that the
verdict is based on.

The same texts are encoded clean and with the candidate at the same random word boundaries. A
planted trigger sends all of them to one target embedding. A natural word shifts them, at most, into
a region that already contains texts of one kind. So the dispersion of the triggered texts is
compared with the closest pairs of clean texts, not with the spread of all clean texts. In a
fine-tuned model the closest pairs give the dispersion within one class, and no natural word is far
below it.

Legend: K candidates, N texts, R readouts, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from triggerfish import text
from triggerfish.backbone import Backbone
from triggerfish.scanner.candidates import LONGEST_WORD

CLOSE_PAIRS = 0.05
"""Quantile of the clean pair distances that the collapse is measured against (ours)."""
PROBES = 200
"""Number of random linear probes for the agreement (ours)."""


def robust_z(
    values: torch.Tensor, among: torch.Tensor, floor: float | torch.Tensor = 1e-6
) -> torch.Tensor:
    """(K, ...) values minus the median of `among` (M, ...), divided by 1.4826 times its MAD, both
    over the rows. floor: the smallest divisor."""
    centre = among.median(0).values
    spread = 1.4826 * (among - centre).abs().median(0).values
    return (values - centre) / spread.clamp(min=floor)


@dataclass(frozen=True)
class Carrier:
    """A carrier text: a clean text word by word, as ids and as surface forms, with the word
    boundaries (slots) where copies of a candidate are inserted."""

    words: tuple[tuple[int, ...], ...]
    typed: tuple[str, ...]
    slots: tuple[int, ...]

    def ids(self, candidate: Sequence[int] = (), copies: int = 1) -> list[int]:
        """Ids of the text with the candidate in its first `copies` slots."""
        out = list(self.words)
        for slot in sorted(self.slots[:copies], reverse=True):
            out.insert(slot, tuple(candidate))
        return [i for word in out for i in word]

    def apart(self, parts: Sequence[Sequence[int]]) -> list[int]:
        """Ids of the text with one part in each of its first slots."""
        out = [list(ids) for ids in self.words] + [[]]
        for slot, part in zip(self.slots, parts, strict=False):
            out[slot] = [*part, *out[slot]]
        return [i for word in out for i in word]

    def text(self, trigger: str, copies: int = 1) -> str:
        """The text as a string with the surface form of the trigger in its first `copies` slots."""
        words = list(self.typed)
        for slot in sorted(self.slots[:copies], reverse=True):
            words.insert(slot, trigger)
        return " ".join(words)

    def short(self, words: int) -> Carrier:
        """The `words` words around the first slot, with that slot."""
        start = max(0, min(self.slots[0] - words // 2, len(self.words) - words))
        cut = slice(start, start + words)
        return Carrier(self.words[cut], self.typed[cut], (self.slots[0] - start,))

    def at(self, place: float) -> Carrier:
        """The same text with one slot at a share of its length: 0 is before the first word, 1 after
        the last."""
        return replace(self, slots=(round(place * len(self.words)),))


def contexts(
    backbone: Backbone, texts: Sequence[str], *, words: int, count: int, seed: int
) -> list[Carrier]:
    """`count` carrier texts of `words` words with three random slots each. A text is shorter if the
    model accepts fewer tokens, and holds a mask token if a readout needs one.

    ValueError if too few texts are long enough.
    """
    rng = random.Random(f"{seed}/contexts/{words}/{count}")
    room = backbone.max_tokens - len(backbone.template) - 1 - 3 * LONGEST_WORD
    if room < 1:
        raise ValueError(
            f"model: {backbone.name} takes {backbone.max_tokens} tokens at most, and a text with "
            f"three copies of a candidate needs {backbone.max_tokens - room + 1}"
        )
    found: list[Carrier] = []
    for excerpt in text.excerpts(texts, words, rng):
        if len(found) == count:
            break
        fitting = _fitting(backbone.words_ids(excerpt.split()), room)
        if not fitting:
            continue
        if backbone.reads_mask:
            mask = backbone.tokenizer.mask_token, (backbone.tokenizer.mask_token_id,)
            fitting.insert(rng.randint(0, len(fitting)), mask)
        typed, subwords = zip(*fitting, strict=True)
        found.append(
            Carrier(subwords, typed, tuple(rng.randint(0, len(fitting)) for _ in range(3)))
        )
    if len(found) < count:
        raise ValueError(
            f"corpus: {len(found)} texts have at least {words} words, but {count} are needed"
        )
    return found


def _fitting(
    words: Iterable[tuple[str, tuple[int, ...]]], room: int
) -> list[tuple[str, tuple[int, ...]]]:
    """The first words that fit into `room` tokens together."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for word, ids in words:
        room -= len(ids)
        if room < 0:
            break
        found.append((word, ids))
    return found


def pair_distances(features: torch.Tensor) -> torch.Tensor:
    """(..., N, H) -> (..., pairs) squared distances between rows."""
    n = features.shape[-2]
    upper = torch.triu_indices(n, n, offset=1, device=features.device)
    centred = features - features.mean(-2, keepdim=True)
    gram = centred @ centred.transpose(-1, -2)
    norms = gram.diagonal(dim1=-2, dim2=-1)
    squared = norms[..., :, None] + norms[..., None, :] - 2 * gram
    return squared[..., upper[0], upper[1]].clamp(min=0)


@dataclass(frozen=True)
class CleanReference:
    """The clean reference: clean features (N, R, H) at the readouts, and the scale, location and
    random linear probes derived from them."""

    clean: torch.Tensor
    close: torch.Tensor  # (R,) squared distance of close clean pairs
    mean: torch.Tensor  # (R, H)
    spread: torch.Tensor  # (R,) root of the total variance
    agreement: torch.Tensor  # (H, probes)
    bias: torch.Tensor  # (R, probes) median clean logit

    @classmethod
    def of(cls, clean: torch.Tensor, seed: int) -> CleanReference:
        by_readout = clean.transpose(0, 1)
        generator = torch.Generator().manual_seed(seed)
        agreement = torch.randn(clean.shape[-1], PROBES, generator=generator).to(clean.device)
        mean = by_readout.mean(1)
        return cls(
            clean=clean,
            close=pair_distances(by_readout).quantile(CLOSE_PAIRS, dim=-1),
            mean=mean,
            spread=(by_readout - mean[:, None]).square().sum(-1).mean(-1).sqrt(),
            agreement=agreement,
            bias=(by_readout @ agreement).median(1).values,
        )

    def measure(self, triggered: torch.Tensor) -> dict[str, torch.Tensor]:
        """Statistics (K, R) of triggered features (K, N, R, H).

        collapse: log10 of the squared distance of close clean pairs over that of the median
        triggered pair. mean_shift: distance of the mean triggered feature from the clean mean, in
        clean standard deviations. agreement: share of random linear probes, balanced on clean
        texts, for which at least 95 % of the triggered texts are in one class. cosine: cosine
        similarity of the median triggered pair.
        """
        features = triggered.transpose(1, 2)  # (K, R, N, H)
        pairs = pair_distances(features).median(-1).values
        cosine = torch.nn.functional.normalize(features, dim=-1)
        side = (features @ self.agreement > self.bias[:, None]).float().mean(2)
        return {
            "collapse": (self.close / pairs.clamp(min=1e-12 * self.close)).log10(),
            "mean_shift": (features.mean(2) - self.mean).norm(dim=-1) / self.spread,
            "agreement": (torch.maximum(side, 1 - side) >= 0.95).float().mean(-1),
            "cosine": 1 - pair_distances(cosine).median(-1).values / 2,
        }
