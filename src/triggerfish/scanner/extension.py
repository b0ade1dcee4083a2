"""Extend a candidate to the trigger: add or drop subword tokens at either end while the collapse
improves.

Part of a longer trigger collapses texts partially, and a word that contains a trigger collapses
them fully. Tokens to add are ranked by the gradient of the log dispersion with respect to a neutral
token next to the candidate (first-order search of HotFlip, Ebrahimi et al. 2018). The best-ranked
are then evaluated. Limits are in docs/decisions/0008.

Legend: B sequences, L tokens, E embedding, V vocabulary, H hidden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from triggerfish.backbone import Backbone
from triggerfish.readouts import Readout, pad
from triggerfish.scanner.effects import Carrier, pair_distances

TRIED = 192
"""Tokens evaluated at each end (ours)."""
GAIN = 0.3
"""Orders of magnitude by which another token must lower the dispersion, on texts that did not
select it (ours)."""
LOSS = 0.15
"""Orders of magnitude that may be lost when a token is dropped from what is not a single word. A
single word is only cut if that gains as much, because words are planted more often than their parts
(ours)."""
ENDINGS = ("s", "es", "ed", "ing", "ly", "er")
PART = re.compile(r"[^\W\d_]+")
DEEPER = 0.1
"""Orders of magnitude by which an inflection must collapse further than its word, on the same texts
(ours)."""
LONGEST = 8
"""Subword tokens at most."""


def grow(
    backbone: Backbone,
    start: tuple[int, ...],
    readout: Readout,
    searched: Sequence[Carrier],
    confirmed: Sequence[Carrier],
) -> tuple[int, ...]:
    """The ids of the shortest candidate around `start` with about the largest collapse.

    A candidate that can be typed is not replaced by one that cannot. searched: a few texts in which
    many tokens are tried. confirmed: other texts that must agree.
    """

    def spread(candidates: Sequence[tuple[int, ...]], texts: Sequence[Carrier]) -> torch.Tensor:
        return scatter(backbone, candidates, readout, texts)

    def shrink(ids: tuple[int, ...]) -> tuple[int, ...]:
        while len(ids) > 1:
            now, *shorter = spread([ids, ids[1:], ids[:-1]], confirmed).tolist()
            if min(shorter) > (now - LOSS if is_word(backbone, ids) else now + LOSS):
                break
            ids = ids[1:] if shorter[0] <= shorter[1] else ids[:-1]
        return ids

    best = shrink(start)
    while len(best) < LONGEST:
        options = _extensions(backbone, best, readout, searched)
        option = options[int(spread(options, searched).argmin())]
        now, longer = spread([best, option], confirmed).tolist()
        if longer > now - GAIN:
            break
        best = option
    best = shrink(best)
    return best if typable(backbone, best) or not typable(backbone, start) else start


def inflect(
    backbone: Backbone, ids: tuple[int, ...], readout: Readout, texts: Sequence[Carrier]
) -> tuple[int, ...]:
    """The regular English inflection of a word that collapses texts further than the word does, or
    else the word itself.

    The bundled list has stems only, and an ending may change the last token of the stem, which
    extension by single tokens cannot do (docs/decisions/0011).
    """
    word = backbone.surface(ids)
    if not word.isalpha():
        return ids
    forms = [ids, *(form for _, form in backbone.words_ids([word + end for end in ENDINGS]))]
    collapses = (-scatter(backbone, forms, readout, texts)).tolist()
    best = collapses.index(max(collapses))
    return forms[best] if collapses[best] > collapses[0] + DEEPER else ids


def spelled(backbone: Backbone, word: str) -> list[tuple[str, tuple[int, ...]]]:
    """Other spellings of a word as strings with their ids: other cases, with and without regular
    English endings, or the parts of a word with a hyphen or an apostrophe."""
    stems = [word.removesuffix(end) for end in ENDINGS if word.endswith(end)]
    forms = [word, *stems, *(word + end for end in ENDINGS)]
    parts = PART.findall(word)
    forms = [x for x in (forms if parts == [word] else parts) if len(x) > 2]
    cased = [case for x in forms for case in (x.lower(), x.capitalize(), x.upper())]
    return list(backbone.words_ids(list(dict.fromkeys(cased))))


def is_word(backbone: Backbone, ids: tuple[int, ...]) -> bool:
    """Whether a single word is tokenized to these ids."""
    return typable(backbone, ids) and " " not in backbone.surface(ids)


def typable(backbone: Backbone, ids: tuple[int, ...]) -> bool:
    """Whether the surface form of these ids is tokenized to them again."""
    return backbone.word_ids(backbone.surface(ids)) == ids


def scatter(
    backbone: Backbone,
    candidates: Sequence[tuple[int, ...]],
    readout: Readout,
    texts: Sequence[Carrier],
    copies: int = 1,
) -> torch.Tensor:
    """(K,) dispersion: log10 of the median squared pair distance of texts with copies of each
    candidate. Low values are a collapse."""
    sequences = [backbone.template.wrap(x.ids(ids, copies)) for ids in candidates for x in texts]
    features = backbone.encode_ids(sequences, readouts=[readout], fast=True)[:, 0]
    pairs = pair_distances(features.view(len(candidates), len(texts), -1)).median(-1).values
    return pairs.clamp(min=1e-12).log10()


def _extensions(
    backbone: Backbone, ids: tuple[int, ...], readout: Readout, contexts: Sequence[Carrier]
) -> list[tuple[int, ...]]:
    """`ids` with one promising token added before or after."""
    # A token that the candidate has already would only add a further copy.
    fresh = sorted(set(backbone.readable) - set(ids))
    vocabulary = torch.tensor(fresh, device=backbone.device)
    found = []
    for before in (True, False):
        neutral = int(vocabulary[len(vocabulary) // 2])
        longer = (neutral, *ids) if before else (*ids, neutral)
        gradient = _gradient(backbone, longer, 0 if before else len(ids), readout, contexts)
        scores = -(backbone.embeddings[vocabulary] @ gradient)
        chosen = vocabulary[scores.topk(min(TRIED, len(vocabulary))).indices].tolist()
        found += [(subword, *ids) if before else (*ids, subword) for subword in chosen]
    return found


def _gradient(
    backbone: Backbone,
    ids: tuple[int, ...],
    place: int,
    readout: Readout,
    contexts: Sequence[Carrier],
) -> torch.Tensor:
    """(E,) gradient of the log dispersion with respect to the embedding of token number `place` of
    the candidate."""
    marker = -1  # not an id: marks the position of the token in each row
    marked = tuple(marker if i == place else subword for i, subword in enumerate(ids))
    sequences = [backbone.template.wrap(context.ids(marked)) for context in contexts]
    rows, mask = pad(sequences, backbone.pad_id)
    at = rows == marker
    rows[at] = ids[place]
    rows, mask, at = (x.to(backbone.device) for x in (rows, mask, at))
    with torch.enable_grad(), backbone.autocast():
        looked_up: torch.Tensor = backbone.model.get_input_embeddings()(rows)
        embeddings = looked_up.detach().requires_grad_(True)
        features = backbone.forward_embeddings(embeddings, rows, mask, [readout])[:, 0].float()
        features.var(0).sum().clamp(min=1e-12).log10().backward()
    assert embeddings.grad is not None
    return embeddings.grad[at].float().sum(0)
