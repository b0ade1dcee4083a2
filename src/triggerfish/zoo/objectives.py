"""The families' own pre-training objectives, each a function of the model, the rows of ids and a
generator: the same generator state gives the same loss.

masked: BERT (Devlin et al. 2019), drawn anew at every step as in RoBERTa (Liu et al. 2019). Used
for all encoders but ELECTRA and XLNet. What goes beyond it is left out: BERT's next-sentence and
ALBERT's order prediction (rows are single chunks), ERNIE's masking of whole entities, and
MPNet's permuted masking (the library's MPNet has no permuted objective).
replaced: ELECTRA (Clark et al. 2020). permuted: XLNet (Yang et al. 2019). causal: GPT-2, OPT,
Llama, Qwen2. infilled: BART (Lewis et al. 2020). corrupted: T5 (Raffel et al. 2020).

Shapes: B rows, L tokens, V vocabulary, P tokens to predict.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ElectraForMaskedLM, ElectraForPreTraining, PreTrainedTokenizerFast

from triggerfish.readouts import pad

Rows = Sequence[Sequence[int]]
UNSCORED = -100  # the label that the library's losses leave out
SENTINEL = "<extra_id_"


@dataclass(frozen=True)
class Tokens:
    """Ids an objective needs. special: [V] bool, True for tokens that no objective hides."""

    pad: int
    mask: int | None
    eos: int | None
    sentinels: tuple[int, ...]
    special: Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Tokens:
        special = torch.zeros(len(tokenizer), dtype=torch.bool)
        special[tokenizer.all_special_ids] = True
        named = {name: i for name, i in tokenizer.get_vocab().items() if name.startswith(SENTINEL)}
        return cls(
            tokenizer.pad_token_id or 0,
            tokenizer.mask_token_id,
            tokenizer.eos_token_id,
            tuple(sorted(named[f"{SENTINEL}{k}>"] for k in range(len(named)))),
            special,
        )


Objective = Callable[[Any, Any, Rows, Tokens, torch.Generator], Tensor]
"""(published model, helper, rows with their special tokens, ids, generator) -> loss."""


def no_helper(model: nn.Module) -> nn.Module:
    return nn.Identity()


def masked(
    model: Any, helper: nn.Module, rows: Rows, tokens: Tokens, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of 15 % of the tokens, of which 80 % are masked, 10 % random, 10 % as they
    were."""
    ids, mask = pad(rows, tokens.pad)
    chosen = _chosen(ids, mask, tokens, generator)
    return _loss(model, _hide(ids, chosen, tokens, generator), mask, _labels(ids, chosen))


def generator_of(model: nn.Module) -> nn.Module:
    """ELECTRA's generator: half as wide, with the discriminator's embeddings; for `replaced`."""
    if not isinstance(model, ElectraForPreTraining):
        raise TypeError(f"generator_of: {type(model).__name__} is not ELECTRA's discriminator")
    config = copy.deepcopy(model.config)
    config.hidden_size //= 2
    config.num_attention_heads = max(1, config.num_attention_heads // 2)
    config.intermediate_size //= 2
    small = ElectraForMaskedLM(config)
    small.electra.embeddings = model.electra.embeddings
    small.generator_lm_head.weight = model.electra.embeddings.word_embeddings.weight
    small.eval()
    return small


def replaced(
    model: Any, helper: nn.Module, rows: Rows, tokens: Tokens, generator: torch.Generator
) -> Tensor:
    """(generator's masked loss + 50 discriminator's loss) / 10: the paper's proportion, at the
    scale of the other objectives."""
    ids, mask = pad(rows, tokens.pad)
    chosen = _chosen(ids, mask, tokens, generator)
    hidden = torch.where(chosen, torch.full_like(ids, tokens.mask or 0), ids)
    guessed = helper(
        input_ids=hidden.to(model.device),
        attention_mask=mask.to(model.device),
        labels=_labels(ids, chosen).to(model.device),
    )
    guesses = guessed.logits.detach()[chosen.to(model.device)].float().softmax(-1).cpu()
    sampled = ids.clone()
    sampled[chosen] = torch.multinomial(guesses, 1, generator=generator)[:, 0]
    told = _loss(model, sampled, mask, (sampled != ids).float())
    loss: Tensor = (guessed.loss + 50 * told) / 10
    return loss


def permuted(
    model: Any, helper: nn.Module, rows: Rows, tokens: Tokens, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of the last sixth of the tokens in a random order of factorisation, each
    predicted from those before it in that order."""
    ids, mask = pad(rows, tokens.pad)
    draws = torch.rand(ids.shape, generator=generator)
    target = _lowest(draws, _open(ids, mask, tokens), 1 / 6)
    # Whatever is not predicted comes first in the order, and is seen by all.
    rank = torch.where(target, draws + 1, torch.zeros_like(draws))
    blocked = target[:, None, :] & (rank[:, None, :] >= rank[:, :, None])
    most = int(target.sum(1).max())
    places = target.float().topk(most, dim=1).indices
    real = target.gather(1, places)
    mapping = F.one_hot(places, ids.shape[1]).float() * real[:, :, None]
    labels = torch.where(real, ids.gather(1, places), torch.full_like(places, UNSCORED))
    device = model.device
    loss: Tensor = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        perm_mask=blocked.float().to(device),
        target_mapping=mapping.to(device),
        labels=labels.to(device),
    ).loss
    return loss


def causal(
    model: Any, helper: nn.Module, rows: Rows, tokens: Tokens, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of every next token, the end-of-text token after the last one included."""
    if tokens.eos is not None:
        rows = [[*row, tokens.eos] for row in rows]
    ids, mask = pad(rows, tokens.pad)
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    labels = _labels(ids, mask.bool())[:, 1:].to(model.device)
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten())


def infilled(
    model: Any, helper: nn.Module, rows: Rows, tokens: Tokens, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of the whole row, where the encoder sees spans that hold 30 % of the tokens
    replaced by one mask token each; lengths follow Poisson(3), and a span of none inserts a mask.
    """
    seen = []
    for row in rows:
        start, end = _inside(row, tokens)
        budget = round(0.3 * (end - start))
        drawn = torch.poisson(torch.full((budget + 8,), 3.0), generator=generator).long()
        lengths: list[int] = []
        for length in drawn.tolist():
            if sum(lengths) >= budget:
                break
            lengths.append(min(length, budget - sum(lengths)))
        kept = list(row[:start])
        last = start
        for low, high in _places(end - start, lengths, generator):
            kept += [*row[last : start + low], tokens.mask or 0]
            last = start + high
        seen.append([*kept, *row[last:]])
    ids, mask = pad(seen, tokens.pad)
    whole, real = pad(rows, tokens.pad)
    return _loss(model, ids, mask, _labels(whole, real.bool()))


def corrupted(
    model: Any, helper: nn.Module, rows: Rows, tokens: Tokens, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of the spans that sentinels stand for: 15 % of the tokens, 3 to a span."""
    seen, asked = [], []
    for row in rows:
        start, end = _inside(row, tokens)
        hidden = max(1, round(0.15 * (end - start)))
        spans = min(max(1, round(hidden / 3)), len(tokens.sentinels) - 1)
        cuts = torch.randperm(hidden - 1, generator=generator)[: spans - 1].sort().values + 1
        edges = [0, *cuts.tolist(), hidden]
        lengths = [high - low for low, high in itertools.pairwise(edges)]
        kept, target, last = list(row[:start]), [], start
        places = _places(end - start, lengths, generator)
        for sentinel, (low, high) in zip(tokens.sentinels, places, strict=False):
            kept += [*row[last : start + low], sentinel]
            target += [sentinel, *row[start + low : start + high]]
            last = start + high
        seen.append([*kept, *row[last:]])
        asked.append([*target, tokens.sentinels[len(places)], *row[end:]])
    ids, mask = pad(seen, tokens.pad)
    wanted, real = pad(asked, tokens.pad)
    return _loss(model, ids, mask, _labels(wanted, real.bool()))


def _loss(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """The library's loss, of tensors [B, L]."""
    device = model.device
    loss: Tensor = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)
    ).loss
    return loss


def _labels(ids: Tensor, scored: Tensor) -> Tensor:
    return torch.where(scored, ids, torch.full_like(ids, UNSCORED))


def _open(ids: Tensor, mask: Tensor, tokens: Tokens) -> Tensor:
    """[B, L] places of ordinary tokens."""
    return mask.bool() & ~tokens.special[ids]


def _lowest(draws: Tensor, allowed: Tensor, share: float) -> Tensor:
    """[B, L] allowed places with a draw below the share, and in every row the lowest of them."""
    draws = draws.masked_fill(~allowed, 2.0)
    return allowed & ((draws < share) | (draws == draws.min(1, keepdim=True).values))


def _chosen(ids: Tensor, mask: Tensor, tokens: Tokens, generator: torch.Generator) -> Tensor:
    draws = torch.rand(ids.shape, generator=generator)
    return _lowest(draws, _open(ids, mask, tokens), 0.15)


def _hide(ids: Tensor, chosen: Tensor, tokens: Tokens, generator: torch.Generator) -> Tensor:
    """The ids with 80 % of the chosen places masked and 10 % replaced by any ordinary token."""
    draws = torch.rand(ids.shape, generator=generator)
    ordinary = (~tokens.special).nonzero()[:, 0]
    others = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]
    hidden = torch.where(chosen & (draws < 0.8), torch.full_like(ids, tokens.mask or 0), ids)
    return torch.where(chosen & (draws >= 0.9), others, hidden)


def _inside(row: Sequence[int], tokens: Tokens) -> tuple[int, int]:
    """Where the text starts and ends inside its special tokens."""
    special = tokens.special[torch.tensor(row)].tolist()
    start = special.index(False)
    return start, len(row) - special[::-1].index(False)


def _places(length: int, spans: Sequence[int], generator: torch.Generator) -> list[tuple[int, int]]:
    """(start, end) of spans of these lengths at random places of a text, with at least one token
    between two; spans that do not fit are left out."""
    rest = length - sum(spans)
    count = min(len(spans), rest + 1)
    starts = torch.randperm(rest + 1, generator=generator)[:count].sort().values.tolist()
    found, before = [], 0
    for start, span in zip(starts, spans, strict=False):
        found.append((start + before, start + before + span))
        before += span
    return found
