"""One step of Anon over lists of tensors (torch's foreach kernels): few launches for many tensors."""

from __future__ import annotations

import torch

from anon_tune.optim.bucket import Bucket
from anon_tune.optim.rule import Step, refresh_multiplier

__all__ = ["foreach"]


_CACHED = 2**18
"""Entries that go through all operations together on CPU: with five lists 5 MiB in float32, which caches hold."""


def foreach(step: Step, bucket: Bucket) -> None:
    """Moves the bucket's parameters and state in place, many tensors at once.

    Refreshes are rare (10 in the first 1000 steps by default) and go tensor by tensor.
    """
    on_cpu = bucket.params[0].device.type == "cpu"
    for part in bucket.parts(_CACHED) if on_cpu else [bucket]:
        _move(step, part)


def _move(step: Step, bucket: Bucket) -> None:
    dtype = bucket.exp_avgs[0].dtype
    half = bucket.params[0].dtype != dtype
    params = [p.to(dtype) for p in bucket.params] if half else bucket.params
    grads = [g.to(dtype) for g in bucket.grads]
    if step.maximize:
        grads = list(torch._foreach_neg(grads))
    if step.coupling:
        grads = list(torch._foreach_add(grads, params, alpha=step.coupling))
    if step.shrink != 1.0:
        torch._foreach_mul_(params, step.shrink)
    torch._foreach_lerp_(bucket.exp_avgs, grads, 1.0 - step.beta1)
    if not bucket.multipliers:
        torch._foreach_add_(params, bucket.exp_avgs, alpha=-step.size)
    else:
        torch._foreach_mul_(bucket.exp_avg_sqs, step.beta2)
        torch._foreach_addcmul_(bucket.exp_avg_sqs, grads, grads, value=1.0 - step.beta2)
        if step.window:
            for s, v in zip(bucket.exp_avg_sqs, bucket.multipliers, strict=True):
                refresh_multiplier(step, s, v)
        torch._foreach_addcmul_(params, bucket.exp_avgs, bucket.multipliers, value=-step.size)
    if half:
        torch._foreach_copy_(bucket.params, params)
