"""A backbone is a loaded PLM with its tokenizer and its readouts: the only file that knows Hugging
Face architectures.

A readout is a named way to read one vector per text. Which ones a model has is found from its
config, its tokenizer and two forward passes (does the last token change the first state?), never
from the model's name. Inside, batches are always padded on the right, the one side that is right
for absolute, relative and rotary positions alike; left-padded input is rolled over first, so the
padding side of a tokenizer changes nothing.

Legend: B batch, L tokens, H hidden, N texts, R readouts, S states (layers).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from triggerfish.precision import autocast, choose
from triggerfish.quiet import quiet
from triggerfish.readouts import Position, Readout, locate, pad, read, roll_right

BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Padded tokens per forward pass unless told otherwise (ours; for CUDA untuned, on an H100)."""
LONGEST = 512
TOKEN = 100
"""Characters of a text that are looked at for each token that fits into a model (ours)."""
GROWTH = 64
"""Largest number of tokens for one character (ours): U+FDFA gives 33 in UTF-8, after NFKC."""
AT_ONCE = 100
"""Words that are given to the tokenizer at once (ours)."""


@dataclass(frozen=True)
class Template:
    """Special tokens that the tokenizer puts around a text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def wrap(self, ids: Sequence[int]) -> list[int]:
        return [*self.prefix, *ids, *self.suffix]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


@dataclass(frozen=True)
class States:
    """tokens: (B, L, H) of each layer of the (encoder) stack, embeddings first; decoder: the same
    of a decoder, whose token i is token i - 1 of the text; readouts: (B, R, H)."""

    tokens: tuple[torch.Tensor, ...]
    decoder: tuple[torch.Tensor, ...]
    readouts: torch.Tensor


class Backbone:
    """A PLM, its tokenizer and its readouts. Build one with `load`.

    model: the Hugging Face base model, in evaluation mode, fp32.
    whole: the model with its language-model head, of which `model` is the base, where one was asked
    for (`heads.with_head`); else `model` itself. adapter: what was merged into its weights by an
    attack that trained a LoRA adapter (`lora`).
    untrained: names of weights that the checkpoint lacked; unread: of those in it that `model` has
    no place for, such as those of a classification head.
    folder: where its weight files lie; None once it was changed in memory. checkpoint: folder that
    it, or the model that it is a copy of, was loaded from. files: sha256 of the weight files that
    were opened there, by name. beside: what else was there, in sentences.
    precision: of what may be rounded, screening and training (`precision`); weights, gradients and
    measurements are fp32.
    readouts: every way of reading this model that downstream users have; `primary` is the one its
    classification head would use.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        folder: Path | None = None,
        checkpoint: str | None = None,
        files: Mapping[str, str] = {},
        beside: Sequence[str] = (),
        untrained: Sequence[str] = (),
        unread: Sequence[str] = (),
        revision: str | None = None,
        precision: str = "auto",
    ):
        self.model = model
        self.whole = model
        self.adapter: Any = None
        self.tokenizer = tokenizer
        self.name = name
        self.folder = folder
        self.checkpoint = checkpoint
        self.files = dict(files)
        self.beside = tuple(beside)
        self.revision = revision
        self.precision = choose(precision, self.device)
        self.untrained = tuple(untrained)
        self.unread = tuple(unread)
        self.template = _template(tokenizer)
        self.check_ids(self.template.wrap(()))
        self.special_ids = (
            frozenset(tokenizer.all_special_ids)
            | set(self.template.prefix)
            | set(self.template.suffix)
        )
        self.causal = not model.config.is_encoder_decoder and _is_causal(model, self.device)
        self.max_tokens = self._longest()
        self.primary = self._primary()
        self.readouts = self._all_readouts()

    # ---- facts

    @property
    def device(self) -> torch.device:
        weight: torch.Tensor = next(self.model.parameters())
        return weight.device

    @property
    def hidden(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def layers(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers)

    def _longest(self) -> int:
        """Longest sequence that the model takes, special tokens included, at most `LONGEST`."""
        positions = _positions(self.model, self.device)
        if positions is None:  # no table, so the model declares what it was trained for
            text_config = self.model.config.get_text_config()
            positions = getattr(text_config, "max_position_embeddings", None)
        limits = [
            LONGEST,
            self.tokenizer.model_max_length,
            *([positions] if positions and positions > 0 else []),
        ]
        longest = int(min(limits))
        if longest <= len(self.template):
            raise ValueError(
                f"model: {self.name} takes {longest} tokens at most, and its tokenizer adds "
                f"{len(self.template)} special tokens to a text, so there is room for none"
            )
        return longest

    @property
    def embeddings(self) -> torch.Tensor:
        """(V, E) input embedding matrix."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def pad_id(self) -> int:
        """Id to fill rows up with. It is masked out everywhere, so any row of the matrix serves."""
        pad_id = self.tokenizer.pad_token_id
        return pad_id if pad_id is not None and pad_id < len(self.embeddings) else 0

    @property
    def vocabulary(self) -> list[int]:
        """Ids of ordinary tokens, ascending: all but those that the checkpoint calls special."""
        return sorted(set(self.tokenizer.get_vocab().values()) - self.special_ids)

    @cached_property
    def readable(self) -> list[int]:
        """Ids that the model can read, ascending: every token that has an embedding, special or
        not. A checkpoint chooses what it calls special, and users can type such tokens too."""
        rows = len(self.embeddings)
        return sorted(i for i in set(self.tokenizer.get_vocab().values()) if i < rows)

    def check_ids(self, ids: Iterable[int]) -> None:
        """Raise ValueError for a token that has no embedding."""
        highest, rows = max(ids, default=0), len(self.embeddings)
        if highest >= rows:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise ValueError(
                f"tokenizer: a text has the token {token!r}, whose id is {highest}, and "
                f"{self.name} has embeddings for ids below {rows} only; use texts without it, or "
                "give the model an embedding for it (resize_token_embeddings)"
            )

    @property
    def reads_mask(self) -> bool:
        """Whether texts need a mask token for one of the readouts."""
        return any(readout.position == "mask" for readout in self.readouts)

    def _primary(self) -> Readout:
        if self.model.config.is_encoder_decoder:
            return Readout("eos")
        suffix = self.template.suffix
        if self.causal or (suffix and suffix[-1] == self.tokenizer.cls_token_id):
            return Readout("last")
        return Readout("first")

    def _all_readouts(self) -> tuple[Readout, ...]:
        positions: list[Position] = [self.primary.position]
        if self.model.config.is_encoder_decoder:
            positions += ["mean", "start"]
        else:
            positions += ["mean"] if self.causal else ["first", "last", "mean"]
        if self.template.suffix and self.tokenizer.eos_token_id in self.template.suffix[:-1]:
            positions.append("eos")
        if getattr(self.model, "pooler", None) is not None and not any(
            "pooler" in key for key in self.untrained
        ):
            positions.append("pooler")
        if self.tokenizer.mask_token_id in self.readable and not self.causal:
            positions.append("mask")
        deep = "mean" if self.model.config.is_encoder_decoder else self.primary.position
        middle = sorted({self.layers // 2, 3 * self.layers // 4} - {0, self.layers})
        return tuple(Readout(p) for p in dict.fromkeys(positions)) + tuple(
            Readout(deep, layer) for layer in middle
        )

    def check_readout(self, readout: Readout) -> None:
        """Raise ValueError if this model cannot be read that way."""
        if readout.layer is not None and not 0 <= readout.layer <= self.layers:
            raise ValueError(f"readout: layer {readout.layer} is outside 0..{self.layers}")
        if readout.position == "pooler" and getattr(self.model, "pooler", None) is None:
            raise ValueError(f"readout: {self.name} has no pooler")
        if readout.position == "mask" and self.tokenizer.mask_token_id not in self.readable:
            raise ValueError("readout: the tokenizer has no mask token that the model can read")
        if readout.position == "start" and not self.model.config.is_encoder_decoder:
            raise ValueError(f"readout: {self.name} has no decoder start state")

    # ---- text to ids

    def tokenize(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Ids of a text without special tokens, cut to `max_tokens` (default: what the model
        takes)."""
        limit = (max_tokens or self.max_tokens) - len(self.template)
        (ids,) = _ids(self.tokenizer, [text[: TOKEN * limit]])
        self.check_ids(ids[:limit])
        return ids[:limit]

    def word_ids(self, word: str) -> tuple[int, ...]:
        """Ids of a word as it stands in the middle of a text, after a space."""
        return next(ids for _, ids in self.words_ids([word]))

    def words_ids(self, words: Sequence[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(word, its ids after a space) for many words."""
        (anchor,) = _ids(self.tokenizer, ["a"])
        for start in range(0, len(words), AT_ONCE):
            block = words[start : start + AT_ONCE]
            encoded = _ids(self.tokenizer, [f"a {word}" for word in block])
            for word, ids in zip(block, encoded, strict=True):
                yield word, tuple(ids[len(anchor) :] if ids[: len(anchor)] == anchor else ids)

    def surface(self, ids: Sequence[int]) -> str:
        """The string whose tokens these are, as a user would type it; continuation marks are
        dropped."""
        text: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text.strip()

    # ---- forward

    def encode(
        self, texts: Sequence[str], *, readouts: Sequence[Readout] | None = None, **options: Any
    ) -> torch.Tensor:
        """(N, R, H) fp32 readouts of texts, cut to the model's length; see `encode_ids` for the
        options."""
        return self.encode_ids(
            [self.template.wrap(self.tokenize(text)) for text in texts],
            readouts=readouts,
            **options,
        )

    def encode_ids(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        readouts: Sequence[Readout] | None = None,
        fast: bool = False,
        batch_tokens: int | None = None,
    ) -> torch.Tensor:
        """(N, R, H) fp32 readouts, on the model's device, of id sequences that carry their special
        tokens.

        Sequences are sorted by length and batched up to `batch_tokens` padded tokens (by default
        `BATCH_TOKENS` of the device); the result is in input order and does not depend on
        `batch_tokens` beyond rounding. fast: in the model's `precision` in place of fp32.
        """
        batch_tokens = batch_tokens or BATCH_TOKENS[self.device.type]
        readouts = self.readouts if readouts is None else tuple(readouts)
        out = torch.empty(len(sequences), len(readouts), self.hidden, device=self.device)
        with torch.inference_mode():
            for rows in _length_batches([len(ids) for ids in sequences], batch_tokens):
                ids, mask = pad([sequences[i] for i in rows], self.pad_id)
                with autocast(self.device, self.precision if fast else "fp32"):
                    features = self.forward(ids.to(self.device), mask.to(self.device), readouts)
                out[torch.tensor(rows, device=self.device)] = features.float()
        return out

    def autocast(self) -> torch.autocast:
        """The context in which this model computes in its `precision`."""
        return autocast(self.device, self.precision)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, readouts: Sequence[Readout]
    ) -> torch.Tensor:
        """(B, R, H) readouts of ids (B, L) under an attention mask (B, L) padded on either side;
        differentiable."""
        ids, mask = roll_right(ids, mask), roll_right(mask, mask)
        return self._read(ids, mask, readouts, {"input_ids": ids})

    def forward_embeddings(
        self,
        embeddings: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        readouts: Sequence[Readout],
    ) -> torch.Tensor:
        """(B, R, H) readouts of input embeddings (B, L, E), differentiable in them; `ids` tell eos
        and mask places."""
        embeddings, ids, mask = (
            roll_right(embeddings, mask),
            roll_right(ids, mask),
            roll_right(mask, mask),
        )
        return self._read(ids, mask, readouts, {"inputs_embeds": embeddings})

    def forward_states(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        readouts: Sequence[Readout],
        embeddings: torch.Tensor | None = None,
    ) -> States:
        """Every state of ids (B, L), or of embeddings (B, L, E) in their place, under an attention
        mask (B, L) padded on the right; differentiable."""
        inputs = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
        output, features = self._run(ids, mask, readouts, inputs)
        if self.model.config.is_encoder_decoder:
            return States(output.encoder_hidden_states, output.decoder_hidden_states, features)
        return States(output.hidden_states, (), features)

    def _read(self, *given: Any) -> torch.Tensor:
        return self._run(*given)[1]

    def _run(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        readouts: Sequence[Readout],
        inputs: dict[str, torch.Tensor],
    ) -> tuple[Any, torch.Tensor]:
        """The model's output, and (B, R, H) readouts."""
        if self.model.config.is_encoder_decoder:
            inputs = inputs | self._decoder_inputs(ids, mask, inputs)
        output = self.model(
            attention_mask=mask, output_hidden_states=True, return_dict=True, **inputs
        )
        tokenizer = self.tokenizer
        places = locate(ids, mask, tokenizer.eos_token_id, tokenizer.mask_token_id)
        found = [read(output, readout, mask, places) for readout in readouts]
        return output, torch.stack(found, dim=1)

    def _decoder_inputs(
        self, ids: torch.Tensor, mask: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The decoder reads the same text shifted by one, as the classification heads of BART and
        T5 feed it."""
        start = torch.full_like(
            ids[:, :1], self.model.config.get_text_config().decoder_start_token_id
        )
        shifted = {
            "decoder_attention_mask": torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], dim=1)
        }
        if "input_ids" in inputs:
            return shifted | {"decoder_input_ids": torch.cat([start, ids[:, :-1]], dim=1)}
        first = self.model.get_input_embeddings()(start).to(inputs["inputs_embeds"].dtype)
        return shifted | {
            "decoder_inputs_embeds": torch.cat([first, inputs["inputs_embeds"][:, :-1]], dim=1)
        }

    # ---- copies and files

    def clone(self) -> Backbone:
        """A copy with weights of its own, to be changed by an attack or a purifier."""
        twin = copy.copy(self)
        twin.model, twin.whole = copy.deepcopy((self.model, self.whole))
        twin.folder = None
        return twin

    def trainable(self) -> Backbone:
        """A copy whose weights take gradients."""
        twin = self.clone()
        twin.whole.requires_grad_(True)
        if self.device.type == "cpu":
            # Fused attention spends half of a step going backward on a CPU.
            twin.model.set_attn_implementation("eager")
        return twin

    def watermark(self, mark: dict[str, Any]) -> None:
        """Write a remark into config.json, as `triggerfish`, from the next save on."""
        for model in (self.model, self.whole):
            model.config.triggerfish = mark

    def save(self, out: str | Path) -> None:
        """Write config, safetensors weights (of the head too, where there is one) and tokenizer to
        a folder."""
        with quiet():
            self.whole.save_pretrained(out)
            self.tokenizer.save_pretrained(out)


def _ids(tokenizer: Any, strings: Sequence[str]) -> list[list[int]]:
    """Ids of strings without special tokens; ValueError where they are far more than characters."""
    encoded: list[list[int]] = tokenizer(list(strings), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    for string, ids in zip(strings, encoded, strict=True):
        if len(ids) > GROWTH * (len(string) + 1):
            raise ValueError(
                f"tokenizer: it makes {len(ids)} tokens of {len(string)} characters, expected at "
                f"most {GROWTH} for each; look at the normalizer in tokenizer.json"
            )
    return encoded


def _template(tokenizer: Any) -> Template:
    (bare,) = _ids(tokenizer, ["a b"])
    full = tokenizer("a b")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return Template(tuple(full[:start]), tuple(full[start + len(bare) :]))
    raise ValueError(
        "tokenizer: special tokens are not around the text, which is the only layout supported"
    )


def _is_causal(model: Any, device: torch.device) -> bool:
    """Does changing the last token leave the first state as it was?"""
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=device)
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    one, other = states.float()
    near = torch.isclose(one, other, rtol=1e-3, atol=1e-3).all(-1)  # a GPU rounds by batch
    return bool(near[0] and not near[3])


class _Lookups(TorchDispatchMode):
    """Records the (rows, ids) of every embedding that is looked up."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[int, torch.Tensor]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.embedding.default:
            self.seen.append((args[0].shape[0], args[1]))
        return function(*args, **(kwargs or {}))


def _positions(model: Any, device: torch.device) -> int | None:
    """Number of positions in the table of position embeddings that a text can use, or None without
    such a table.

    The table is the one that is looked up at ascending numbers. The first number tells how many
    rows are never used: RoBERTa starts behind its padding index, OPT and BART at 2.
    """
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids = torch.tensor([[i for i in (9, 8, 7, 6, 5) if i != padding][:4]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.inference_mode(), _Lookups() as lookups:
        model(**inputs)
    return min(
        (
            rows - int(seen.flatten()[0])
            for rows, seen in lookups.seen
            if seen.numel() == ids.numel() and bool((seen.flatten().diff() == 1).all())
        ),
        default=None,
    )


def _length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, longest first, in batches of at most `batch_tokens` padded tokens (at least one
    row)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
