"""One step of Anon over lists of tensors, by torch's own kernels: few launches for many tensors."""

from __future__ import annotations

import math

import torch

from anon_tune.optim.bucket import Bucket
from anon_tune.optim.rule import Step, renew_multiplier, without_decay_alone

__all__ = ["foreach", "has_torch_kernel"]

_CACHED = 2**18
"""Entries per chunk on CPU: five lists take 5 MiB in float32, which fits into caches."""

_COPIED = 2**24
"""Entries per chunk on other devices. Half-precision tensors are widened by copies, which must not take the memory of
a whole model; at this size the launch of a kernel costs next to nothing."""


def foreach(step: Step, bucket: Bucket) -> None:
    """Move the bucket's parameters and state in place, many tensors at once.

    Refreshes are rare (10 in the first 1000 steps by default) and go tensor by tensor.
    """
    first = bucket.params[0]
    fast, rest = bucket.split_by_order() if has_torch_kernel(first) else (Bucket.of([]), bucket)
    for taken, move in ((fast, _by_adam_kernel), (rest, _by_operations)):
        for part in taken.parts(_CACHED if first.device.type == "cpu" else _COPIED):
            move(step, part)


def has_torch_kernel(p: torch.Tensor) -> bool:
    """Whether torch's fused Adam and SGD move tensors of this device and dtype."""
    return p.device.type in ("cpu", "cuda") and p.dtype in (torch.float32, torch.float64)


def _by_adam_kernel(step: Step, bucket: Bucket) -> None:
    """Take a step whose decay, m and s are one pass of torch's fused Adam; with eps = inf it moves nothing else."""
    # Where the gradient is 0, coupled decay goes into m but not into s, which that kernel does not support.
    if not bucket.multipliers or step.coupling:
        _by_operations(step, bucket)
        return
    torch._fused_adamw_(
        bucket.params,
        bucket.aligned_grads(),
        bucket.exp_avgs,
        bucket.exp_avg_sqs,
        [],
        [torch.ones((), device=bucket.params[0].device)] * len(bucket.params),
        lr=step.lr,
        beta1=step.beta1,
        beta2=step.beta2,
        weight_decay=step.weight_decay if step.decoupled else 0.0,
        eps=math.inf,
        amsgrad=False,
        maximize=step.maximize,
    )
    torch._foreach_addcmul_(bucket.params, bucket.exp_avgs, _renewed(step, bucket), value=-step.size)


def _by_operations(step: Step, bucket: Bucket) -> None:
    """Take a step in elementary operations, for any dtype and layout."""
    dtype = bucket.exp_avgs[0].dtype
    half = bucket.params[0].dtype != dtype
    params = [p.to(dtype) for p in bucket.params] if half else bucket.params
    wide = [g.to(dtype) for g in bucket.grads]
    grads = list(torch._foreach_neg(wide)) if step.maximize else wide
    if step.coupling:
        grads = list(torch._foreach_add(grads, params, alpha=step.coupling))
    if step.shrink != 1.0:
        torch._foreach_mul_(params, step.shrink)
    torch._foreach_lerp_(bucket.exp_avgs, grads, 1.0 - step.beta1)
    if bucket.multipliers:
        if step.coupling:
            grads = list(map(without_decay_alone, grads, wide))
        torch._foreach_mul_(bucket.exp_avg_sqs, step.beta2)
        torch._foreach_addcmul_(bucket.exp_avg_sqs, grads, grads, value=1.0 - step.beta2)
        torch._foreach_addcmul_(params, bucket.exp_avgs, _renewed(step, bucket), value=-step.size)
    else:
        torch._foreach_add_(params, bucket.exp_avgs, alpha=-step.size)
    if half:
        torch._foreach_copy_(bucket.params, params)


def _renewed(step: Step, bucket: Bucket) -> list[torch.Tensor]:
    if bucket.settled and not step.refresh:
        return bucket.multipliers
    pairs = zip(bucket.exp_avg_sqs, bucket.multipliers, strict=True)
    return [renew_multiplier(step, s, v, bucket.settled) for s, v in pairs]
