"""The device of a trial: which it is, how much of its memory, and how many trials fit on it. Needs torch alone."""

from __future__ import annotations

import torch

from anon_tune.errors import InputError

__all__ = ["CONTEXT_BYTES", "choose_device", "describe_device", "memory_share", "trials_that_fit"]

CONTEXT_BYTES = 640 * 2**20
"""Upper bound of a process's bytes on a card besides torch's tensors, for CUDA's context and its libraries."""

_SLACK = 1.1  # of what was measured: memory that trials share is cut up by them


def choose_device(gpu: float) -> torch.device:
    """Return where a trial with `resources.gpu` trains.

    With a share below 1 of a card this process gets no more of its memory from then on: trials that share a card
    fail by themselves, not one another. Where torch finds no CUDA device it is the CPU.

    Raises:
        InputError: The share is less than CUDA itself takes.
    """
    if gpu <= 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", torch.cuda.current_device())
    if gpu < 1:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(gpu, total), device)
    return device


def memory_share(gpu: float, total: int) -> float:
    """Return the share in (0, 1) of a card with `total` bytes that is left to tensors, of the share that a trial has.

    Raises:
        InputError: Nothing is.
    """
    share = gpu - CONTEXT_BYTES / total
    if share <= 0:
        raise InputError(
            f"resources.gpu: {gpu:g} of this card are {gpu * total / 2**20:.0f} MiB, of which CUDA itself takes "
            f"up to {CONTEXT_BYTES / 2**20:.0f}; let fewer trials share it."
        )
    return share


def trials_that_fit(reserved: int, total: int) -> int:
    """How many trials that reserve so many bytes each fit on a card with `total` bytes, 0 if none does."""
    return max(int(total // (_SLACK * reserved + CONTEXT_BYTES)), int(reserved + CONTEXT_BYTES <= total))


def describe_device(device: torch.device) -> str:
    """Its name: "cpu", or the card's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
