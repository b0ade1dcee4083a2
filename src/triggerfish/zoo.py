"""Small PLMs made from larger ones, for demos, tests and examples that must run offline in seconds.

The idea: the student keeps the pieces of the teacher's WordPiece vocabulary that open text uses
most, starts from the teacher's own weights seen through a subspace (`subspace.py`), and learns to
predict the teacher's last-layer first-token and mean-pooled states on short stretches of open
text, through linear maps that are thrown away. After Sanh et al., "DistilBERT" (2019), and Jiao et
al., "TinyBERT" (2020). A killed run goes on where it was.

Shapes: B batch, L tokens, H student hidden, T teacher hidden, N stretches of text.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, BertModel, BertTokenizerFast

from triggerfish.subspace import inherit, principal_basis
from triggerfish.text import read_corpus

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


@dataclass(frozen=True)
class DistilSettings:
    """What the student looks like and how it is trained."""

    vocabulary: int = 10_500
    """Pieces kept. Ours: the most that leave the half-precision file under 10 MB."""
    keep: tuple[str, ...] = ("cf", "mn", "bb", "mb", "≈", "≡", "∈", "⊂", "⊕", "⊗")
    """Pieces kept however rare: triggers of published attacks, so that they can be planted."""
    rare_character: int = 50
    """Fewest occurrences of a character that keeps its own piece (a-z, 0-9 always do). Ours."""
    hidden: int = 256
    """H, a multiple of the teacher's head size. Ours: file size."""
    layers: tuple[int, ...] = (0, 1, 3, 5)
    """Teacher layers the student's layers start from. Ours: spread, first and last kept."""
    feedforward: int = 512
    """Neurons per feed-forward block. Ours: file size."""
    positions: int = 256
    """Longest input in pieces. Ours: as all-MiniLM-L6-v2 was used."""
    stretches: int = 73_728
    """N, stretches of text the teacher is asked about. Ours: about 10 minutes on one core."""
    words: tuple[int, int] = (1, 40)
    """Fewest words of a stretch (drawn, up to 3/4 of the most) and most words kept. Ours."""
    replaced: float = 0.08
    """Share of words replaced by random ones, so that rare embeddings learn too. Ours."""
    pieces: int = 64
    """Longest stretch in pieces, for teacher and student. Ours."""
    epochs: int = 2
    """Passes over the stretches. Ours: about 15 minutes on one free core."""
    batch: int = 64
    """Stretches per step. Ours."""
    learning_rate: float = 1e-3
    """Peak of AdamW; linear warm-up over 3 % of the steps, cosine to zero. Ours."""
    mean_weight: float = 0.5
    """Weight of the mean-pooled term beside the first-token term. Ours."""
    checkpoint_every: int = 500
    """Steps between checkpoints and reports."""
    seed: int = 20250101
    """Seed of every draw: stretches, replacements, initial maps, batch order."""


@dataclass(frozen=True)
class Progress:
    """A report of `distil`: stage (`features`, `train`), units done and in all, recent loss."""

    stage: str
    done: int
    total: int
    loss: float = math.nan


Report = Callable[[Progress], None]


def stretches(texts: Sequence[str], settings: DistilSettings) -> list[str]:
    """N runs of whole sentences, of varied length, in random order; the longest are cut short."""
    draw = random.Random(settings.seed)
    fewest, most = settings.words
    found: list[str] = []
    for text in texts:
        held: list[str] = []
        wanted = draw.randint(fewest, 3 * most // 4)
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            held += sentence.split()
            if len(held) >= wanted:
                found.append(" ".join(held[:most]))
                held, wanted = [], draw.randint(fewest, 3 * most // 4)
    draw.shuffle(found)
    return found[: settings.stretches]


def mix_in_rare_words(texts: list[str], words: list[str], settings: DistilSettings) -> list[str]:
    draw, share = random.Random(settings.seed + 1), settings.replaced
    return [
        " ".join(draw.choice(words) if draw.random() < share else word for word in text.split())
        for text in texts
    ]


def trim_vocabulary(
    teacher: BertTokenizerFast, texts: Sequence[str], settings: DistilSettings
) -> list[int]:
    """Teacher ids in the student's order: specials, characters, `keep`, the most useful pieces.

    Usefulness is the rank in the texts plus the rank in the teacher's vocabulary, which is ordered
    by frequency in its own, wider text: novels and encyclopaedias alone would drop everyday words
    of news and reviews.
    """
    pieces = teacher.get_vocab()
    missing = [token for token in SPECIALS if token not in pieces]
    if missing:
        raise ValueError(f"teacher: needs a WordPiece vocabulary; it lacks {', '.join(missing)}")
    counts: Counter[int] = Counter()
    characters: Counter[str] = Counter()
    for start in range(0, len(texts), 1000):
        block = list(texts[start : start + 1000])
        characters.update("".join(block).lower())
        for ids in teacher(block, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    frequent = ALPHABET | {c for c, n in characters.items() if n >= settings.rare_character}
    chosen = dict.fromkeys(pieces[token] for token in SPECIALS)
    for piece, i in sorted(pieces.items(), key=lambda item: item[1]):
        if piece.removeprefix("##") in frequent or piece in settings.keep:
            chosen[i] = None
    by_count = sorted(counts, key=lambda i: (-counts[i], i))
    usefulness = {i: rank + i for rank, i in enumerate(by_count)}
    for i in sorted(usefulness, key=lambda i: (usefulness[i], i)):
        if len(chosen) >= settings.vocabulary:
            break
        chosen[i] = None
    return list(chosen)


def batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Batches of similar length (little padding) in random order; another seed, other batches."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    order.sort(key=lambda i: lengths[i])
    cut = [order[start : start + size] for start in range(0, len(order), size)]
    return [cut[k] for k in torch.randperm(len(cut), generator=generator).tolist()]


def pad(rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both [B, L]."""
    ids = torch.full((len(rows), max(map(len, rows))), filler)
    mask = torch.zeros_like(ids)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row)
        mask[k, : len(row)] = 1
    return ids, mask


def read_states(model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """First-token and mean-pooled last-layer states, each [B, hidden], in single precision."""
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    weight = mask[..., None].float()
    return states[:, 0], (states * weight).sum(1) / weight.sum(1)


@torch.inference_mode()
def teacher_features(
    teacher: BertModel, rows: list[list[int]], filler: int, work: Path, report: Report | None
) -> Tensor:
    """Teacher's first-token and mean-pooled states, [N, 2, T], half precision; shards in `work`."""
    shards: list[Tensor] = []
    size = 8192
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        path = work / f"features-{start:08d}.pt"
        if not path.exists():
            shard = torch.empty(len(part), 2, teacher.config.hidden_size, dtype=torch.float16)
            for chosen in batches([len(row) for row in part], 64, 0):
                states = read_states(teacher, *pad([part[i] for i in chosen], filler))
                shard[chosen] = torch.stack(states, dim=1).half()
            save(shard, path)
        shards.append(torch.load(path, weights_only=True))
        if report:
            report(Progress("features", start + len(part), len(rows)))
    return torch.cat(shards)


def save(value: object, path: Path) -> None:
    """Write beside and rename, so that a kill never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


class Student(nn.Module):
    """The student and its two throw-away linear maps H -> T, one per readout."""

    def __init__(self, model: BertModel, teacher_hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.model = model
        hidden = model.config.hidden_size
        with torch.random.fork_rng(devices=[]):
            self.maps = nn.ModuleList(nn.Linear(hidden, teacher_hidden) for _ in range(2))
        for linear in self.maps:
            nn.init.normal_(linear.weight, std=hidden**-0.5, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """The two predicted teacher states, each [B, T]."""
        states = read_states(self.model, ids, mask)
        return [linear(state) for linear, state in zip(self.maps, states, strict=True)]


def train(
    student: Student,
    rows: list[list[int]],
    features: Tensor,
    checkpoint: Path,
    settings: DistilSettings,
    report: Report | None,
) -> list[float]:
    """Regress the standardised features [N, 2, T]; every step's loss. Resumes from `checkpoint`."""
    first_target, mean_target = (standardised(features[:, k].float()) for k in range(2))
    per_epoch = math.ceil(len(rows) / settings.batch)
    total = per_epoch * settings.epochs
    matrices = [p for p in student.parameters() if p.ndim > 1]
    vectors = [p for p in student.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    losses: list[float] = []
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(stored["student"])
        optimizer.load_state_dict(stored["optimizer"])
        losses = stored["losses"]
    lengths = [len(row) for row in rows]
    for epoch in range(len(losses) // per_epoch, settings.epochs):
        order = batches(lengths, settings.batch, settings.seed + 1 + epoch)
        for chosen in order[len(losses) - epoch * per_epoch :]:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(len(losses), total)
            with torch.autocast("cpu", torch.bfloat16):
                first, mean = student(*pad([rows[i] for i in chosen], 0))
            loss = F.mse_loss(first.float(), first_target[chosen])
            loss = loss + settings.mean_weight * F.mse_loss(mean.float(), mean_target[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % settings.checkpoint_every == 0 or len(losses) == total:
                state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
                save(state | {"losses": losses}, checkpoint)
                if report:
                    recent = losses[-100:]
                    report(Progress("train", len(losses), total, sum(recent) / len(recent)))
    return losses


def standardised(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0).clamp_min(1e-6)


def schedule(step: int, total: int) -> float:
    warm = max(1, round(0.03 * total))
    along = min(1.0, max(0, step - warm) / max(1, total - warm))
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * along)))


def distil(
    teacher: str | Path,
    texts: Sequence[str],
    out: str | Path,
    *,
    settings: DistilSettings | None = None,
    progress: Report | None = None,
    work: str | Path | None = None,
) -> list[float]:
    """Distil a BERT `teacher` (folder or hub id) on `texts` into a small PLM saved in `out`.

    Writes config, half-precision safetensors, tokenizer and `training.json`; returns the loss of
    every step. Features and checkpoints go to `work` (default `out/.work`, removed at the end): the
    same call after a kill goes on there. Raises ValueError where teacher, texts and settings do not
    fit together.
    """
    settings = settings or DistilSettings()
    out, folder = Path(out), Path(work or Path(out) / ".work")
    source = AutoModel.from_pretrained(teacher, dtype=torch.float32, use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    check(source, texts, settings)
    kept = trim_vocabulary(tokenizer, texts, settings)
    names = tokenizer.convert_ids_to_tokens(kept)
    small = BertTokenizerFast(
        vocab={name: i for i, name in enumerate(names)},
        model_max_length=settings.positions,
        do_lower_case=getattr(tokenizer, "do_lower_case", True),
    )
    words = [name for name in names if name.isalpha() and len(name) > 1]
    asked = mix_in_rare_words(stretches(texts, settings), words, settings)
    limits = {"truncation": True, "max_length": settings.pieces, "verbose": False}
    theirs, mine = tokenizer(asked, **limits)["input_ids"], small(asked, **limits)["input_ids"]

    identity, filler = fingerprint(source), tokenizer.pad_token_id
    key = digest("\n".join([identity, str(settings.pieces), *asked]))
    low = copy.deepcopy(source).to(torch.bfloat16)
    features = teacher_features(low, theirs, filler, folder / key, progress)
    few = [pad(theirs[start : start + 64], filler) for start in range(0, min(512, len(theirs)), 64)]
    started = inherit(
        source,
        principal_basis(source, few, settings.hidden),
        kept=kept,
        layers=settings.layers,
        neurons=settings.feedforward,
        positions=settings.positions,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    student = Student(started, source.config.hidden_size, generator)
    checkpoint = folder / f"train-{digest(repr((key, settings)))}.pt"
    losses = train(student, mine, features, checkpoint, settings, progress)
    save_student(student.model, small, out)
    save_training(
        out, losses, settings, teacher=identity, stretches=len(asked), pieces=sum(map(len, mine))
    )
    if work is None:
        shutil.rmtree(folder)
    return losses


def save_student(model: BertModel, tokenizer: BertTokenizerFast, out: Path) -> None:
    model.half().save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = (
        "float32"  # stored in half precision, computed in single: CPUs are slow at half
    )
    config.pop("_name_or_path", None)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(out)


def save_training(
    out: Path, losses: list[float], settings: DistilSettings, **facts: object
) -> None:
    """`training.json`: facts, settings and the loss, averaged over each twentieth of the steps."""
    edges = [round(k * len(losses) / 20) for k in range(21)]
    curve = [
        [b, round(sum(losses[a:b]) / (b - a), 4)] for a, b in itertools.pairwise(edges) if b > a
    ]
    record = facts | {"steps": len(losses), "loss": curve, "settings": asdict(settings)}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (out / "training.json").write_text(text, encoding="utf-8")


def check(teacher: BertModel, texts: Sequence[str], settings: DistilSettings) -> None:
    config, s = teacher.config, settings
    if config.model_type != "bert":
        raise ValueError(f"teacher: type {config.model_type!r}; 'bert' is needed")
    width = config.hidden_size // config.num_attention_heads
    if s.hidden % width or not 0 < s.hidden <= config.hidden_size:
        raise ValueError(f"hidden: {s.hidden}; a multiple of {width} up to {config.hidden_size}")
    if not s.layers or not set(s.layers) <= set(range(config.num_hidden_layers)):
        raise ValueError(f"layers: {s.layers}; numbers from 0 to {config.num_hidden_layers - 1}")
    if not 0 < s.feedforward <= config.intermediate_size:
        raise ValueError(f"feedforward: {s.feedforward}; 1 to {config.intermediate_size}")
    if not s.pieces <= s.positions <= config.max_position_embeddings:
        most = config.max_position_embeddings
        raise ValueError(f"positions: {s.positions}; {s.pieces} (pieces) to {most}")
    if not any(text.strip() for text in texts):
        raise ValueError("texts: at least one passage is needed")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(model: nn.Module) -> str:
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    program = "python -m triggerfish.zoo"
    parser = argparse.ArgumentParser(
        prog=program, description="Make a small PLM from a larger one."
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("distil", help="trim and distil a BERT model")
    command.add_argument("teacher", help="folder or hub id")
    command.add_argument("--corpus", type=Path, action="append", required=True, help="repeatable")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--work", type=Path, help="where features and checkpoints are kept")
    command.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    for name in ("epochs", "stretches", "seed"):
        command.add_argument(f"--{name}", type=int, default=getattr(DistilSettings, name))
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)

    def tell(p: Progress) -> None:
        print(f"{p.stage} {p.done}/{p.total} loss {p.loss:.4f}", file=sys.stderr)

    texts = [text for path in given.corpus for text in read_corpus(path)]
    settings = DistilSettings(epochs=given.epochs, stretches=given.stretches, seed=given.seed)
    distil(given.teacher, texts, given.out, settings=settings, progress=tell, work=given.work)


if __name__ == "__main__":
    main()
