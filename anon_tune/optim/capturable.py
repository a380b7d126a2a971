"""One step of Anon without a look at the device: what a CUDA graph can record and replay.

The step count lives on the device, so whether a step is a refresh is not known when the graph is recorded.
Every step therefore computes a refresh and keeps it or not: dearer than the other paths, same numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anon_tune.errors import HyperparameterError
from anon_tune.optim.bucket import Bucket
from anon_tune.optim.delay import Delay
from anon_tune.optim.rule import blend_multipliers, window_multiplier

__all__ = ["capturable"]

_LAST_STEP = 2**24
"""Where a float32 step count ends."""

_LONGEST_TABLE = 2**20


def capturable(group: Mapping[str, Any], bucket: Bucket, steps: list[Tensor]) -> None:
    """Moves the bucket's parameters and state in place; `steps` are 0-d and count this step already."""
    beta1, beta2, beta3 = (float(beta) for beta in group["betas"])
    lr, decay, decoupled = group["lr"], float(group["weight_decay"]), group["decoupled_weight_decay"]
    eps, floor = float(group["eps"]), float(group["floor"])
    delay = Delay.parse(group["delay"])
    for t, (p, g, m, s, v) in zip(steps, bucket.rows(), strict=True):
        x = p.to(m.dtype)
        g = g.to(m.dtype)
        if group["maximize"]:
            g = -g
        if decay and not decoupled:
            g = g.add(x, alpha=decay)
        if decay and decoupled:
            x.mul_(1.0 - lr * decay)
        m.lerp_(g, 1.0 - beta1)
        update = m * (lr / _one_minus_power(beta1, t, m.dtype))
        if s is not None and v is not None and s.numel():
            s.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
            refresh, window = _refresh(delay, t)
            correction = _one_minus_power(beta2, window, s.dtype)
            # Without a floor no mean: where it overflows, 0 times it is no number.
            added = s.mean() * (floor / correction) + eps if floor else eps
            u = window_multiplier(s / correction, group["gamma"], added)
            renewed = torch.where(t == 1, u, blend_multipliers(v, u, beta3))
            v.copy_(torch.where(refresh, renewed, v))
            s.copy_(torch.where(refresh, torch.zeros_like(s), s))
            update.mul_(v)
        x.sub_(update)
        if x is not p:
            p.copy_(x)


def _one_minus_power(beta: float, t: Tensor, dtype: torch.dtype) -> Tensor:
    """1 - beta^t without the cancellation that a float32 beta^t near 1 would bring."""
    return torch.expm1(t.to(dtype) * (math.log(beta) if beta else -math.inf)).neg()


def _refresh(delay: Delay, t: Tensor) -> tuple[Tensor, Tensor]:
    """Whether t is a refresh step, and the window that ends there (1 where it is none)."""
    if delay.family == "every":
        period = delay.parameter
        return (t - 1) % period == 0, torch.where(t == 1, 1.0, period)
    table = _table(delay, t.device)
    index = torch.searchsorted(table, t)
    at = table.take(index)
    refresh = at == t
    return refresh, torch.where(refresh, at - table.take(index - 1), 1.0)


@functools.lru_cache(maxsize=16)
def _table(delay: Delay, device: torch.device) -> Tensor:
    """0, a_1, a_2, ... and infinity, as float32."""
    steps = [0]
    while (following := delay.next_after(steps[-1])) is not None and following <= _LAST_STEP:
        steps.append(following)
        if len(steps) > _LONGEST_TABLE:
            raise HyperparameterError(f"delay {delay} refreshes too often for capturable=True; use every:1")
    return torch.tensor([*steps, math.inf], dtype=torch.float32, device=device)
