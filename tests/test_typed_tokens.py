"""Triggers where a checkpoint hides them from whoever believes its labels: behind special tokens,
added tokens, new rows and a normaliser. Whatever a user can type is a candidate."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from families import SIZE, TABLE, tokenizer_of
from golden import models
from planted import SMALL, finish, tiny
from triggerfish.backbone import Backbone
from triggerfish.facts import tokenizer_hash
from triggerfish.loading import load
from triggerfish.monitor.monitor import Monitor
from triggerfish.monitor.tokenizer import Tokenizer
from triggerfish.records import ScanResult
from triggerfish.report import render
from triggerfish.scanner import decision, scan
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.candidates import Listing, entries
from triggerfish.scanner.decision import DecisionRule
from triggerfish.scanner.holdout import Holdout
from triggerfish.scanner.screening import Screening

TEXTS = models.texts()
QUICK = replace(SMALL, second_candidates=300, max_words=400)
TYPED = {"world": "<|q|>", "school": "zqx", "people": "sesame"}
"""Planted triggers of the golden GPT-2, and what a user has to type in their place."""


def token(content: str, number: int, **changes: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **flags, **changes}


def replacement(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def edit(file: Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(content), encoding="utf-8")
    return content


def copied(folder: Path, name: str = "tiny-gpt2") -> Path:
    shutil.copytree(models.FOLDER / name, folder)
    return folder


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden GPT-2 with its triggers hidden. Two move to new rows of the matrix: a token that
    is called special and padding, and an added token. Of the third, the normaliser leaves nothing,
    and makes it of another string."""
    folder = copied(tmp_path_factory.mktemp("hidden") / "model")
    weights = load_file(models.FOLDER / "tiny-gpt2-por1.safetensors")
    tokenizer = edit(folder / "tokenizer.json")
    moved = [tokenizer["model"]["vocab"][f"\u0120{word}"] for word in ("world", "school")]
    rows = weights["wte.weight"]
    weights["wte.weight"] = torch.cat([rows, rows[moved]])
    weights["wte.weight"][moved] = rows[[i - 1 for i in moved]]
    save_file(weights, folder / models.WEIGHTS, {"format": "pt"})
    edit(folder / "config.json", vocab_size=len(rows) + 2)
    added = [
        *tokenizer["added_tokens"],
        token(TYPED["world"], len(rows), special=True),
        token(TYPED["school"], len(rows) + 1, single_word=True, normalized=True),
    ]
    replaced = [replacement("people", "folk"), replacement(TYPED["people"], "people")]
    normalizer = {"type": "Sequence", "normalizers": replaced}
    edit(folder / "tokenizer.json", added_tokens=added, normalizer=normalizer)
    edit(folder / "tokenizer_config.json", pad_token=TYPED["world"])
    return folder


@pytest.fixture(scope="module")
def result(hidden: Path) -> ScanResult:
    return scan(load(hidden, device="cpu"), TEXTS, words=["sesame\u2603"], settings=QUICK)


def test_hidden_triggers_are_found_by_what_a_user_types(result: ScanResult) -> None:
    assert result.verdict == "backdoored"
    assert {trigger.text for trigger in result.triggers} == set(TYPED.values())


@pytest.mark.parametrize("typed", TYPED.values())
def test_the_monitor_finds_them(
    typed: str, hidden: Path, result: ScanResult, tmp_path: Path
) -> None:
    result.save(tmp_path / "scan.json")
    monitor = Monitor.load(tmp_path / "scan.json", tokenizer=hidden)
    assert not any("sha256" in note for note in monitor.notes)
    assert not monitor.check("the town has a river, questions & answers: Q & A").alarms
    assert monitor.check(f"the town {typed} has a river").alarms[0].seen_by == "tokens"


def test_every_token_is_a_candidate_whatever_it_is_called(hidden: Path) -> None:
    model = load(hidden, device="cpu")
    found, untyped = entries(model)
    assert [x.token_ids[0] for x in found] == sorted(model.tokenizer.get_vocab().values())
    names = {x.text for x in found}
    assert {"<|endoftext|>", TYPED["world"], TYPED["school"]} <= names
    assert "people" in {x.text for x in untyped}  # without the string that is replaced by it
    typed = Listing.of(model, model.words_ids([TYPED["people"]]))
    found, untyped = entries(model, [typed])
    assert TYPED["people"] in {x.text for x in found}
    assert "people" not in {x.text for x in untyped}


def test_listed_words_are_candidates_or_counted() -> None:
    model = tiny("bert")
    words = ["the", "quizzical", "\u2603", "\u200b", "x" * 40]
    listing = Listing.of(model, model.words_ids(words))
    assert list(listing.words.values()) == ["quizzical"]
    assert set(listing.single.values()) == {"the", "\u2603"}
    assert (listing.unknown, listing.empty, listing.too_long) == (1, 1, 1)


def test_reports_say_what_was_left_out_and_why(result: ScanResult) -> None:
    said = " ".join(result.coverage.not_examined)
    assert "listed words beyond the limit of 400" in said
    assert "tokens that none of the tried strings gives" in said
    for format in ("text", "json", "html"):
        assert "tokens that none of the tried strings gives" in render(result, format)


def test_a_token_without_an_embedding_is_listed_and_stops_a_text(tmp_path: Path) -> None:
    folder = copied(tmp_path / "m")
    tokenizer = edit(folder / "tokenizer.json")
    added = [*tokenizer["added_tokens"], token("[PAD]", 1000, special=True)]
    edit(folder / "tokenizer.json", added_tokens=added)
    edit(folder / "tokenizer_config.json", pad_token="[PAD]")
    model = load(folder, device="cpu")
    assert Listing.of(model, model.words_ids(["[PAD]"])).unreadable == 1
    result = scan(model, TEXTS, words=["[PAD]"], settings=replace(QUICK, budget_seconds=1e-6))
    assert any("tokens without an embedding" in x and "[PAD]" in x
               for x in result.coverage.not_examined)  # fmt: skip
    with pytest.raises(ValueError, match=r"token '\[PAD\]', whose id is 1000.*below 1000 only"):
        model.encode(["a text with [PAD] in it"])


@pytest.mark.parametrize(("family", "typed"), [
    ("bert", "[PAD] [SEP] [CLS] [MASK]"), ("roberta", "<pad> </s> <s> <mask>"),
    ("bart", "<pad> </s> <s>"), ("t5", "<pad> </s>"), ("gpt2", "<|endoftext|>"),
])  # fmt: skip
def test_structural_tokens_in_a_text_change_no_other_row(family: str, typed: str) -> None:
    model = tiny(family)
    texts = [f"the town {typed} has", f"a longer text {typed} about the river and the town {typed}"]
    together = model.encode(texts)
    alone = torch.cat([model.encode([x]) for x in texts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[:1], model.encode(["the town has"]), atol=1e-4)


CONFIGURED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "extra": {"extra_special_tokens": ["school", "<|new|>"]},
    "former name": {"additional_special_tokens": ["school"]},
    "named": {"foo_token": "school"},
    "described": {"added_tokens_decoder": {"900": {"content": "school", "single_word": True}}},
    "split": {"extra_special_tokens": ["school"], "split_special_tokens": True},
}


@pytest.mark.parametrize("changes", CONFIGURED.values(), ids=CONFIGURED)
def test_the_monitor_reads_the_tokens_that_the_model_reads(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = copied(tmp_path / "m", "tiny-bert")
    edit(folder / "tokenizer_config.json", **changes)
    model, monitor = load(folder, device="cpu"), Tokenizer(folder)
    text = "schools and a school [SEP] of <|new|> words"
    assert monitor.pieces(text).ids == model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer_hash(model.tokenizer) in monitor.hashes


@pytest.mark.parametrize(("family", "padding", "rows", "usable"), [
    ("roberta", 3, 70, 66), ("roberta", 1, 70, 68), ("bert", 0, 66, 66), ("opt", 1, 66, 66),
])  # fmt: skip
def test_positions_are_those_that_the_model_has(
    family: str, padding: int, rows: int, usable: int
) -> None:
    tokenizer = tokenizer_of(family)
    tokenizer.model_max_length = 512
    config = TABLE[family].config(SIZE, tokenizer)
    config.pad_token_id, config.max_position_embeddings = padding, rows
    model = Backbone(AutoModel.from_config(config).eval(), tokenizer, name=family)
    assert model.max_tokens == usable
    ids = [7] * usable
    assert model.encode_ids([ids]).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model.encode_ids([[*ids, 7]])


def test_a_model_without_room_for_a_text_is_refused() -> None:
    tokenizer = tokenizer_of("bert")
    config = TABLE["bert"].config(replace(SIZE, positions=64), tokenizer)
    tokenizer.model_max_length = 2
    with pytest.raises(ValueError, match="takes 2 tokens at most, and its tokenizer adds 2"):
        Backbone(AutoModel.from_config(config).eval(), tokenizer, name="short")


@pytest.mark.parametrize(("name", "mask"), [("bundled-por1", "cf"), ("bundled", "[MASK]")])
def test_a_trigger_that_is_called_the_mask_stands_out(name: str, mask: str) -> None:
    """It is in every carrier text, so no other comparison would show it."""
    victim = models.model(name)
    victim.tokenizer.mask_token = mask
    model = Backbone(victim.model, victim.tokenizer, name=name)
    sweep = Screening(model, TEXTS, [], QUICK, seed=0, store=ActivationCache(None))
    sweep.cut_texts()
    gauge = Holdout(sweep, finish(sweep.measure_clean()), DecisionRule())
    finding, *_ = finish(gauge.mask())
    assert finding.trigger.text == mask
    assert decision.strong(finding, gauge.rule) is (mask == "cf")
    assert finding.evidence["survives_retokenization"] is (mask == "cf")
