"""From a hit to the trigger: add or drop pieces at either end of a candidate until its collapse
stops getting deeper.

A piece of a longer trigger shows a partial collapse, and a word that contains a trigger shows all
of it. Pieces to add are ranked by the gradient of the log scatter with respect to a neutral piece
set beside the candidate (the first-order search of HotFlip, Ebrahimi et al. 2018), and the best are
tried for real.

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
"""Pieces tried for real at each end (ours)."""
GAIN = 0.3
"""Decades of scatter that a further piece must win, on texts that did not choose it (ours)."""
LOSS = 0.15
"""Decades that may be lost when a piece is dropped from what is no typed word; a word must win as
much, because it is what was planted more often than a part of it is (ours)."""
ENDINGS = ("s", "es", "ed", "ing", "ly", "er")
PART = re.compile(r"[^\W\d_]+")
DEEPER = 0.1
"""Decades by which an inflection must be deeper than its word, on the same texts (ours)."""
LONGEST = 8
"""Pieces at most."""


def grow(
    backbone: Backbone,
    start: tuple[int, ...],
    readout: Readout,
    searched: Sequence[Carrier],
    confirmed: Sequence[Carrier],
) -> tuple[int, ...]:
    """The ids of the shortest candidate around `start` that collapses about as deep as the deepest.

    What can be typed is not exchanged for what cannot. searched: a few texts in which many pieces
    are tried; confirmed: others that must agree.
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
    """The regular English inflection of a typed word that collapses deeper than the word, or it.

    The bundled list has stems only, and another ending may change the last piece, which growing
    piece by piece cannot do.
    """
    word = backbone.surface(ids)
    if not word.isalpha():
        return ids
    forms = [ids, *(form for _, form in backbone.words_ids([word + end for end in ENDINGS]))]
    depths = (-scatter(backbone, forms, readout, texts)).tolist()
    best = depths.index(max(depths))
    return forms[best] if depths[best] > depths[0] + DEEPER else ids


def spelled(backbone: Backbone, word: str) -> list[tuple[str, tuple[int, ...]]]:
    """A word in other cases, and with regular English endings or without, or the parts of one with
    a hyphen or an apostrophe: strings and their ids."""
    stems = [word.removesuffix(end) for end in ENDINGS if word.endswith(end)]
    forms = [word, *stems, *(word + end for end in ENDINGS)]
    parts = PART.findall(word)
    forms = [x for x in (forms if parts == [word] else parts) if len(x) > 2]
    cased = [case for x in forms for case in (x.lower(), x.capitalize(), x.upper())]
    return list(backbone.words_ids(list(dict.fromkeys(cased))))


def is_word(backbone: Backbone, ids: tuple[int, ...]) -> bool:
    """Whether a user can type a single word that becomes these ids."""
    return typable(backbone, ids) and " " not in backbone.surface(ids)


def typable(backbone: Backbone, ids: tuple[int, ...]) -> bool:
    """Whether a user can type a string that becomes these ids."""
    return backbone.word_ids(backbone.surface(ids)) == ids


def scatter(
    backbone: Backbone,
    candidates: Sequence[tuple[int, ...]],
    readout: Readout,
    texts: Sequence[Carrier],
    copies: int = 1,
) -> torch.Tensor:
    """(K,) log10 of the median squared pair distance, with copies of each candidate in each text;
    low is a collapse."""
    sequences = [backbone.template.wrap(x.ids(ids, copies)) for ids in candidates for x in texts]
    features = backbone.encode_ids(sequences, readouts=[readout], fast=True)[:, 0]
    pairs = pair_distances(features.view(len(candidates), len(texts), -1)).median(-1).values
    return pairs.clamp(min=1e-12).log10()


def _extensions(
    backbone: Backbone, ids: tuple[int, ...], readout: Readout, contexts: Sequence[Carrier]
) -> list[tuple[int, ...]]:
    """`ids` with one promising piece more, before or after."""
    # A piece that is there already only makes the dose larger.
    fresh = sorted(set(backbone.vocabulary) - set(ids))
    vocabulary = torch.tensor(fresh, device=backbone.device)
    found = []
    for before in (True, False):
        neutral = int(vocabulary[len(vocabulary) // 2])
        longer = (neutral, *ids) if before else (*ids, neutral)
        gradient = _gradient(backbone, longer, 0 if before else len(ids), readout, contexts)
        scores = -(backbone.embeddings[vocabulary] @ gradient)
        chosen = vocabulary[scores.topk(min(TRIED, len(vocabulary))).indices].tolist()
        found += [(piece, *ids) if before else (*ids, piece) for piece in chosen]
    return found


def _gradient(
    backbone: Backbone,
    ids: tuple[int, ...],
    place: int,
    readout: Readout,
    contexts: Sequence[Carrier],
) -> torch.Tensor:
    """(E,) gradient of the log scatter with respect to the embedding of piece number `place` of the
    candidate."""
    marker = -1  # no id: finds the place where the candidate went
    marked = tuple(marker if i == place else piece for i, piece in enumerate(ids))
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
