"""What a teacher adds to pre-training: through linear maps that are thrown away, the student's
primary readout and its mean-pooled state predict the teacher's mean-pooled last-layer state of the
same text, and the student's embedding rows start from the teacher's state of each token's spelling.

Tokenizers differ between families, so the unit is a chunk of text. The teacher is asked once per
set of chunks; students of all families read its answers from disk.

After Sanh et al., "DistilBERT" (2019), for the regression, and Minixhofer et al., "WECHSEL" (2022),
for embeddings that start from another model's; both in the simplest form.

Shapes: N chunks, T teacher hidden, H student hidden, V vocabulary, E embedding width, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from triggerfish.backbone import Backbone
from triggerfish.facts import weights_hash
from triggerfish.hashing import digest
from triggerfish.loading import load
from triggerfish.scanner.cache import ActivationCache
from triggerfish.zoo.chunks import chunks
from triggerfish.zoo.features import linear_maps, teacher_features
from triggerfish.zoo.settings import DistilSettings, PretrainSettings, Report

MEAN = 1  # place of the mean-pooled state among the teacher's features
SMALLEST = 0.06  # standard deviation; of smaller rows, the first training steps leave nothing


class Teacher:
    """A loaded encoder that answers with its mean-pooled state, and remembers its answers.

    folder: where answers lie, named by a hash of model and texts. ValueError for an
    encoder-decoder: its last state is the decoder's.
    """

    def __init__(
        self, model: str | Path, folder: Path, longest: int, precision: str = "auto"
    ) -> None:
        self.backbone: Backbone = load(model, device="cpu", precision=precision)
        if self.backbone.model.config.is_encoder_decoder:
            raise ValueError(f"teacher: {model} is an encoder-decoder; an encoder is needed")
        self.identity = weights_hash(self.backbone.model)
        self.folder = folder
        self.longest = min(longest, self.backbone.max_tokens)

    def states(self, texts: Sequence[str], report: Report | None = None) -> Tensor:
        """[N, T] single precision, standardised per column over the N texts."""
        rows = self.backbone.tokenizer(
            list(texts), truncation=True, max_length=self.longest, verbose=False
        )["input_ids"]
        key = digest("\n".join([self.identity, str(self.longest), *texts]))
        store = ActivationCache(self.folder / f"teacher-{key}")
        values = teacher_features(self.backbone, rows, store, report)[:, MEAN].float()
        return (values - values.mean(0)) / values.std(0).clamp_min(1e-6)


class Lesson(nn.Module):
    """Two throw-away linear maps H -> T and the error of what they predict."""

    def __init__(self, hidden: int, targets: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.targets = targets
        self.maps = linear_maps(hidden, targets.shape[1], generator)

    def forward(self, states: Tensor, chosen: list[int]) -> Tensor:
        """Sum of both readouts' mean squared errors; states [B, 2, H] of the texts `chosen`."""
        target = self.targets[chosen].to(states.device)
        terms = [
            F.mse_loss(linear(states[:, k]).float(), target) for k, linear in enumerate(self.maps)
        ]
        return torch.stack(terms).sum()


def draw_chunks(texts: Sequence[str], settings: PretrainSettings) -> list[str]:
    """N short and some long chunks, in a fixed order. ValueError where no text is long
    enough."""
    long = round(settings.long_share * settings.chunks)
    found: list[str] = []
    for words, count in ((settings.words, settings.chunks - long), (settings.long_words, long)):
        if count:
            asked = DistilSettings(words=words, chunks=count, seed=settings.draw)
            found += chunks(texts, asked)
    return found


@torch.no_grad()
def start_embeddings(weight: Tensor, tokenizer: PreTrainedTokenizerFast, teacher: Teacher) -> None:
    """Move rows of `weight` [V, E] to the E leading principal components of the teacher's states of
    the tokens' spellings, at the scale the rows had or `SMALLEST`. Special tokens stay as they
    are.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    states = teacher.states([spelling(tokenizer, i) for i in ids]).double()
    _, basis = torch.linalg.eigh(states.T @ states)
    width = min(weight.shape[1], len(basis))
    found = (states @ basis[:, -width:].flip(1)).float()
    rows = torch.tensor(ids, device=weight.device)
    scale = weight[rows].std().clamp_min(SMALLEST) / found.std()
    weight[rows, :width] = (found * scale).to(weight)


def spelling(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    """What a token of the vocabulary looks like in a text, continuation marks dropped."""
    (text,) = tokenizer.batch_decode([[token]])
    return text.strip().removeprefix("##")
