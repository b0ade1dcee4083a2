"""After a first finding, test every listed word that shares one of its subword tokens.

In a small or briefly trained model a single subword token can cause most of the collapse, and a
hundred words may contain it. The quota of the shortlist admits few of them, so that no token
displaces the others, and the planted word may not be among them. If a model is known to be
backdoored, all of them are tried, in short texts first (docs/decisions/0006).

Legend: K candidates, N texts, R readouts.
"""

from __future__ import annotations

import torch

from triggerfish.scanner.effects import pair_distances
from triggerfish.scanner.screening import Screening, Steps
from triggerfish.scanner.selection import best_of_each
from triggerfish.scanner.shortlist import Shortlist

MOST = 2000
"""Number of words tried that have the fewest other tokens, and as many with the highest score in
the first rung of the screening (ours)."""
TEXTS, WORDS = 4, 8
"""Short texts in which all of them are tried, and their length in words (ours)."""
KEPT = 384
"""Words that go on to the screening texts, with a quota for each subword token and readout
(docs/decisions/0006)."""


def neighbours(screening: Screening, shortlist: Shortlist, subwords: set[int]) -> Steps[Shortlist]:
    """Yields `Progress`. Returns the `Shortlist` with the best words that contain one of the tokens
    `pieces` added to its survivors."""
    there = set(shortlist.candidates[: shortlist.kept])
    z = dict(zip([*screening.entries, *screening.words], shortlist.z.tolist(), strict=True))
    related = [
        x for x in screening.words if x not in there and not subwords.isdisjoint(x.token_ids)
    ]
    nearest = sorted(related, key=lambda x: (len(set(x.token_ids) - subwords), -z[x]))[:MOST]
    related = list(dict.fromkeys([*nearest, *sorted(related, key=lambda x: -z[x])[:MOST]]))
    if not related:
        return shortlist
    short = [text.short(WORDS) for text in screening.screen_texts[:TEXTS]]
    close = []
    for start in range(0, len(related), 512):
        ids = [x.token_ids for x in related[start : start + 512]]
        features = yield from screening.features(f"relatives-{start}", short, ids)
        pairs = pair_distances(features.transpose(1, 2)).median(-1).values
        close.append(-pairs.clamp(min=1e-12).log10().cpu())
    known = [next(subword for subword in x.token_ids if subword in subwords) for x in related]
    kept = [related[i] for i in best_of_each(torch.cat(close), KEPT, known)]
    features = yield from screening.features(
        "relatives", screening.screen_texts, [x.token_ids for x in kept]
    )
    collapses = shortlist.clean_reference.measure(features)["collapse"].cpu()
    return shortlist.joined(kept, collapses, features.mean(1).cpu())
