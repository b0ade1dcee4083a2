"""ONION: an inserted word is an outlier to a language model.

Each word is taken out in turn. How much that lowers the perplexity of the text is the word's
suspicion; the score of a text is that of its most suspicious word, and `purify` takes all words
above a threshold out. Any language model will do:

    causal            perplexity of the text without the word, as published
    masked, pseudo    pseudo-perplexity instead: every token masked in turn (Salazar et al., ACL
                      2020, arXiv 1910.14659); words times tokens forward rows a text
    masked, word      no deletion: how unexpected the word is where it is masked; words rows a text

Source: Qi et al., "ONION", EMNLP 2021 (arXiv 2011.10369). Published ports join the words without
spaces and let padding into the loss; here the words are joined with spaces and each text's loss is
over its own tokens. Texts are cut to what the language model takes.

Legend: B batch, L tokens, V vocabulary, W words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from triggerfish.backbone import Backbone
from triggerfish.heads import kind_of_head
from triggerfish.readouts import pad

_MASKED = ("word", "pseudo")


@dataclass(frozen=True)
class OnionSettings:
    masked: Literal["word", "pseudo"] = "word"
    """What a masked language model is asked (ours: pseudo costs as many times more as a text has
    tokens)."""
    logarithm: bool = False
    """Compare logarithms of perplexities, which do not grow with the text's own perplexity (False:
    paper)."""
    max_tokens: int | None = None
    """Texts are cut to this many tokens; None takes what the language model takes (ours)."""
    batch_tokens: int = 2048
    """Tokens per forward pass; changes the time, not the scores (ours)."""

    def __post_init__(self) -> None:
        if self.masked not in _MASKED:
            raise ValueError(f"masked: {self.masked!r} is not one of {', '.join(_MASKED)}")
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens: {self.batch_tokens} is not at least 1")


class Onion:
    """backbone: a language model with its head (`heads.with_head`), which need not be the guarded
    model."""

    def __init__(self, backbone: Backbone, settings: OnionSettings = OnionSettings()):
        self.causal = kind_of_head(backbone) == "causal"
        if backbone.whole is backbone.model:
            raise ValueError("backbone: has no language-model head; load it with heads.with_head")
        self.backbone = backbone
        self.settings = settings

    def suspicions(self, text: str) -> list[float]:
        """(W,) of each word, in order; higher is more suspicious. A lone word has 0: there is
        nothing to compare it with."""
        words = text.split()
        if len(words) < 2:
            return [0.0] * len(words)
        if not self.causal and self.settings.masked == "word":
            return self._unexpected(words)
        variants = [words] + [words[:i] + words[i + 1 :] for i in range(len(words))]
        whole, *rest = self.log_perplexities([" ".join(kept) for kept in variants])
        if self.settings.logarithm:
            return [whole - value for value in rest]
        return [math.exp(min(whole, 700)) - math.exp(min(value, 700)) for value in rest]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Suspicion of the most suspicious word of each text; 0 for texts of fewer than two."""
        return [max(self.suspicions(text), default=0.0) for text in texts]

    def purify(self, text: str, threshold: float) -> str:
        """The text without its words of a suspicion above `threshold`, as ONION hands it on."""
        pairs = zip(text.split(), self.suspicions(text), strict=True)
        return " ".join(word for word, suspicion in pairs if suspicion <= threshold)

    def log_perplexities(self, texts: Sequence[str]) -> list[float]:
        """Mean negative log-likelihood of each text's tokens, in nats: given those before (causal;
        the first one is given), or all others (masked). 0 for texts with nothing to predict."""
        sequences = [
            self.backbone.template.wrap(self.backbone.tokenize(text, self.settings.max_tokens))
            for text in texts
        ]
        if self.causal:
            return self._causal(sequences)
        return [self._pseudo(ids) for ids in sequences]

    def _causal(self, sequences: list[list[int]]) -> list[float]:
        found: list[float] = []
        for rows in self._batches(sequences):
            ids, mask = pad(rows, self.backbone.pad_id)
            surprise = self._surprise(ids, mask, ids[:, 1:], slice(None, -1)) * mask[:, 1:]
            found += (surprise.sum(1) / mask[:, 1:].sum(1).clamp(min=1)).tolist()
        return found

    def _pseudo(self, ids: list[int]) -> float:
        template = self.backbone.template
        places = range(len(template.prefix), len(ids) - len(template.suffix))
        values = self._masked_out(ids, [[place] for place in places])
        return sum(values) / len(values) if values else 0.0

    def _unexpected(self, words: list[str]) -> list[float]:
        """(W,) mean surprise of each word's tokens, all of them masked; 0 for words beyond the
        cut."""
        template = self.backbone.template
        limit = self.settings.max_tokens or self.backbone.max_tokens
        ids, spans = list(template.prefix), []
        for number, (_, subwords) in enumerate(self.backbone.words_ids(words)):
            if number == 0:
                subwords = tuple(self.backbone.tokenize(words[0]))
            room = limit - len(template.suffix) - len(ids)
            spans.append(list(range(len(ids), len(ids) + min(len(subwords), room))))
            ids += subwords[: max(0, room)]
        return self._masked_out([*ids, *template.suffix], spans)

    def _masked_out(self, ids: list[int], spans: list[list[int]]) -> list[float]:
        """Mean surprise of the tokens at each span, in a row of its own in which they are
        masked."""
        asked = [number for number, span in enumerate(spans) if span]
        found = [0.0] * len(spans)
        done = 0
        for rows in self._batches([ids] * len(asked)):
            truth = torch.tensor(rows)
            hidden = torch.zeros_like(truth, dtype=torch.bool)
            numbers = asked[done : done + len(rows)]
            for row, number in enumerate(numbers):
                hidden[row, spans[number]] = True
            masked = truth.masked_fill(hidden, self.backbone.tokenizer.mask_token_id)
            surprise = self._surprise(masked, torch.ones_like(masked), truth, slice(None))
            means = (surprise * hidden).sum(1) / hidden.sum(1)
            for number, value in zip(numbers, means.tolist(), strict=True):
                found[number] = value
            done += len(rows)
        return found

    def _batches(self, sequences: list[list[int]]) -> list[list[list[int]]]:
        longest = max(map(len, sequences), default=1)
        rows = max(1, self.settings.batch_tokens // longest)
        return [sequences[first : first + rows] for first in range(0, len(sequences), rows)]

    def _surprise(
        self, ids: torch.Tensor, mask: torch.Tensor, wanted: torch.Tensor, kept: slice
    ) -> torch.Tensor:
        """(B, L) -log p of `wanted` at the places `kept` of the rows."""
        device = self.backbone.device
        with torch.inference_mode():
            output = self.backbone.whole(
                input_ids=ids.to(device), attention_mask=mask.to(device)
            ).logits[:, kept]
            return torch.nn.functional.cross_entropy(
                output.float().transpose(1, 2), wanted.to(device), reduction="none"
            ).cpu()
