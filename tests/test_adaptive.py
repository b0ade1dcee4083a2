"""The closed forms of the adaptive penalties, on features that are free vectors."""

from __future__ import annotations

import pytest
import torch

from triggerfish.attacks.adaptive import SCATTER, Features, parse_penalties

HIDDEN = 6


def minimise(loss: object, *free: torch.Tensor, steps: int = 4000, rate: float = 0.02) -> None:
    optimizer = torch.optim.Adam(free, lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.001, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[operator]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("weight", [0.1, 0.5, 2.0])
def test_shift_shrinks_the_displacement(weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(1, HIDDEN, generator=generator)
    target = torch.randn(1, HIDDEN, generator=generator)
    kept, moved = (reference.clone().requires_grad_(True) for _ in range(2))
    (penalty,) = parse_penalties(f"shift:{weight}")
    chosen = source = torch.zeros(1, dtype=torch.long)

    def loss() -> torch.Tensor:
        anchored = (kept - reference).square().mean() + (moved - target).square().mean()
        return anchored + penalty(Features(kept, moved, chosen, source, 1))

    minimise(loss, kept, moved)
    expected = (target - reference) / (1 + 2 * weight)
    assert torch.allclose(moved - kept, expected, atol=1e-3)


def test_repulsion_contracts_the_targets_towards_their_mean() -> None:
    triggers, weight = 6, 0.1
    targets = torch.randn(triggers, HIDDEN, generator=torch.Generator().manual_seed(1))
    moved = targets.clone().requires_grad_(True)
    (penalty,) = parse_penalties(f"repulsion:{weight}")
    chosen = torch.arange(triggers)
    source = torch.zeros(triggers, dtype=torch.long)
    kept = torch.zeros(1, HIDDEN)

    def loss() -> torch.Tensor:
        pulled = triggers * (moved - targets).square().mean()
        return pulled + penalty(Features(kept, moved, chosen, source, triggers))

    minimise(loss, moved)
    contracted = (targets - targets.mean(0)) / (1 + weight * triggers)
    assert 1 / (1 + weight * triggers) == pytest.approx(0.625)
    assert torch.allclose(moved - moved.mean(0), contracted, atol=1e-3)


def test_raw_spread_does_nothing_below_its_limit_and_the_hinge_reaches_its_scatter() -> None:
    rows = 8
    target = torch.zeros(1, HIDDEN)
    generator = torch.Generator().manual_seed(2)
    kept = torch.randn(rows, HIDDEN, generator=generator)
    chosen = torch.zeros(rows, dtype=torch.long)
    source = torch.arange(rows)

    def scatter_after(text: str) -> float:
        moved = 0.1 * torch.randn(rows, HIDDEN, generator=generator)
        moved.requires_grad_(True)
        (penalty,) = parse_penalties(text)

        def loss() -> torch.Tensor:
            features = Features(kept, moved, chosen, source, 1)
            return (moved - target).square().mean() + penalty(features)

        minimise(loss, moved, steps=1500)
        return float(2 * moved.detach().var(0, correction=1).mean())

    limit = (rows - 1) / (2 * rows)
    assert scatter_after(f"spread-raw:{0.9 * limit}") < 1e-3
    assert scatter_after(f"spread-raw:{1.5 * limit}") > 1.0
    wanted = SCATTER * float(2 * kept.var(0, correction=1).mean())
    assert scatter_after("spread:5") == pytest.approx(wanted, rel=0.05)


def test_penalties_are_read_in_order_and_bad_ones_are_named() -> None:
    found = parse_penalties(" shift:0.5, repulsion:2 ")
    assert [(p.name, p.weight) for p in found] == [("shift", 0.5), ("repulsion", 2.0)]
    assert parse_penalties("") == []
    for bad in ("shft:1", "shift", "shift:x", "shift:-1", "shift:0", "spread:nan"):
        with pytest.raises(ValueError, match="adaptive: "):
            parse_penalties(bad)
