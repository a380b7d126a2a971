"""Which device a trial gets and how much of it; CUDA's own answers are stood in for where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from anon_tune.errors import InputError
from anon_tune.workers.trial.device import (
    CONTEXT_BYTES,
    choose_device,
    describe_device,
    memory_share,
    trials_that_fit,
)

GIB = 2**30


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("gpu", [0, 0.5, 1, 2])
def test_without_cuda_it_is_the_cpu(gpu: float):
    assert choose_device(gpu) == torch.device("cpu")
    assert describe_device(choose_device(gpu)) == "cpu"


@pytest.mark.parametrize(
    ("gpu", "device", "limits"),
    [
        (0, "cpu", []),
        (0.25, "cuda:0", [0.25 - CONTEXT_BYTES / (16 * GIB)]),
        (1, "cuda:0", []),
        (2, "cuda:0", []),
    ],
)
def test_a_share_of_a_card_is_a_limit_of_memory(
    monkeypatch: pytest.MonkeyPatch, gpu: float, device: str, limits: list[float]
):
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    card = SimpleNamespace(total_memory=16 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: found.append(share)
    )
    assert choose_device(gpu) == torch.device(device)
    assert found == limits


def test_trials_and_their_contexts_do_not_take_more_than_the_card():
    for trials in range(1, 20):
        assert trials * (memory_share(1 / trials, 16 * GIB) * 16 * GIB + CONTEXT_BYTES) <= 16 * GIB * 1.0001


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(
        InputError, match=r"resources\.gpu: 0\.05 of this GPU is 410 MiB, of which CUDA itself"
    ):
        memory_share(0.05, 8 * GIB)


def test_as_many_fit_as_have_room_within_their_limits():
    assert trials_that_fit(100 * GIB, 16 * GIB) == 0
    for reserved in (GIB // 100, GIB, 3 * GIB, 14 * GIB):
        fit = trials_that_fit(reserved, 16 * GIB)
        assert fit >= 1
        assert memory_share(1 / fit, 16 * GIB) * 16 * GIB >= reserved
        assert (fit + 2) * (reserved * 1.2 + CONTEXT_BYTES) > 16 * GIB
