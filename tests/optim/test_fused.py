"""The C kernel behind `fused=True`, and what runs where it cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings

import pytest
import torch

from anon_tune.optim import Anon, native
from anon_tune.optim import fused as fused_path

from .test_anon import train

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="a C compiler makes the kernel"
)


@pytest.fixture
def fresh_kernels():
    """No kernels from before the test, and none of the test's after it."""

    def forget():
        native.load_kernels.cache_clear()
        fused_path._kernel.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def no_compiler(monkeypatch, fresh_kernels):
    monkeypatch.setattr(native.shutil, "which", lambda _: None)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def runs(params, steps=20, **options):
    clones = [[p.clone(memory_format=torch.preserve_format) for p in params] for _ in range(2)]
    for copies, path in zip(clones, ({"fused": True}, {"foreach": False}), strict=True):
        train(Anon(copies, lr=1e-2, delay="every:7", **options, **path), copies, steps)
    return clones


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 1.15])
@pytest.mark.usefixtures("three_threads")
def test_every_entry_of_every_tensor_is_moved_once(dtype, gamma):
    """Sizes around the shares of the threads: one tensor over several shares, and many in one."""
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
    # Refreshes too; the third tensor has gaps.
    assert calls == [(t, 2) for t in range(1, 9)]


@needs_compiler
def test_layouts():
    nhwc = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    params = [nhwc, torch.randn(4, 6).t(), torch.randn(6, 8)[::2], torch.randn(()), torch.randn(3, 0)]
    # `train` gives contiguous gradients, which fit none of the first three.
    for a, b in zip(*runs(params), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert a.stride() == b.stride()


@needs_compiler
def test_one_run_of_the_compiler_serves_every_size_dtype_and_learning_rate(monkeypatch, fresh_kernels):
    commands = []
    run = subprocess.run

    def counted(command, **options):
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(native.subprocess, "run", counted)
    for size in range(1, 30):
        params = [torch.ones(size), torch.ones(size, dtype=torch.float64)]
        train(Anon(params, fused=True, lr=10.0**-size), params, 4)
        train(Anon(params, fused=True, gamma=0.0), params, 4)
    done = [command for command in commands if "-fopenmp" in command]
    # One more where the compiler has no OpenMP.
    assert len(done) == 1
    assert len(commands) <= 2


def test_without_a_compiler_foreach_runs_after_one_warning(no_compiler):
    params = [torch.ones(5), torch.ones(3, dtype=torch.float64)]
    with pytest.warns(RuntimeWarning, match="install gcc or clang"):
        left, right = runs(params)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs(params)


def stand_in(monkeypatch, folder, name, text, mode=0o755):
    """A compiler of this name, and no other: the first one of `which` is found in `folder`."""
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    monkeypatch.setattr(
        native.shutil, "which", lambda asked: str(folder / asked) if (folder / asked).exists() else None
    )


def falls_back(words):
    """One warning with these words, the numbers of the plain path, and no second warning."""
    params = [torch.ones(5), torch.ones(3, dtype=torch.float64)]
    with pytest.warns(RuntimeWarning, match=words) as caught:
        left, right = runs(params)
    assert len(caught) == 1
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho first >&2; echo no such flag >&2; exit 1\n", r"cc: no such flag"),
        ("#!/bin/sh\nexit 3\n", r"cc: it ended with exit code 3"),
        ("#!/bin/sh\nexit 0\n", r"cc: .*kernel\.so"),
        ('#!/bin/sh\nfor last; do :; done; echo text > "$last"\n', r"cc: .*kernel\.so"),
        ("#!/no/such/interpreter\n", r"cc: .*No such file"),
        ("no program", r"cc: .*Exec format"),
        ("#!/bin/sh\nsleep 5\n", r"cc: .*timed out"),
    ],
)
def test_errors_of_the_compiler_are_quoted(monkeypatch, tmp_path, fresh_kernels, text, words):
    monkeypatch.setattr(native, "_PATIENCE", 0.3)
    stand_in(monkeypatch, tmp_path, "cc", text)
    falls_back(words)


def test_the_error_of_a_library_that_cannot_be_loaded_is_quoted(monkeypatch, fresh_kernels):
    def refuse(_):
        raise OSError("failed to map segment from shared object: Operation not permitted")

    monkeypatch.setattr(native.ctypes, "CDLL", refuse)
    falls_back("failed to map segment|no C compiler")


def test_without_a_folder_for_temporary_files_foreach_runs(monkeypatch, tmp_path, fresh_kernels):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    falls_back("No such file|no C compiler")


@needs_compiler
def test_the_next_compiler_is_tried(monkeypatch, tmp_path, fresh_kernels):
    real = next(path for name in ("cc", "gcc", "clang") if (path := shutil.which(name)))
    (tmp_path / "clang").symlink_to(real)
    stand_in(monkeypatch, tmp_path, "gcc", "#!/bin/sh\nexit 1\n")
    assert native.load_kernels()


def test_other_devices_have_no_kernel_and_need_no_triton(fresh_kernels):
    with pytest.warns(RuntimeWarning, match="for CPU and CUDA") as caught:
        assert fused_path._kernel("mps") is None
    assert "install" not in str(caught[0].message)


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
                for row in rows:
                    row[1] *= torch.rand(row[1].shape, generator=generator) > 0.3
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
def test_the_fused_path_on_a_gpu_equals_the_plain_path(gamma):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    params = [torch.ones(n, device="cuda") for n in (1, 70_000, 0, 3000)]
    for a, b in zip(*runs(params, gamma=gamma, weight_decay=0.1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
