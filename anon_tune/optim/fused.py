"""One step of Anon in one pass over memory, where a kernel for the tensors exists."""

from __future__ import annotations

import torch
from torch import Tensor

from anon_tune.optim import native
from anon_tune.optim.foreach import foreach
from anon_tune.optim.rule import Bucket, Step, single_tensor

__all__ = ["fused", "momentum"]


def fused(step: Step, bucket: Bucket) -> None:
    """Moves the bucket's parameters and state in place.

    Refreshes, half-precision parameters and tensors with gaps in memory go the foreach way.
    """
    if step.window:
        foreach(step, bucket)
        return
    fast, rest = bucket.split(native.takes)
    if fast.params:
        native.native_step(step, fast)
    if rest.params and rest.multipliers:
        foreach(step, rest)
    elif rest.params:
        momentum(step, rest)


def momentum(step: Step, bucket: Bucket) -> None:
    """Moves a bucket at gamma = 0 in place, by torch's fused SGD kernel where that applies.

    Momentum and dampening are beta1, and the bias correction is in the learning rate. Without momentum that
    kernel keeps no m, which Anon's state has.
    """
    fast, rest = bucket.split(_torch_sgd_takes) if step.beta1 else (Bucket(), bucket)
    if fast.params:
        if step.shrink != 1.0:
            torch._foreach_mul_(fast.params, step.shrink)
        torch._fused_sgd_(
            fast.params,
            fast.grads,
            fast.exp_avgs,
            weight_decay=step.coupling,
            momentum=step.beta1,
            lr=step.size,
            dampening=step.beta1,
            nesterov=False,
            maximize=step.maximize,
            is_first_step=False,
        )
    if rest.params:
        single_tensor(step, rest)


def _torch_sgd_takes(p: Tensor, g: Tensor, m: Tensor, *_: Tensor | None) -> bool:
    return (
        type(p) in (Tensor, torch.nn.Parameter)
        and p.device.type in ("cpu", "cuda")
        and p.is_floating_point()
        and p.dtype == g.dtype == m.dtype
        and p.is_contiguous()
        and g.is_contiguous()
        and m.is_contiguous()
    )
