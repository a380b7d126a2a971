"""The fused CPU step: `kernel.c`, compiled for this machine once per process and called through ctypes.

Plain C compiles in half a second, without torch's headers. The kernel takes lists of tensors as they are (no flat
copies), and nothing is compiled again when a number changes.
"""

from __future__ import annotations

import ctypes
import functools
import math
import shutil
import subprocess
import tempfile
import warnings
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anon_tune.optim.bucket import Bucket
from anon_tune.optim.rule import Step, added_to_moment

__all__ = ["load_kernels", "step_on_cpu"]

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC"]
_NAMES = {torch.float32: "anon_f32", torch.float64: "anon_f64"}
_STEP, _MOMENTS, _MOVE_NEW, _REFRESH, _WHOLE_STEP, _WHOLE_REFRESH = range(6)
_ENTRIES_PER_THREAD = 32_768
"""Below this, starting a thread costs more than its work (torch's own grain size)."""

_PATIENCE = 60.0
"""Limit in seconds for one run of the compiler, which takes half a second on an idle machine."""

_Kernel = Callable[..., None]


class _Numbers(ctypes.Structure):
    """The structure `numbers` of kernel.c."""

    _fields_ = [
        (name, ctypes.c_double)
        for name in ("shrink", "coupling", "sign", "size", "beta1", "beta2", "beta3", "power", "correction")
    ]


def step_on_cpu(step: Step, bucket: Bucket) -> None:
    """Move the bucket's parameters and state in place, at refreshes too.

    Args:
        step: The step's numbers.
        bucket: CPU tensors of float32 or float64 that `one_order` accepts.
    """
    if not bucket.multipliers or not step.floor:
        _run(_WHOLE_REFRESH if step.refresh else _WHOLE_STEP, step, bucket)
    elif step.refresh:
        _run(_MOMENTS, step, bucket)
        _run(_REFRESH, step, bucket)
    else:
        marks = _run(_STEP, step, bucket)
        if not bucket.settled and any(marks):
            rows = [row for row, marked in zip(bucket.rows(), marks, strict=True) if marked]
            _run(_MOVE_NEW, step, Bucket.of(rows))


def _run(task: int, step: Step, bucket: Bucket) -> array[int]:
    """Make one pass of the kernel over the bucket; return a mark for each tensor with new coordinates."""
    grads = bucket.aligned_grads()  # named, so that copies live until the kernel returns
    count = len(grads)
    sizes = array("q", map(Tensor.numel, bucket.params))
    if step.floor and task in (_MOVE_NEW, _REFRESH):
        pairs = zip(bucket.exp_avg_sqs, bucket.multipliers, strict=True)
        added = array("d", (_added(step, s, v, bucket.settled) for s, v in pairs))
    else:
        added = array("d", [step.eps]) * count
    lists = (bucket.params, grads, bucket.exp_avgs, bucket.exp_avg_sqs, bucket.multipliers)
    marks = array("B", bytes(count))
    # Python's array is twice as fast with 64-bit numbers as an array of ctypes.
    arrays: list[array[Any]] = [sizes, *map(_addresses, lists), added, marks]
    numbers = _Numbers(
        step.shrink,
        step.coupling,
        -1.0 if step.maximize else 1.0,
        step.size,
        step.beta1,
        step.beta2,
        step.beta3,
        -0.5 * step.gamma,
        step.correction,
    )
    load_kernels()[_NAMES[bucket.params[0].dtype]](
        task,
        count,
        *(values.buffer_info()[0] if values else None for values in arrays),
        min(torch.get_num_threads(), max(1, sum(sizes) // _ENTRIES_PER_THREAD)),
        ctypes.byref(numbers),
    )
    return marks


def _added(step: Step, s: Tensor, v: Tensor, settled: bool) -> float:
    """Return `added_to_moment`, in one pass over s if all of it is finite and settled."""
    if not s.numel():
        return step.eps
    mean = s.mean().item() if settled else math.nan
    if math.isfinite(mean):
        return step.floor * mean / step.correction + step.eps
    return float(added_to_moment(s, v, step.eps, step.floor, step.correction, settled))


def _addresses(tensors: list[Tensor]) -> array[int]:
    return array("Q", map(Tensor.data_ptr, tensors))


@functools.cache
def load_kernels() -> dict[str, _Kernel]:
    """Return the functions of `kernel.c` by name; if they are unavailable, warn once and return none."""
    compilers = [path for name in _COMPILERS if (path := shutil.which(name))]
    problems: list[str] = []
    for compiler in compilers:
        try:
            return _compile(compiler)
        # AttributeError: the loaded library lacks the functions.
        except (OSError, AttributeError, subprocess.SubprocessError) as error:
            problems.append(f"{compiler}: {error}")
    if problems:
        reason = f"its kernel could not be compiled ({'; '.join(problems)})"
        advice = "fix the compiler, set TMPDIR to a folder that is not mounted with noexec, or omit `fused`"
    else:
        reason, advice = "no C compiler was found", "install gcc or clang"
    warnings.warn(
        f"Anon(fused=True) uses foreach on CPU, because {reason}; {advice}",
        RuntimeWarning,
        stacklevel=2,
    )
    return {}


def _compile(compiler: str) -> dict[str, _Kernel]:
    """Compile `kernel.c`; raise OSError or SubprocessError if the compiler fails."""
    source = Path(__file__).with_name("kernel.c")
    # The library stays mapped after its file is deleted, so nobody can replace the file.
    with tempfile.TemporaryDirectory(prefix="anon-tune-", ignore_cleanup_errors=True) as folder:
        library, said = Path(folder) / "kernel.so", Path(folder) / "errors"
        # Apple's clang has no OpenMP; one thread of the fused step still beats the other paths.
        for openmp in (["-fopenmp"], []):
            with said.open("wb") as errors:
                # Into a file: a pipe would stay open as long as any process that a killed compiler left behind.
                done = subprocess.run(
                    [compiler, *_FLAGS, *openmp, str(source), "-lm", "-o", str(library)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    timeout=_PATIENCE,
                    check=False,
                )
            if done.returncode == 0:
                try:
                    return _load(library)
                except OSError:  # For example because an OpenMP or a vector library is missing.
                    if not openmp:
                        raise
        lines = said.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        raise OSError(last or f"it ended with exit code {done.returncode} and no output")


def _load(library: Path) -> dict[str, _Kernel]:
    loaded = ctypes.CDLL(str(library))
    kernels: dict[str, _Kernel] = {}
    for name in _NAMES.values():
        function = loaded[name]
        function.argtypes = [
            ctypes.c_int,
            ctypes.c_int64,
            *[ctypes.c_void_p] * 8,
            ctypes.c_int,
            ctypes.c_void_p,
        ]
        function.restype = None
        kernels[name] = function
    return kernels
