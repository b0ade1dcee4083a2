"""What is kept of an interrupted scan: its key, and files that cannot be read or written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from planted import SMALL, tiny
from triggerfish import scanner, text
from triggerfish.backbone import Backbone
from triggerfish.records import ScanResult
from triggerfish.scanner import DecisionRule, Progress, events, scan
from triggerfish.scanner.cache import CLOCK, ActivationCache
from triggerfish.scanner.search.efforts import EFFORTS

TEXTS = text.bundled_corpus()[:300]
QUICK = replace(SMALL, second_candidates=60, text_candidates=40, controls=60, max_words=60)


def changed(change: Callable[[Backbone], Any]) -> Backbone:
    model = tiny().clone()
    change(model)
    return model


def weight(model: Backbone) -> None:
    model.embeddings[0, 0] += 1


def config(model: Backbone) -> None:
    model.model.config.layer_norm_eps = 1000.0


def precision(model: Backbone) -> None:
    model.precision = {"bf16": "fp32", "fp32": "bf16"}[model.precision]


def loader(model: Backbone) -> None:
    model.unread = ("classifier.weight",)


CHANGES: dict[str, dict[str, Any]] = {
    **{f.__name__: {"model": changed(f)} for f in (weight, config, precision, loader)},
    "tokenizer": {"model": tiny("gpt2")},
    "texts": {"texts": TEXTS[1:]},
    "words": {"words": ["another"]},
    "settings": {"settings": replace(QUICK, controls=99)},
    "rule": {"rule": DecisionRule(alpha=0.02)},
    "search": {"search": EFFORTS["quick"]},
    "seed": {"seed": 1},
    "reference": {"reference": tiny()},
}


def key(**changes: Any) -> str:
    given = {"model": tiny(), "texts": TEXTS, "words": [], "settings": QUICK, "seed": 0}
    return scanner._key(
        **{"rule": DecisionRule(), "search": None, "reference": None} | given | changes
    )


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_part_is_another_scan(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize("name", ["triggerfish", "torch", "transformers", "tokenizers", "device"])
def test_another_version_or_device_is_another_scan(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, environment, version = key(), scanner.environment, scanner.version
    monkeypatch.setattr(scanner, "environment", lambda x: {**environment(x), name: "another"})
    monkeypatch.setattr(scanner, "version", lambda x: "another" if x == name else version(x))
    assert key() != before


def test_a_budget_and_the_number_of_threads_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert key(settings=replace(QUICK, budget_seconds=9.0)) == before


def interrupted(state: Path) -> ScanResult:
    """The result of a scan without state; another one is interrupted and leaves its own."""
    stream = events(tiny(), TEXTS, words=[], settings=QUICK, state=state)
    for _ in range(6):
        next(stream)
    stream.close()
    return scan(tiny(), TEXTS, words=[], settings=QUICK)


def resumed(state: Path) -> tuple[ScanResult, int]:
    """The result of the interrupted scan, and the number of blocks that it did not compute."""
    *steps, result = events(tiny(), TEXTS, words=[], settings=QUICK, state=state)
    assert isinstance(result, ScanResult)
    return result, sum(step.resumed for step in steps if isinstance(step, Progress))


def test_state_that_cannot_be_read_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = interrupted(tmp_path)
    blocks = sorted(tmp_path.rglob("*.safetensors"))
    content = blocks[0].read_bytes()
    blocks[0].write_bytes(content[: len(content) // 2])
    blocks[1].write_bytes(b"")
    (clock,) = tmp_path.rglob(CLOCK)
    clock.write_text("{")
    with caplog.at_level(logging.WARNING):
        result, kept = resumed(tmp_path)
    assert kept == len(blocks) - 2
    assert (result.verdict, result.near_misses) == (expected.verdict, expected.near_misses)
    for file in (blocks[0], blocks[1], clock):
        assert any(str(file) in message for message in caplog.messages)


def test_a_block_of_another_shape_is_computed_again(tmp_path: Path) -> None:
    store = ActivationCache(tmp_path)
    store.features("block", (2, 3), lambda: torch.zeros(2, 3))
    assert store.features("block", (2, 3), lambda: torch.ones(2, 3))[1]
    block, read = store.features("block", (4, 3), lambda: torch.ones(4, 3))
    assert (block.shape, read) == ((4, 3), False)


def test_a_full_disk_does_not_end_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("triggerfish.scanner.cache.write_tensors", full)
    store = ActivationCache(tmp_path / "state")
    for number in range(2):
        block, _ = store.features(f"block-{number}", (2,), lambda: torch.ones(2))
        assert block.tolist() == [1, 1]
    assert len(caplog.messages) == 1
    assert "No space left on device" in caplog.text
    assert "--state" in caplog.text


def test_state_must_be_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"state: .*file is not a folder"):
        ActivationCache(file / "key")
