"""One step of Anon that a CUDA graph can record and replay, because the host never reads from the device.

The step count lives on the device, so whether a step is a refresh is not known when the graph is recorded.
Every step therefore computes a refresh and keeps it or not. That is slower than the other paths and gives the same
numbers.
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
from anon_tune.optim.rule import (
    added_to_moment,
    count_begun,
    multiplier_in_use,
    refreshed,
    three_betas,
    without_decay_alone,
)

__all__ = ["capturable"]

_LEAST_REACH = 2**24
"""Steps that a table of refresh steps must cover."""

_USUAL_TABLE = 2**16
"""Entries after which a table that reaches far enough ends. With `polynomial:2` the last refresh is at step 2^32."""

_LONGEST_TABLE = 2**20


def capturable(group: Mapping[str, Any], bucket: Bucket, steps: list[Tensor]) -> None:
    """Move the bucket's parameters and state in place; `steps` are 0-d and count this step already."""
    beta1, beta2, beta3 = three_betas(group)
    lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
    decay, decoupled = float(group["weight_decay"]), group["decoupled_weight_decay"]
    gamma, eps, floor = float(group["gamma"]), float(group["eps"]), float(group["floor"])
    delay = Delay.parse(group["delay"])
    for t, (p, g, m, s, v) in zip(steps, bucket.rows(), strict=True):
        x = p.to(m.dtype)
        g = g.to(m.dtype)
        d = -g if group["maximize"] else g
        if decay and not decoupled:
            d = d.add(x, alpha=decay)
        if decay and decoupled:
            x.mul_(1.0 - lr * decay)
        # Before the first gradient t is 0 and m stays 0, with coupled decay too.
        m.lerp_(d, (t > 0).to(m.dtype) * (1.0 - beta1))
        update = m * (lr / _one_minus_power(beta1, t.clamp(min=1), m.dtype))
        if s is not None and v is not None and s.numel():
            if decay and not decoupled:
                d = without_decay_alone(d, g)
            s.mul_(beta2).addcmul_(d, d, value=1.0 - beta2)
            refresh, elapsed = _refresh(delay, t)
            correction = _one_minus_power(beta2, elapsed, s.dtype)
            v.copy_(count_begun(s, v, beta2))
            added = added_to_moment(s, v, eps, floor, correction, settled=False)
            renewed = refreshed(s, v, gamma, beta3, added, correction, settled=False)
            used = multiplier_in_use(s, v, gamma, eps, floor, correction)
            update.mul_(torch.where(refresh, renewed, used))
            v.copy_(torch.where(refresh, renewed, v))
            s.copy_(torch.where(refresh, torch.zeros_like(s), s))
        x.sub_(update)
        if x is not p:
            p.copy_(x)


def _one_minus_power(beta: float, t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1 - beta^t, without the cancellation of a float32 beta^t near 1."""
    return torch.expm1(t.to(dtype) * (math.log(beta) if beta else -math.inf)).neg()


def _refresh(delay: Delay, t: Tensor) -> tuple[Tensor, Tensor]:
    """Whether t is a refresh step, and the steps since the last one before t (at least 1)."""
    if delay.family == "every":
        since = (t - 1) % delay.parameter
        return (since == 0) & (t > 0), torch.where(
            t > 1, torch.where(since == 0, delay.parameter, since), 1.0
        )
    table = _table(delay, t.device)
    index = torch.searchsorted(table, t).clamp(min=1)
    return table.take(index) == t, (t - table.take(index - 1)).clamp(min=1)


@functools.lru_cache(maxsize=16)
def _table(delay: Delay, device: torch.device) -> Tensor:
    """Return 0, a_1, a_2, ... and infinity, as float64."""
    steps = [0]
    while (following := delay.next_after(steps[-1])) is not None:
        if following > _LEAST_REACH and len(steps) > _USUAL_TABLE:
            break
        steps.append(following)
        if len(steps) > _LONGEST_TABLE:
            raise HyperparameterError(f"delay {delay} refreshes too often for capturable=True; use every:1")
    return torch.tensor([*steps, math.inf], dtype=torch.float64, device=device)
