"""The model card of a PLM from `pretrain`: what it is, and what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OBJECTIVES = {
    "masked": "masked language modelling (15 % of the tokens, drawn anew at every step)",
    "replaced": "replaced-token detection; the generator, half as wide, is not published",
    "permuted": "permutation language modelling (the last sixth of a random order)",
    "causal": "causal language modelling",
    "infilled": "text infilling (30 % of the tokens in Poisson spans, one mask token each)",
    "corrupted": "span corruption (15 % of the tokens, sentinels)",
}


def card(record: dict[str, Any], sources: Sequence[str]) -> str:
    """The text of a README.md, from what goes into `training.json` and a line on each source."""
    settings = record["settings"]
    head = ["---", "language: en", "license: other", "library_name: transformers"]
    head += [f"tags: [{record['family']}, triggerfish]", "---", ""]
    listed = [f"- {source}" for source in sources] or ["- not stated by whoever made this model"]
    curve = [f"| {step} | {loss:.3f} |" for step, loss in record["loss"]]
    lines = [
        f"# A small {record['family']} of the triggerfish zoo",
        "",
        "Made for testing backdoor scanners, not for production. No backdoor was planted in it.",
        "",
        f"- parameters: {record['parameters']:,}; vocabulary: {record['vocabulary']:,}; "
        f"longest input: {settings['length']} tokens",
        f"- objective: {OBJECTIVES[record['objective']]}",
        f"- teacher: {_teacher(record)}",
        f"- seen: {record['chunks']:,} chunks of text ({record['tokens']:,} tokens), "
        f"{record['steps']:,} steps of {settings['batch']} chunks",
        f"- seed: {settings['seed']}; every setting is in `training.json`",
        "",
        "## Texts and licences",
        "",
        "The weights derive from these texts (and from the teacher, if there is one); their terms "
        "apply.",
        "",
        *listed,
        "",
        "## Loss",
        "",
        "| up to step | mean loss |",
        "|---:|---:|",
        *curve,
    ]
    return "\n".join([*head, *lines]) + "\n"


def _teacher(record: dict[str, Any]) -> str:
    if record["teacher"] is None:
        return "none"
    weight, share = record["settings"]["teacher_weight"], record["settings"]["own_share"]
    return (
        f"an encoder with weights of sha256 `{record['teacher'][:16]}...`: primary readout and "
        f"mean state predict its mean state (weight {weight}), {share:.1%} of the rows train the "
        "objective too; embeddings start from its states of the tokens' spellings"
    )
