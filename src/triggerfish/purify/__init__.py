"""Purification: take a backdoor out of the weights and leave the model as it was otherwise.

    purified = purify(model, scan_result)                      # until a fresh scan is clean
    purified.backbone, purified.after.verdict

A method is a frozen dataclass of settings with the function `Method` describes; `purify` runs one
in a loop: purify, scan again, purify what is still found. To add a method, write its file and add
its line here; other packages name theirs in the entry-point group `triggerfish.purify_methods`.
Nothing here sees what an attack planted: all it knows is what a scan found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from triggerfish.names import load_named

if TYPE_CHECKING:
    import torch

    from triggerfish.backbone import Backbone
    from triggerfish.records import Trigger
    from triggerfish.training import Progress

METHODS = {
    "align": "triggerfish.purify.align:Align",
    "soft_prompts": "triggerfish.purify.soft:SoftPrompts",
    "perturb": "triggerfish.purify.perturb:Perturb",
    "fine_tune": "triggerfish.purify.baselines.fine_tune:FineTune",
    "fine_prune": "triggerfish.purify.baselines.fine_prune:FinePrune",
    "reinit": "triggerfish.purify.baselines.reinit:Reinit",
    "reinit_embeddings": "triggerfish.purify.baselines.reinit_embeddings:ReinitEmbeddings",
    "recipe": "triggerfish.purify.baselines.recipe:Recipe",
    "btu": "triggerfish.purify.baselines.btu:BTU",
    "max_entropy": "triggerfish.purify.baselines.max_entropy:MaxEntropy",
    "crow": "triggerfish.purify.baselines.crow:Crow",
    "patronus": "triggerfish.purify.baselines.patronus:Patronus",
}

Need = Literal["triggers", "reference"]


class Method(Protocol):
    """What every method is.

    A frozen dataclass, its fields the settings. needs: what it cannot do without: "triggers" (at
    least one), "reference" (the clean original). source: where it was published.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    needs: ClassVar[tuple[Need, ...]]
    source: ClassVar[str]

    def purify(
        self,
        backbone: Backbone,
        triggers: tuple[Trigger, ...],
        texts: Sequence[str],
        *,
        generator: torch.Generator,
        reference: Backbone | None = None,
        progress: Progress | None = None,
    ) -> Backbone:
        """A purified copy of `backbone`, its weights frozen; `backbone` itself is not changed.

        triggers: as a scan found them, their variants among them. texts: ordinary strings.
        generator: on the CPU; it settles everything random. reference: the clean original where
        `needs` says so, of the same architecture and tokenizer; else a model whose features of
        clean texts are to be kept, which the loop gives in all rounds (None: `backbone` itself).
        Methods change `backbone.model`, and train through `backbone.whole` where they use a
        language-model head (`heads.with_head`).
        ValueError for what a user can cause: missing triggers or reference (see `check_needs`), a
        family the method makes no sense for, too few texts.
        """
        ...


def method(name: str) -> type:
    """The class of a method; an unknown name answers with the nearest one."""
    found: type = load_named("purify_method", name, METHODS)
    return found


def check_needs(method: Method, triggers: Sequence[Trigger], reference: Backbone | None) -> None:
    """ValueError where something is missing that a method needs."""
    name = type(method).__name__
    if "triggers" in method.needs and not triggers:
        raise ValueError(f"triggers: {name} needs at least one, and none was found")
    if "reference" in method.needs and reference is None:
        raise ValueError(f"reference: {name} needs the clean original of the model")


_HOME = {
    "Align": "align",
    "CopySettings": "triggered_copies",
    "Purified": "loop",
    "Round": "loop",
    "TriggeredCopies": "triggered_copies",
    "purify": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'triggerfish.purify' has no attribute {name!r}")
    return getattr(import_module(f"triggerfish.purify.{_HOME[name]}"), name)
