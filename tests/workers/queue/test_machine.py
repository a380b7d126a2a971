"""What a worker says of its machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from anon_tune import __version__
from anon_tune.records import WorkerKind
from anon_tune.workers.queue import machine
from anon_tune.workers.queue.machine import describe_worker, gpu_names

LISTED = """#!/bin/sh
echo '0, GPU-aaaa-1, NVIDIA H200'
echo '1, GPU-bbbb-2, NVIDIA L4, 24 GB'
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that lists two GPUs, in place of this machine's."""
    program = tmp_path / "nvidia-smi"
    program.write_text(LISTED)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("nvidia_smi")
@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["NVIDIA H200", "NVIDIA L4, 24 GB"]),
        ("1", ["NVIDIA L4, 24 GB"]),
        ("GPU-bbbb, 0", ["NVIDIA L4, 24 GB", "NVIDIA H200"]),
        ("", []),
        ("-1", []),
        ("7", []),
    ],
)
def test_gpus_are_those_that_cuda_may_use(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, names: list[str]
):
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpu_names() == names


def test_without_nvidia_smi_the_driver_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path)
    assert gpu_names() == []
    for name in ("0000:01", "0000:02"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\n")
    assert gpu_names() == ["NVIDIA H200", "NVIDIA H200"]


@pytest.mark.usefixtures("nvidia_smi")
def test_a_worker_describes_itself():
    one, other = (describe_worker("ann@box, process 1", WorkerKind.WORKER, 2) for _ in range(2))
    assert one.id != other.id
    assert (one.holder, one.kind, one.at_once, len(one.gpus)) == (
        "ann@box, process 1",
        WorkerKind.WORKER,
        2,
        2,
    )
    assert one.cpus >= 1
    assert one.versions["python"] == platform.python_version()
    assert one.versions["anon_tune"] == __version__
    assert one.versions.keys() == {"python", "anon_tune", "ray", "torch"}
