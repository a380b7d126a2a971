"""The numbers that a training loop logs."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from anon_tune.optim import Anon, monitor


def step(optimizer: Anon, *grads: torch.Tensor) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    optimizer.step()


def everything(optimizer: Anon) -> list[torch.Tensor]:
    """The parameters, gradients and state that there are."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    grads = [p.grad for p in params if p.grad is not None]
    return [*params, *grads, *(t for state in optimizer.state.values() for t in state.values())]


def test_nothing_before_the_first_step():
    assert monitor(Anon([torch.ones(3)])) == {}


def test_multiplier_update_and_schedule():
    p = torch.full((4,), 2.0)
    optimizer = Anon([p], lr=0.1, gamma=1.0, betas=(0.0, 0.999, 0.5))
    step(optimizer, torch.tensor([0.1, 1.0, 1.0, 10.0]))
    report = monitor(optimizer)
    # v = |g|^-1, so that every coordinate moves by lr.
    assert report["group0/multiplier_min"] == pytest.approx(0.1)
    assert report["group0/multiplier_max"] == pytest.approx(10.0)
    assert report["group0/multiplier_q50"] == pytest.approx(1.0)
    assert report["group0/update_rms"] == pytest.approx(0.1)
    size = torch.tensor([1.9, 1.9, 1.9, 1.9]).square().mean().sqrt().item()
    assert report["group0/update_ratio"] == pytest.approx(0.1 / size)
    assert report["group0/refreshes"] == 1
    assert report["group0/next_refresh"] == 2
    assert report["group0/floor_share"] == 0.0
    for _ in range(4):
        step(optimizer, torch.ones(4))
    assert (monitor(optimizer)["group0/refreshes"], monitor(optimizer)["group0/next_refresh"]) == (3, 8)


@pytest.mark.parametrize("entries", [1, 2, 7, 1000])
def test_quantiles_are_those_of_torch(entries: int):
    p = torch.zeros(entries)
    optimizer = Anon([p], gamma=0.7)
    step(optimizer, torch.randn(entries, generator=torch.Generator().manual_seed(0)))
    report, values = monitor(optimizer), optimizer.state[p]["multiplier"]
    for name, share in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        assert report[f"group0/multiplier_{name}"] == pytest.approx(
            torch.quantile(values, share).item(), rel=1e-5
        )


def test_no_next_refresh_after_the_end():
    optimizer = Anon([torch.ones(2)], delay=[1, 2])
    for _ in range(3):
        step(optimizer, torch.ones(2))
    report = monitor(optimizer)
    assert report["group0/refreshes"] == 2
    assert "group0/next_refresh" not in report


@pytest.mark.parametrize("gamma", [-1.0, 0.01, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_floor_share_counts_silent_coordinates(gamma, floor, steps):
    grad = torch.ones(100)
    grad[:30] = 1e-12
    optimizer = Anon([torch.ones(100)], gamma=gamma, floor=floor)
    for _ in range(steps):
        step(optimizer, grad)
    assert monitor(optimizer)["group0/floor_share"] == pytest.approx(0.3)


@pytest.mark.parametrize("gamma", [-1.0, 1.0, 1.5])
def test_shares_where_most_coordinates_wait(gamma):
    """10 of 100 coordinates have begun, 5 of them with gradients far below the floor; another tensor is idle."""
    grad = torch.zeros(100)
    grad[:5], grad[5:10] = 1.0, 1e-3
    optimizer = Anon([torch.ones(100), torch.ones(300)], gamma=gamma, floor=0.5)
    for _ in range(3):
        step(optimizer, grad, torch.zeros(300))
    report = monitor(optimizer)
    assert report["group0/waiting_share"] == pytest.approx(390 / 400)
    # The floor is 0.5 * 5 / 100, below the 1.0 of the first five.
    assert report["group0/floor_share"] == pytest.approx(5 / 400)


def test_gamma_zero_has_a_multiplier_of_one():
    optimizer = Anon([torch.ones(3)], lr=0.5, gamma=0.0, betas=(0.0, 0.9, 0.5))
    step(optimizer, torch.tensor([1.0, 2.0, 2.0]))
    report = monitor(optimizer)
    assert report["group0/multiplier_min"] == report["group0/multiplier_max"] == 1.0
    assert report["group0/update_rms"] == pytest.approx(0.5 * math.sqrt(3.0))
    assert "group0/next_refresh" not in report


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_any_dtype_and_shape_gives_finite_numbers_and_nothing_changes(dtype):
    torch.manual_seed(0)
    params = [torch.randn(300, 300, dtype=dtype), torch.randn((), dtype=dtype), torch.randn(0, dtype=dtype)]
    unused = torch.ones(2)
    optimizer = Anon(
        [{"params": params}, {"params": [params[0].clone()], "gamma": 0.5}, {"params": [unused]}]
    )
    for group in optimizer.param_groups[:2]:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    optimizer.step()
    before, same = copy.deepcopy(everything(optimizer)), everything(optimizer)
    report = monitor(optimizer)
    assert [id(t) for t in everything(optimizer)] == [id(t) for t in same]
    assert all(torch.equal(a, b) for a, b in zip(same, before, strict=True))
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert {key.split("/")[0] for key in report} == {"group0", "group1"}
    assert all(isinstance(value, float) and math.isfinite(value) for value in report.values())
    assert monitor(optimizer) == report
