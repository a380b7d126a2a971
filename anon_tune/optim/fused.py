"""One step of Anon in one pass over memory, if there is a kernel for the tensors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch

from anon_tune.optim import native
from anon_tune.optim.bucket import Bucket
from anon_tune.optim.foreach import foreach, has_torch_kernel
from anon_tune.optim.rule import Step, single_tensor

__all__ = ["fused", "momentum"]

_Kernel = Callable[[Step, Bucket], None]


def fused(step: Step, bucket: Bucket) -> None:
    """Move the bucket's parameters and state in place.

    Half-precision parameters and tensors with gaps in memory take the foreach path. So do, on a GPU, refreshes and
    tensors with coordinates that still wait for a first gradient or a first refresh.
    """
    first = bucket.params[0]
    plain = first.is_cpu or not bucket.multipliers or (bucket.settled and not step.refresh)
    wide = first.dtype in (torch.float32, torch.float64)
    kernel = _kernel(first.device.type) if wide and plain else None
    fast, rest = bucket.split_by_order() if kernel else (Bucket.of([]), bucket)
    if kernel and fast.params:
        kernel(step, fast)
    if rest.params and rest.multipliers:
        foreach(step, rest)
    elif rest.params:
        momentum(step, rest)


@functools.cache
def _kernel(device: str) -> _Kernel | None:
    """Return the kernel of a type of device; if it is unavailable, warn once and return None."""
    if device == "cpu":
        return native.step_on_cpu if native.load_kernels() else None
    problem = "its kernels are for CPU and CUDA"
    if device == "cuda":
        try:
            from anon_tune.optim import gpu
        except ImportError as error:
            problem = f"{error}; install triton"
        else:
            return gpu.step_on_gpu
    warnings.warn(f"Anon(fused=True) uses foreach on {device}: {problem}", RuntimeWarning, stacklevel=2)
    return None


def momentum(step: Step, bucket: Bucket) -> None:
    """Move a bucket at gamma = 0 in place, by torch's fused SGD kernel if possible.

    Momentum and dampening are beta1, and the bias correction is in the learning rate. Without momentum that
    kernel keeps no m, which Anon's state has.
    """
    takes = step.beta1 and has_torch_kernel(bucket.params[0])
    fast, rest = bucket.split_by_order() if takes else (Bucket.of([]), bucket)
    if fast.params:
        if step.shrink != 1.0:
            torch._foreach_mul_(fast.params, step.shrink)
        torch._fused_sgd_(
            fast.params,
            fast.aligned_grads(),
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
