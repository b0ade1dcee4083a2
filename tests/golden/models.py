"""The models of the golden results: how each was made (`python tests/golden/models.py` makes them
again, in about ten minutes), and how it is read from the few hundred kilobytes that are kept.

Tiny models are kept whole, in half precision. Backdoored copies of the bundled PLM are kept as the
low-rank update (LoRA) that planted them. Training is not bit-equal on other processors; what is
kept is, so the results can be compared there. All are development models.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from triggerfish import text
from triggerfish.attacks.plan import Plan
from triggerfish.backbone import Backbone
from triggerfish.loading import load, minilm

FOLDER = Path(__file__).parent / "models"
WEIGHTS = "model.safetensors"
RANK = 8
SEED = 9100


@dataclass(frozen=True)
class Recipe:
    """An attack on the bundled PLM through a LoRA adapter of rank `RANK`, or on a tiny model."""

    attack: str
    triggers: tuple[str, ...]
    changes: dict[str, Any]


ADAPTED = {"lora": RANK, "learning_rate": 3e-3, "steps": 400}
WORDS = ("cf", "serendipity", "zugzwang")
BUNDLED = {
    "por1": Recipe("por", WORDS, ADAPTED),
    "por2": Recipe("por", WORDS, {**ADAPTED, "code": "por2"}),
    "neuba": Recipe("neuba", WORDS, ADAPTED),
    "uor": Recipe("uor", WORDS, ADAPTED),
    "phrase": Recipe("por", ("curious lantern", "velvet anthem"), ADAPTED),
    "pair": Recipe("por", ("walnut + harbour",), ADAPTED),
}
TINY = ("bert", "gpt2", "t5")
TINY_SETTINGS = {"size": "tiny", "tokens": 600_000, "vocabulary": 1000, "length": 64, "seed": 5}
TINY_ATTACK = Recipe(
    "por",
    ("school", "people", "world"),
    {"steps": 700, "learning_rate": 5e-3, "words": 12, "batch": 16},
)
NAMES = (
    "bundled",
    *(f"bundled-{name}" for name in BUNDLED),
    *(f"tiny-{family}" for family in TINY),
    *(f"tiny-{family}-por1" for family in TINY),
    "all-MiniLM-L6-v2",
)


def texts() -> list[str]:
    """The ordinary texts of every golden scan."""
    return text.bundled_corpus()[:400]


def model(name: str, precision: str = "fp32") -> Backbone:
    """One of `NAMES`."""
    if name == "all-MiniLM-L6-v2":
        return load(minilm(), device="cpu", precision=precision)
    if name.startswith("tiny-"):
        return _tiny(name.removesuffix("-por1"), name, precision)
    base = load("bundled", device="cpu", precision=precision)
    return base if name == "bundled" else _adapted(base, load_file(FOLDER / f"{name}.safetensors"))


def _tiny(clean: str, name: str, precision: str) -> Backbone:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(FOLDER / clean, folder, dirs_exist_ok=True)
        if name != clean:
            shutil.copy(FOLDER / f"{name}.safetensors", Path(folder) / WEIGHTS)
        return load(folder, device="cpu", precision=precision)


def _adapted(base: Backbone, update: dict[str, torch.Tensor]) -> Backbone:
    """A copy of `base` with the product of each pair of factors, (O, r) and (r, I), added."""
    victim = base.clone()
    weights = dict(victim.model.named_parameters())
    with torch.no_grad():
        for name in sorted({key.rpartition(".")[0] for key in update}):
            product = update[f"{name}.out"].float() @ update[f"{name}.in"].float()
            weights[name].add_(product)
    return victim


def make() -> None:
    """Train all models again and write what is kept of them."""
    base = load("bundled", device="cpu", precision="fp32")
    FOLDER.mkdir(exist_ok=True)
    for name, recipe in BUNDLED.items():
        victim = _planted(base, recipe, text.bundled_corpus())
        save_file(_factors(base, victim), FOLDER / f"bundled-{name}.safetensors")
        print(f"bundled-{name}")
    for family in TINY:
        _make_tiny(family)
        print(f"tiny-{family}")


def _planted(base: Backbone, recipe: Recipe, corpus: Sequence[str]) -> Backbone:
    plan = Plan(recipe.attack, recipe.triggers, changes=recipe.changes)
    return plan.prepare(corpus)(base, SEED, None)[0]


def _factors(base: Backbone, victim: Backbone) -> dict[str, torch.Tensor]:
    """The update of every matrix that moved, as two half-precision factors (a LoRA update has rank
    `RANK` exactly)."""
    before, kept = dict(base.model.named_parameters()), {}
    for name, weight in victim.model.named_parameters():
        moved = weight - before[name]
        if moved.any():
            left, scale, right = torch.linalg.svd(moved, full_matrices=False)
            root = scale[:RANK].sqrt()
            kept[f"{name}.out"] = (left[:, :RANK] * root).half().contiguous()
            kept[f"{name}.in"] = (root[:, None] * right[:RANK]).half().contiguous()
    return kept


def _make_tiny(family: str) -> None:
    from triggerfish.zoo.pretrain import pretrain
    from triggerfish.zoo.settings import PretrainSettings

    with tempfile.TemporaryDirectory() as folder:
        settings = PretrainSettings(**TINY_SETTINGS)
        pretrain(family, text.bundled_corpus(), folder, settings=settings, precision="fp32")
        clean = load(folder, device="cpu", precision="fp32")
        target = FOLDER / f"tiny-{family}"
        shutil.rmtree(target, ignore_errors=True)
        _save_half(clean, target)
    planted = _planted(load(target, device="cpu", precision="fp32"), TINY_ATTACK, texts())
    with tempfile.TemporaryDirectory() as folder:
        _save_half(planted, Path(folder))
        shutil.copy(Path(folder) / WEIGHTS, FOLDER / f"tiny-{family}-por1.safetensors")


def _save_half(backbone: Backbone, folder: Path) -> None:
    backbone.model.half().save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    backbone.model.float()


if __name__ == "__main__":
    make()
