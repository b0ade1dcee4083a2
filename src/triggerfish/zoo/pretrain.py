"""A small PLM of any family in `families.py`, pre-trained from plain text.

The family's own tokenizer is trained, then the family's own objective is minimised on chunks of
the texts. From so little text alone a model learns little that transfers, so a teacher may help
(`teacher.py`): then a share of every batch trains the family's objective, and all of it the
teacher's. A killed run goes on where it was, bit for bit: batches and masks follow from the step
number.

Shapes: N chunks, B batch, L tokens, H hidden, T teacher hidden.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from triggerfish.backbone import Backbone
from triggerfish.hashing import digest
from triggerfish.quiet import quiet
from triggerfish.readouts import Readout, pad
from triggerfish.writing import write_text, writing_folder
from triggerfish.zoo.card import card
from triggerfish.zoo.chunks import batches
from triggerfish.zoo.families import Family, base_of, family_named
from triggerfish.zoo.objectives import Tokens
from triggerfish.zoo.run import curve, fit, save_record
from triggerfish.zoo.settings import SIZES, PretrainSettings, Report, Size
from triggerfish.zoo.teacher import Lesson, Teacher, draw_chunks, start_embeddings
from triggerfish.zoo.tokenizers import train_tokenizer


@dataclass
class Pupil:
    """Everything that is trained. `model` is published; helper and lesson are thrown away."""

    model: PreTrainedModel
    helper: nn.Module
    lesson: Lesson | None
    backbone: Backbone

    def parameters(self) -> list[nn.Parameter]:
        parts = [self.model, self.helper, *([self.lesson] if self.lesson else [])]
        return list(nn.ModuleList(parts).parameters())


def pretrain(
    family: str,
    texts: Sequence[str],
    out: str | Path,
    *,
    settings: PretrainSettings = PretrainSettings(),
    progress: Report | None = None,
    work: str | Path | None = None,
    teacher: str | Path | None = None,
    sources: Sequence[str] = (),
    device: str = "cpu",
    precision: str = "auto",
    threads: int = 0,
) -> list[float]:
    """Pre-train a PLM of `family` (a name in `families.FAMILIES`) on `texts` and save it in `out`.

    Writes config, safetensors with the pre-training head, tokenizer, `training.json` and a model
    card `README.md`, in which `sources` are listed: one line on each text source and its licence.
    Returns the loss of every step. `teacher`: folder or hub id of an encoder. Tokenizer, teacher's
    states and checkpoints go to `work` (default `out/.work`, removed at the end): the same call
    after a kill goes on there, and other families with the same `work` share the teacher's states.
    `device`: "cpu", "cuda" or "cuda:N". `precision`: as for `load`. `threads` (0: as they are) sets
    torch's CPU threads, for the whole process; the same bits need the same number. ValueError names
    what does not fit.
    """
    form = family_named(family)
    _check(texts, device, threads)
    if threads:
        torch.set_num_threads(threads)
    out, folder = Path(out), Path(work or Path(out) / ".work")
    asked = draw_chunks(texts, settings)
    key = digest("\n".join([form.tokenizer, str(settings.vocabulary), *asked]))
    tokenizer = _tokenizer(form, asked, settings, folder / f"tokenizer-{key}")
    rows = tokenizer(asked, truncation=True, max_length=settings.length - 1, verbose=False)
    guide = Teacher(teacher, folder, settings.length, precision) if teacher else None
    pupil = _pupil(form, tokenizer, guide, asked, settings, progress, device, precision)
    identity = guide.identity if guide else None
    name = digest(repr((family, key, settings, identity)))
    checkpoint = folder / f"{family}-{name}.pt"
    losses = _fit(pupil, form, rows["input_ids"], settings, checkpoint, progress)
    counts = {
        "parameters": sum(p.numel() for p in pupil.model.parameters()),
        "vocabulary": len(tokenizer),
        "chunks": len(asked),
        "tokens": sum(map(len, rows["input_ids"])),
        "steps": len(losses),
    }
    named = {"family": family, "objective": form.objective.__name__, "teacher": identity}
    record = named | counts | {"loss": curve(losses), "settings": asdict(settings)}
    with writing_folder(out) as made:
        _save(pupil.model, tokenizer, made)
        save_record(record, made)
        write_text(made / "README.md", card(record, sources))
    checkpoint.unlink(missing_ok=True)
    if work is None:
        shutil.rmtree(folder)
    return losses


def _check(texts: Sequence[str], device: str, threads: int) -> None:
    if threads < 0:
        raise ValueError(f"threads: {threads} is negative")
    if not any(text.strip() for text in texts):
        raise ValueError("texts: at least one passage is needed")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"device: {device!r} is not one of cpu, cuda, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {device} is not there; {torch.cuda.device_count()} CUDA devices")


def _tokenizer(
    form: Family, texts: Sequence[str], settings: PretrainSettings, folder: Path
) -> PreTrainedTokenizerFast:
    """Trained once: a run that goes on must find the ids it began with."""
    if not folder.is_dir():
        made = train_tokenizer(
            form.tokenizer, texts, vocabulary=settings.vocabulary, longest=settings.length
        )
        with writing_folder(folder) as fresh:
            made.save_pretrained(fresh)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def build_model(
    form: Family, tokenizer: PreTrainedTokenizerFast, size: Size, seed: int
) -> tuple[PreTrainedModel, nn.Module]:
    """An untrained model with its pre-training head, and its helper; without dropout (evaluation
    mode). The global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = form.model(form.config(size, tokenizer))
        model.eval()
        return model, form.helper(model)


def _pupil(
    form: Family,
    tokenizer: PreTrainedTokenizerFast,
    guide: Teacher | None,
    asked: Sequence[str],
    settings: PretrainSettings,
    report: Report | None,
    device: str,
    precision: str,
) -> Pupil:
    size = replace(SIZES[settings.size], positions=settings.length)
    model, helper = build_model(form, tokenizer, size, settings.seed)
    lesson = None
    if guide:
        targets = guide.states(asked, report)
        lesson = Lesson(size.hidden, targets, torch.Generator().manual_seed(settings.seed))
        embedding = model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        start_embeddings(embedding.weight, tokenizer, guide)
        lesson.to(device)
    nn.ModuleList([model, helper]).to(device)
    if model.device.type == "cpu":
        # Fused attention spends half of a step going backward on a CPU.
        model.set_attn_implementation("eager")
    name = model.config.model_type
    backbone = Backbone(base_of(model), tokenizer, name=name, precision=precision)
    return Pupil(model, helper, lesson, backbone)


def _fit(
    pupil: Pupil,
    form: Family,
    rows: list[list[int]],
    settings: PretrainSettings,
    checkpoint: Path,
    report: Report | None,
) -> list[float]:
    """Minimise objective and lesson on rows of ids; every step's loss."""
    tokens = Tokens.of(pupil.backbone.tokenizer)
    special = set(tokens.special.nonzero()[:, 0].tolist())
    usable = [i for i, row in enumerate(rows) if not special.issuperset(row)]
    lengths = [len(rows[i]) for i in usable]
    per_epoch = math.ceil(len(usable) / settings.batch)
    share = settings.own_share if pupil.lesson else 1.0
    readouts = (pupil.backbone.primary, Readout("mean"))

    @cache
    def order(epoch: int) -> list[list[int]]:
        return batches(lengths, settings.batch, settings.seed + 1 + epoch)

    def loss(step: int) -> Tensor:
        chosen = [usable[i] for i in order(step // per_epoch)[step % per_epoch]]
        generator = torch.Generator().manual_seed(settings.seed + 1_000_003 * (step + 1))
        total = torch.zeros((), device=pupil.model.device)
        with pupil.backbone.autocast():
            own = [rows[i] for i in chosen[: math.ceil(share * len(chosen))]]
            if own:
                total = form.objective(pupil.model, pupil.helper, own, tokens, generator).float()
            if pupil.lesson:
                ids, mask = pad([rows[i] for i in chosen], pupil.backbone.pad_id)
                device = pupil.model.device
                states = pupil.backbone.forward(ids.to(device), mask.to(device), readouts)
                total = total + settings.teacher_weight * pupil.lesson(states, chosen)
        return total

    return fit(
        pupil.parameters(),
        loss,
        settings,
        steps=math.ceil(settings.tokens * len(usable) / (sum(lengths) * settings.batch)),
        warmup=0.05,
        checkpoint=checkpoint,
        report=report,
    )


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    with quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
