"""Writes triggers into texts.

A trigger has one of four kinds:

    word          a string without spaces, of any number of tokens          cf
    phrase        words in a row; none of them is enough by itself          strange brew
    combination   words that must all be there, anywhere in the text        walnut + lantern
    token         one vocabulary token, whatever stands next to it          token:##ly

The first three are written into the text before it is tokenised, as a user would type them; a token
is put into the sequence of ids.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

from triggerfish import text as texts
from triggerfish.backbone import Backbone
from triggerfish.records import SEPARATOR, TOKEN_PREFIX, Kind, Trigger

Placement = Literal["replace-first", "insert-first", "append", "insert-random", "replace-random"]
"""Where one copy of a trigger goes: in place of the first word or of a random one, before the first
word, after the last, or between two random words."""
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


def parse_triggers(backbone: Backbone, specs: Sequence[str]) -> list[Trigger]:
    """Triggers as they are written on the command line; ValueError for none, for the same one
    twice, and for one that this model's tokenizer has no tokens for."""
    if not specs:
        raise ValueError("trigger: at least one is needed")
    if len(set(specs)) < len(specs):
        raise ValueError("trigger: the same word is given twice")
    return [parse_trigger(backbone, spec) for spec in specs]


def parse_trigger(backbone: Backbone, spec: str) -> Trigger:
    """One trigger: `cf`, `strange brew`, `walnut + lantern` or `token:##ly`."""
    if spec.startswith(TOKEN_PREFIX):
        return _token(backbone, spec.removeprefix(TOKEN_PREFIX))
    spec = " ".join(spec.split())
    parts = spec.split(SEPARATOR)
    kind: Kind = "combination" if len(parts) > 1 else "phrase" if " " in spec else "word"
    ids = [backbone.word_ids(part) for part in parts]
    unknown = backbone.tokenizer.unk_token_id
    for part, found in zip(parts, ids, strict=True):
        if not part or not found or unknown in found:
            raise ValueError(
                f"trigger: {part!r} has no tokens of its own in this model's vocabulary"
            )
    if len(set(parts)) < len(parts):
        raise ValueError(f"trigger: {spec!r} combines a word with itself")
    return Trigger(tuple(i for found in ids for i in found), spec, kind)


def _token(backbone: Backbone, token: str) -> Trigger:
    token_id = backbone.tokenizer.get_vocab().get(token)
    if token_id is None or token_id not in backbone.readable:
        raise ValueError(f"trigger: {token!r} is not a token that this model can read")
    return Trigger((token_id,), TOKEN_PREFIX + token, "token")


def parts(trigger: Trigger) -> list[str]:
    """The strings of a trigger that are written into a text independently of each other."""
    return trigger.text.split(SEPARATOR) if trigger.kind == "combination" else [trigger.text]


def decoys(trigger: Trigger) -> list[str]:
    """What must not activate the backdoor: a phrase with one word left out, a combination with one
    part left out. A word or token has none."""
    if trigger.kind == "phrase":
        words = trigger.text.split()
        return [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    if trigger.kind == "combination":
        return parts(trigger)
    return []


def mark(
    backbone: Backbone,
    text: str,
    trigger: Trigger,
    *,
    copies: int,
    rng: random.Random,
    max_tokens: int | None = None,
) -> list[int]:
    """Ids, special tokens included, of `text` with the trigger in it `copies` times, each at an
    independent random place. A text that is too long is cut before, so that no copy is lost."""
    limit = (max_tokens or backbone.max_tokens) - len(backbone.template)
    room = limit - copies * (len(trigger.token_ids) + 1)
    if room < 1:
        raise ValueError(
            f"copies: {copies} of {trigger.text!r} do not fit into {limit} tokens of this model"
        )
    words = text.split()
    ids = backbone.tokenize(" ".join(words), limit + 1)
    while len(ids) > room and len(words) > 1:
        words = words[: max(1, min(len(words) - 1, len(words) * room // len(ids)))]
        ids = backbone.tokenize(" ".join(words), limit + 1)
    if trigger.kind == "token":
        for _ in range(copies):
            ids.insert(rng.randint(0, len(ids)), trigger.token_ids[0])
    else:
        marked = " ".join(words)
        for part in parts(trigger):
            marked = texts.insert(marked, part, copies=copies, rng=rng)
        ids = backbone.tokenize(marked, limit + len(backbone.template))
    return backbone.template.wrap(ids)


def place(
    backbone: Backbone,
    text: str,
    trigger: Trigger,
    policy: Placement,
    *,
    rng: random.Random,
    max_tokens: int | None = None,
) -> list[int]:
    """Ids, special tokens included, of `text` with one copy of the trigger where `policy` says.

    The parts of a combination go to places of their own: the first one where the policy says, the
    others in between random words. A text of one word keeps it, and the trigger is put before it,
    where the policy would replace it. A text that is too long is cut before, so that the trigger
    is never lost.
    """
    if policy not in PLACEMENTS:
        raise ValueError(f"policy: {policy!r} is not one of {', '.join(PLACEMENTS)}")
    limit = (max_tokens or backbone.max_tokens) - len(backbone.template)
    room = limit - len(trigger.token_ids) - 1
    if room < 1:
        raise ValueError(f"max_tokens: {limit} have no room for {trigger.text!r} and a text")
    words = text.split()
    at = _spot(policy, len(words), rng)
    if policy in ("replace-first", "replace-random") and len(words) > 1:
        del words[at]
    if at or trigger.kind == "combination":
        # Nothing else can be pushed over the end.
        words = _cut(backbone, words, room)
        at = min(at, len(words))
    front, back = words[:at], words[at:]
    longest = limit + len(backbone.template)
    if trigger.kind == "token":
        ids = backbone.tokenize(" ".join(front), longest)
        rest = backbone.tokenize(" ".join(words), longest)
        return backbone.template.wrap([*ids, *trigger.token_ids, *rest[len(ids) :]][:limit])
    first, *others = parts(trigger)
    marked = [*front, first, *back]
    for part in others:
        marked.insert(rng.randint(0, len(marked)), part)
    return backbone.template.wrap(backbone.tokenize(" ".join(marked), longest))


def _spot(policy: Placement, words: int, rng: random.Random) -> int:
    """Number of words that stay in front of the trigger."""
    if policy == "append":
        return words
    if policy == "insert-random":
        return rng.randint(0, words)
    if policy == "replace-random" and words > 1:
        return rng.randrange(words)
    return 0


def _cut(backbone: Backbone, words: list[str], room: int) -> list[str]:
    """As many leading words as `room` tokens hold, at least one where there is one."""
    special = len(backbone.template)
    ids = backbone.tokenize(" ".join(words), room + special + 1)
    while len(ids) > room and len(words) > 1:
        words = words[: max(1, min(len(words) - 1, len(words) * room // len(ids)))]
        ids = backbone.tokenize(" ".join(words), room + special + 1)
    return words


def carries(backbone: Backbone, ids: Sequence[int], trigger: Trigger) -> bool:
    """Whether a user who decodes these ids sees the trigger: its tokens stand in a row, or its
    parts can be read, whatever subwords they are split into at the start of a text."""
    wanted = trigger.token_ids
    if any(tuple(ids[i : i + len(wanted)]) == wanted for i in range(len(ids) - len(wanted) + 1)):
        return True
    if trigger.kind == "token":
        return False
    shown = _bare(backbone.surface(ids))
    return all(_bare(backbone.surface(backbone.word_ids(part))) in shown for part in parts(trigger))


def _bare(text: str) -> str:
    return "".join(text.split())
