"""Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (2018): where Adam goes the wrong way.

x lives in [-1, 1]. Now and then the loss is C*x, otherwise -x; on the whole -1 is best. Adam divides the rare
large gradients by their own size, counts the many small ones in full, and walks to +1. Anon's multiplier
stands still between refreshes, so that large and small gradients are weighed alike.
"""

from __future__ import annotations

import math

import pytest
import torch

from anon_tune.optim import Anon

GAMMAS = (-0.5, 0.0, 0.5, 1.0, 1.5)
STEPS = 10_000
RUNS = 64


def slopes(kind: str) -> torch.Tensor:
    """Slope of the linear loss at each step, (STEPS, RUNS): the paper's theorems 1 and 2, and 3."""
    if kind == "online":
        return torch.where(torch.arange(STEPS) % 3 == 0, 4.0, -1.0)[:, None].expand(STEPS, RUNS)
    generator = torch.Generator().manual_seed(0)
    large, excess = 4.0, 0.25
    rare = torch.rand(STEPS, RUNS, generator=generator) < (1 + excess) / (large + 1)
    return torch.where(rare, large, -1.0)


def average_regret(optimizer: torch.optim.Optimizer, xs: list[torch.Tensor], slope: torch.Tensor, lr: float):
    """Regret per step against the best fixed x, mean over the runs, after 1%, 10% and all of the steps."""
    paid = [torch.zeros(RUNS, dtype=torch.float64) for _ in xs]
    marks: list[list[float]] = []
    for t in range(1, STEPS + 1):
        for x, total in zip(xs, paid, strict=True):
            x.grad = slope[t - 1].clone()
            total += slope[t - 1] * x
        for group in optimizer.param_groups:
            group["lr"] = lr / math.sqrt(t)
        optimizer.step()
        for x in xs:
            x.clamp_(-1.0, 1.0)
        if t in (STEPS // 100, STEPS // 10, STEPS):
            best = -slope[:t].double().sum(0).abs()
            marks.append([((total - best) / t).mean().item() for total in paid])
    return list(zip(*marks, strict=True))


@pytest.mark.parametrize("kind", ["online", pytest.param("stochastic", marks=pytest.mark.slow)])
def test_adam_goes_the_wrong_way_and_anon_does_not(kind):
    slope = slopes(kind)
    beta2 = 1 / (1 + 4.0**2)

    x = torch.zeros(RUNS)
    (adam,) = average_regret(torch.optim.Adam([x], betas=(0.0, beta2)), [x], slope, lr=0.5)
    assert x.mean() > 0.9
    assert adam[2] > 0.2
    # It does not fall, in a hundred times the steps.
    assert adam[2] > adam[0]
    assert adam[2] > 0.99 * adam[1]

    xs = [torch.zeros(RUNS) for _ in GAMMAS]
    groups = [{"params": [x], "gamma": gamma} for x, gamma in zip(xs, GAMMAS, strict=True)]
    anon = average_regret(Anon(groups, betas=(0.0, beta2, 0.5)), xs, slope, lr=0.5)
    for gamma, x, (early, middle, late) in zip(GAMMAS, xs, anon, strict=True):
        assert x.mean() < -0.9, gamma
        assert early > middle > late, gamma
        # 1/sqrt(T), the rate of the theorem: a tenth for a hundred times the steps.
        assert late < 0.2 * early, gamma
        assert late < 0.04, gamma
