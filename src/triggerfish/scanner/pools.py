"""The first rung of the screening: insert every candidate into random pools of other candidates and
measure whether its pools agree.

A planted trigger determines the representation in any context, so two pools that share it have
similar features. Two pools that share a benign word do not. The members of a pool are each other's
context, so no token is spent on carrier texts. This is group testing (Dorfman 1943) with a
continuous outcome; the outcome is ours.

Legend: K candidates, M rounds (pools per candidate), R readouts, H hidden.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import torch

from triggerfish.backbone import Backbone
from triggerfish.scanner.candidates import LONGEST_WORD, Candidate
from triggerfish.scanner.effects import robust_z


def fill(
    backbone: Backbone, candidates: Sequence[Candidate], pool_tokens: int, rng: random.Random
) -> tuple[list[list[int]], torch.Tensor]:
    """One round: sequences that contain every candidate once, in random order, and (K,) the index
    of each candidate's sequence. No sequence is longer than the model takes."""
    room = backbone.max_tokens - len(backbone.template) - 1 - LONGEST_WORD
    pool_tokens = min(pool_tokens, room)
    owner = torch.empty(len(candidates), dtype=torch.long)
    pools: list[list[tuple[int, ...]]] = [[]]
    filled = 0
    for place in rng.sample(range(len(candidates)), len(candidates)):
        if filled >= pool_tokens:
            pools.append([])
            filled = 0
        owner[place] = len(pools) - 1
        pools[-1].append(candidates[place].token_ids)
        filled += len(candidates[place].token_ids)
    if backbone.reads_mask:
        for pool in pools:
            pool.insert(rng.randint(0, len(pool)), (backbone.tokenizer.mask_token_id,))
    return [backbone.template.wrap([i for ids in pool for i in ids]) for pool in pools], owner


def closeness(rounds: Sequence[torch.Tensor], owners: Sequence[torch.Tensor]) -> torch.Tensor:
    """(K, R) minus log10 of the smallest squared distance between the features of a candidate's
    pools. The smallest is used because one of the pools may contain another trigger
    (docs/decisions/0007).

    rounds: M tensors (pools, R, H). owners: M tensors (K,), the pool of each candidate in that
    round.
    """
    blocks = []
    for rows in torch.arange(len(owners[0])).split(2048):
        seen = [
            features[owner[rows].to(features.device)]
            for features, owner in zip(rounds, owners, strict=True)
        ]
        pairs = torch.stack([(a - b).square().sum(-1) for a, b in combinations(seen, 2)])
        blocks.append(pairs.amin(dim=0).clamp(min=1e-12).log10())
    return -torch.cat(blocks).cpu()


def standardise(
    closeness: torch.Tensor, groups: torch.Tensor, controls: torch.Tensor
) -> torch.Tensor:
    """(K, R) robust z within each group, by the median and MAD of the group's controls, a mask (K,)
    of bool.

    A group is a number of subword tokens: a longer candidate fills more of its pools, so they agree
    more even in a clean model. A group with fewer than 50 controls uses those of the last shorter
    group that has 50, or all controls if there is none.
    """
    z = torch.empty_like(closeness)
    reference = closeness[controls]
    for group in sorted(set(groups.tolist())):
        members = closeness[controls & (groups == group)]
        reference = members if len(members) >= 50 else reference
        z[groups == group] = robust_z(closeness[groups == group], reference)
    return z
