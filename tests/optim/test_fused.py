"""The C kernel behind `fused=True`, and what runs where it cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

from anon_tune.optim import Anon, native
from anon_tune.optim import fused as fused_path

from .test_anon import train

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="a C compiler makes the kernel"
)


def forget_kernels():
    native.load_kernels.cache_clear()
    fused_path._kernel.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch):
    forget_kernels()
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    yield
    forget_kernels()


def runs(params, steps=20, **options):
    clones = [[p.clone(memory_format=torch.preserve_format) for p in params] for _ in range(2)]
    for copies, path in zip(clones, ({"fused": True}, {"foreach": False}), strict=True):
        train(Anon(copies, lr=1e-2, delay="every:7", **options, **path), copies, steps)
    return clones


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 1.15])
def test_every_entry_of_every_tensor_is_moved_once(dtype, gamma):
    """Sizes around the shares of the threads: one tensor over several shares, and many in one."""
    torch.set_num_threads(3)
    sizes = [1, 70_000, 3, 0, 65_536, *[17] * 200, 32_769]
    params = [torch.ones(n, dtype=dtype) for n in sizes]
    left, right = runs(params, gamma=gamma, weight_decay=0.1)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_the_kernel_is_what_runs(monkeypatch):
    calls = []
    spy = lambda step, bucket: calls.append((step.t, len(bucket.params)))  # noqa: E731
    monkeypatch.setattr(fused_path, "_kernel", lambda _: spy)
    params = [
        torch.ones(3),
        torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.ones(4, 6)[:, ::2],
    ]
    train(Anon(params, fused=True), params, 8)
    # Steps 1, 2, 4 and 8 are refreshes; the third tensor has gaps.
    assert calls == [(3, 2), (5, 2), (6, 2), (7, 2)]


@needs_compiler
def test_layouts():
    nhwc = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    params = [nhwc, torch.randn(4, 6).t(), torch.randn(6, 8)[::2], torch.randn(()), torch.randn(3, 0)]
    # `train` gives contiguous gradients, which fit none of the first three.
    for a, b in zip(*runs(params), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert a.stride() == b.stride()


@needs_compiler
def test_one_kernel_serves_every_size_and_learning_rate():
    forget_kernels()
    for size in range(1, 30):
        params = [torch.ones(size)]
        train(Anon(params, fused=True, lr=10.0**-size), params, 4)
    assert native.load_kernels.cache_info().misses == 1


def test_without_a_compiler_foreach_runs_after_one_warning(no_compiler):
    params = [torch.ones(5), torch.ones(3, dtype=torch.float64)]
    with pytest.warns(RuntimeWarning, match="install gcc or clang"):
        left, right = runs(params)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs(params)


def test_a_compiler_that_fails_is_quoted(monkeypatch):
    forget_kernels()
    monkeypatch.setattr(native, "_FLAGS", ["--no-such-flag"])
    params = [torch.ones(5)]
    with pytest.warns(RuntimeWarning, match="no-such-flag|no C compiler"):
        train(Anon(params, fused=True), params, 3)
    forget_kernels()


INTERPRETED = """
import torch
from anon_tune.optim import gpu
from anon_tune.optim.bucket import Bucket
from anon_tune.optim.rule import Step, single_tensor

gpu._BLOCK = 16
for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
    for gamma in (0.0, 1.15):
        for maximize, decoupled in ((False, True), (True, False)):
            shapes = [(5, 7), (), (0,), (16,), (33,), (2, 3, 4, 4)]
            def rows():
                generator = torch.Generator().manual_seed(0)
                new = lambda shape: torch.rand(shape, generator=generator).to(dtype)
                rows = [[new(shape) for _ in range(5)] for shape in shapes]
                rows[-1] = [t.to(memory_format=torch.channels_last) for t in rows[-1]]
                rows[0][1] = rows[0][1].t().contiguous().t()
                return [row if gamma else [*row[:3], None, None] for row in rows]
            group = dict(lr=0.1, betas=(0.9, 0.999, 0.5), gamma=gamma, eps=1e-16, floor=0.0, delay=2.0,
                         weight_decay=0.1, decoupled_weight_decay=decoupled, maximize=maximize)
            fast, slow = Bucket.of(rows()), Bucket.of(rows())
            gpu.step_on_gpu(Step.of(group, 3), fast)
            single_tensor(Step.of(group, 3), slow)
            for name in ("params", "exp_avgs", "exp_avg_sqs", "multipliers"):
                for a, b in zip(getattr(fast, name), getattr(slow, name), strict=True):
                    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_cuda_kernel_equals_the_plain_path_in_tritons_interpreter():
    """Its arithmetic and addressing, on CPU; that it compiles and how fast it is, only a GPU can show."""
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.parametrize("gamma", [0.0, 1.15])
def test_on_a_gpu_it_equals_the_plain_path(gamma):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    params = [torch.ones(n, device="cuda") for n in (1, 70_000, 0, 3000)]
    for a, b in zip(*runs(params, gamma=gamma, weight_decay=0.1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
