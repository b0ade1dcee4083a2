"""Golden results: the fast half, and the stages by themselves, on saved arrays."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from golden import arrays, run


@pytest.mark.parametrize("name", run.FAST)
def test_scan_of_a_tiny_model_is_the_recorded_one(name):
    assert list(run.differences(run.expected(name), run.measure(name))) == []


def test_a_difference_is_noticed():
    recorded = run.expected(run.FAST[1])
    for key, value in (("verdict", "inconclusive"), ("forward_tokens", 1), ("findings", [{}])):
        assert [row[0] for row in run.differences(recorded, {**recorded, key: value})] == [
            f".{key}"
        ]
    moved = {**recorded, "tails": {"last": {"threshold": 99.0}}}
    assert any(row[0].startswith(".tails") for row in run.differences(recorded, moved))


@pytest.mark.parametrize("name", arrays.NAMES)
def test_statistics_of_saved_features(name):
    """The effects of the shortlist and the null, from features alone: no model is run."""
    saved = load_file(arrays.file(name))
    found = arrays.statistics(saved)
    for key, values in found.items():
        assert torch.allclose(values, saved[key], rtol=1e-3, atol=1e-3), key
    assert set(found) == set(saved) - set(arrays.GIVEN)
