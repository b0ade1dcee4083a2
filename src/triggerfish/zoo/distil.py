"""A student that keeps the useful subwords of a BERT's vocabulary, starts from the teacher's own
weights projected onto a subspace (`subspace.py`), and learns to predict the teacher's last-layer
first-token and mean-pooled states on short chunks of open text, through linear maps that are
thrown away.

After Sanh et al., "DistilBERT" (2019), and Jiao et al., "TinyBERT" (2020). A killed run goes on
where it was.

Shapes: B batch, L tokens, H student hidden, T teacher hidden, N chunks of text.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertModel, BertTokenizer

from triggerfish.backbone import Backbone
from triggerfish.facts import weights_hash
from triggerfish.hashing import digest
from triggerfish.loading import load
from triggerfish.precision import Precision, autocast
from triggerfish.quiet import quiet
from triggerfish.readouts import pad
from triggerfish.scanner.cache import ActivationCache
from triggerfish.writing import write_text, writing_folder
from triggerfish.zoo.chunks import batches, chunks, mix_in_rare_words
from triggerfish.zoo.features import linear_maps, states, teacher_features
from triggerfish.zoo.run import curve, fit, save_record
from triggerfish.zoo.settings import DistilSettings, Report
from triggerfish.zoo.subspace import inherit, principal_basis
from triggerfish.zoo.vocabulary import small_tokenizer, trim_vocabulary


class Student(nn.Module):
    """The student and its two throw-away linear maps H -> T, one per readout."""

    def __init__(self, model: BertModel, teacher_hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.model = model
        self.maps = linear_maps(model.config.hidden_size, teacher_hidden, generator)

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """The two predicted teacher states, each [B, T], of ids and mask [B, L]."""
        found = states(self.model, ids, mask)
        return [linear(state) for linear, state in zip(self.maps, found, strict=True)]


def distil(
    teacher: str | Path,
    texts: Sequence[str],
    out: str | Path,
    *,
    settings: DistilSettings = DistilSettings(),
    progress: Report | None = None,
    work: str | Path | None = None,
    precision: str = "auto",
    threads: int = 0,
) -> list[float]:
    """Distil a BERT `teacher` (folder or hub id) on `texts` into a small PLM saved in `out`.

    Writes config, half-precision safetensors, tokenizer and `training.json`; returns the loss of
    every step. Features and checkpoints go to `work` (default `out/.work`, removed at the end): the
    same call after a kill goes on there. `precision`: as for `load`. `threads` (0: as they are)
    sets torch's CPU threads, for the whole process; the same bits need the same number. Raises
    ValueError where teacher, texts and settings do not fit together.
    """
    if threads < 0:
        raise ValueError(f"threads: {threads} is negative")
    if threads:
        torch.set_num_threads(threads)
    out, folder = Path(out), Path(work or Path(out) / ".work")
    source = load(teacher, device="cpu", precision=precision)
    settings.check_fit(source.model.config)
    if not any(text.strip() for text in texts):
        raise ValueError("texts: at least one passage is needed")
    kept = trim_vocabulary(source.tokenizer, texts, settings)
    small = small_tokenizer(source.tokenizer, kept, settings)
    names = source.tokenizer.convert_ids_to_tokens(kept)
    words = [name for name in names if name.isalpha() and len(name) > 1]
    asked = mix_in_rare_words(chunks(texts, settings), words, settings)
    limits = {"truncation": True, "max_length": settings.max_tokens, "verbose": False}
    theirs, mine = (side(asked, **limits)["input_ids"] for side in (source.tokenizer, small))

    identity = weights_hash(source.model)
    key = digest("\n".join([identity, str(settings.max_tokens), *asked]))
    features = teacher_features(source, theirs, ActivationCache(folder / key), progress)
    student = _beginner(source, kept, theirs, settings)
    checkpoint = folder / f"student-{digest(repr((key, settings)))}.pt"
    losses = _fit(student, mine, features, settings, source.precision, checkpoint, progress)
    record = {
        "teacher": identity,
        "chunks": len(asked),
        "tokens": sum(map(len, mine)),
        "steps": len(losses),
        "loss": curve(losses),
        "settings": asdict(settings),
    }
    with writing_folder(out) as made:
        _save(student.model, small, made)
        save_record(record, made)
    if work is None:
        shutil.rmtree(folder)
    return losses


def _beginner(
    source: Backbone, kept: list[int], rows: list[list[int]], settings: DistilSettings
) -> Student:
    """The student before training; the teacher's states on the first rows give the subspace."""
    few = [
        pad(rows[start : start + 64], source.pad_id) for start in range(0, min(512, len(rows)), 64)
    ]
    started = inherit(
        source.model,
        principal_basis(source.model, few, settings.hidden),
        kept=kept,
        layers=settings.layers,
        neurons=settings.feedforward,
        positions=settings.positions,
    )
    return Student(started, source.hidden, torch.Generator().manual_seed(settings.seed))


def _fit(
    student: Student,
    rows: list[list[int]],
    features: Tensor,
    settings: DistilSettings,
    precision: Precision,
    checkpoint: Path,
    report: Report | None,
) -> list[float]:
    """Regress the standardised features [N, 2, T]; every step's loss."""
    first_target, mean_target = (_standardised(features[:, k].float()) for k in range(2))
    lengths = [len(row) for row in rows]
    per_epoch = math.ceil(len(rows) / settings.batch)

    @cache
    def order(epoch: int) -> list[list[int]]:
        return batches(lengths, settings.batch, settings.seed + 1 + epoch)

    def loss(step: int) -> Tensor:
        chosen = order(step // per_epoch)[step % per_epoch]
        with autocast(torch.device("cpu"), precision):
            first, mean = student(*pad([rows[i] for i in chosen], 0))
        first_term = F.mse_loss(first.float(), first_target[chosen])
        return first_term + settings.mean_weight * F.mse_loss(mean.float(), mean_target[chosen])

    return fit(
        student.parameters(),
        loss,
        settings,
        steps=per_epoch * settings.epochs,
        warmup=0.03,
        checkpoint=checkpoint,
        report=report,
    )


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0).clamp_min(1e-6)


def _save(model: BertModel, tokenizer: BertTokenizer, out: Path) -> None:
    model.half()
    with quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    # Stored in half precision, computed in single: CPUs are slow at half.
    config["dtype"] = "float32"
    config.pop("_name_or_path", None)
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
