"""The fused CUDA step: one step of `kernel.c` in Triton, in one launch for all tensors of a bucket.

Each program moves one block of one tensor and finds it by a table of addresses, so that nothing is copied
together. The numbers of a step travel with the addresses in one transfer: a Python number in the launch
would be rounded to float32.

Importing this module needs Triton, which the CUDA builds of torch bring along.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Triton reads annotations and supports only its own.

from __future__ import annotations

import functools

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from anon_tune.optim.bucket import Bucket
from anon_tune.optim.rule import Step

__all__ = ["step_on_gpu"]

_BLOCK = 1024
_WARPS = 4


@triton.jit  # type: ignore[untyped-decorator,misc,unused-ignore]
def _move(numbers, p_at, g_at, m_at, s_at, v_at, inside, REAL: tl.constexpr, ADAPTIVE: tl.constexpr):
    shrink = tl.load(numbers + 0).to(REAL)
    coupling = tl.load(numbers + 1).to(REAL)
    sign = tl.load(numbers + 2).to(REAL)
    size = tl.load(numbers + 3).to(REAL)
    new1 = tl.load(numbers + 4).to(REAL)
    beta2 = tl.load(numbers + 5).to(REAL)
    new2 = tl.load(numbers + 6).to(REAL)

    p = tl.load(p_at, mask=inside)
    g = tl.load(g_at, mask=inside)
    d = sign * g + coupling * p
    m = tl.load(m_at, mask=inside)
    m += new1 * (d - m)
    tl.store(m_at, m, mask=inside)
    update = size * m
    if ADAPTIVE:
        s = tl.load(s_at, mask=inside)
        seen = tl.where(g == 0, g, d)  # decay alone does not count as a gradient
        tl.store(s_at, beta2 * s + new2 * seen * seen, mask=inside)
        update *= tl.load(v_at, mask=inside)
    tl.store(p_at, shrink * p - update, mask=inside)


@triton.jit  # type: ignore[untyped-decorator,misc,unused-ignore]
def _step_kernel(
    numbers,
    addresses,
    owners,
    starts,
    sizes,
    count,
    REAL: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    owner = tl.load(owners + program)
    start = tl.multiple_of(tl.load(starts + program), BLOCK)
    entry = start + tl.arange(0, BLOCK)
    end = tl.load(sizes + owner)

    # Row k of the table holds the addresses of the p, g, m, s and v.
    p = tl.load(addresses + owner).to(tl.pointer_type(REAL))
    g = tl.load(addresses + count + owner).to(tl.pointer_type(REAL))
    m = tl.load(addresses + 2 * count + owner).to(tl.pointer_type(REAL))
    s, v = p, p
    if ADAPTIVE:
        s = tl.load(addresses + 3 * count + owner).to(tl.pointer_type(REAL))
        v = tl.load(addresses + 4 * count + owner).to(tl.pointer_type(REAL))
    if ALIGNED:
        p, g, m = tl.multiple_of(p, 16), tl.multiple_of(g, 16), tl.multiple_of(m, 16)
        s, v = tl.multiple_of(s, 16), tl.multiple_of(v, 16)

    # A mask keeps the compiler from reading 16 bytes at once, so only the last block of a tensor has one.
    if start + BLOCK <= end:
        _move(numbers, p + entry, g + entry, m + entry, s + entry, v + entry, None, REAL, ADAPTIVE)
    else:
        _move(numbers, p + entry, g + entry, m + entry, s + entry, v + entry, entry < end, REAL, ADAPTIVE)


_REALS = {torch.float32: tl.float32, torch.float64: tl.float64}


def step_on_gpu(step: Step, bucket: Bucket) -> None:
    """Move the bucket's parameters and state in place, for a step that is not a refresh.

    Args:
        step: The step's numbers; not a refresh.
        bucket: Tensors of float32 or float64 on one device that `one_order` accepts; settled.
    """
    device, dtype = bucket.params[0].device, bucket.params[0].dtype
    owners, starts, sizes = _blocks(tuple(p.numel() for p in bucket.params), device)
    if not len(owners):
        return
    grads = bucket.aligned_grads()
    lists = (bucket.params, grads, bucket.exp_avgs, bucket.exp_avg_sqs, bucket.multipliers)
    addresses = [t.data_ptr() for tensors in lists for t in tensors]
    numbers = torch.tensor(
        [
            step.shrink,
            step.coupling,
            -1.0 if step.maximize else 1.0,
            step.size,
            1.0 - step.beta1,
            step.beta2,
            1.0 - step.beta2,
        ],
        dtype=torch.float64,
        device="cpu",
    )
    host = torch.cat([numbers.view(torch.int64), torch.tensor(addresses, dtype=torch.int64, device="cpu")])
    if device.type == "cuda":
        host = host.pin_memory()
    table = host.to(device, non_blocking=True)
    with torch.cuda.device_of(bucket.params[0]):
        _step_kernel[(len(owners),)](
            table[: len(numbers)].view(torch.float64),
            table[len(numbers) :],
            owners,
            starts,
            sizes,
            len(bucket.params),
            REAL=_REALS[dtype],
            ADAPTIVE=bool(bucket.multipliers),
            ALIGNED=all(address % 16 == 0 for address in addresses),
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )


@functools.lru_cache(maxsize=64)
def _blocks(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return each block's tensor and first entry, and the sizes, as int64."""
    lengths = torch.tensor(sizes, dtype=torch.int64, device="cpu")
    blocks = (lengths + _BLOCK - 1) // _BLOCK
    owners = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), blocks)
    first = blocks.cumsum(0) - blocks
    starts = (torch.arange(len(owners), device="cpu") - first[owners]) * _BLOCK
    return owners.to(device), starts.to(device), lengths.to(device)
