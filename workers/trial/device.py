"""The device of a trial, its share of the memory, and the number of trials that fit on it. Needs torch alone."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from anon_tune.errors import InputError

__all__ = [
    "CONTEXT_BYTES",
    "choose_device",
    "describe_device",
    "memory_share",
    "trials_that_fit",
    "use_threads",
]

CONTEXT_BYTES = 640 * 2**20
"""Upper bound of a process's bytes on a GPU besides torch's tensors, for CUDA's context and its libraries."""

_SLACK = 1.1  # factor on the measured memory, for fragmentation


def choose_device(gpu: float) -> torch.device:
    """Return the device for a trial with `resources.gpu`; the CPU if torch finds no CUDA device.

    A share below 1 limits this process to that share of the memory, so that a trial cannot make others on the same
    GPU fail.

    Raises:
        InputError: The share is less than CUDA itself needs.
    """
    if gpu <= 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", torch.cuda.current_device())
    if gpu < 1:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(gpu, total), device)
    return device


def memory_share(gpu: float, total: int) -> float:
    """Return the share in (0, 1) of a GPU with `total` bytes that tensors can use, given a trial's share `gpu`.

    Raises:
        InputError: No memory is left for tensors.
    """
    share = gpu - CONTEXT_BYTES / total
    if share <= 0:
        raise InputError(
            f"resources.gpu: {gpu:g} of this GPU is {gpu * total / 2**20:.0f} MiB, of which CUDA itself takes "
            f"up to {CONTEXT_BYTES / 2**20:.0f} MiB. Let fewer trials share it."
        )
    return share


def trials_that_fit(reserved: int, total: int) -> int:
    """Return the number of trials with `reserved` bytes each that fit on a GPU with `total` bytes; 0 if none does."""
    return max(int(total // (_SLACK * reserved + CONTEXT_BYTES)), int(reserved + CONTEXT_BYTES <= total))


def describe_device(device: torch.device) -> str:
    """Return the name of a device: "cpu", or that of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def use_threads(number: int) -> None:
    """Set the number of threads of torch and numpy."""
    torch.set_num_threads(number)
    threadpool_limits(number, "blas")
