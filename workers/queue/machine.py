"""What this process has to work with: CPUs, GPUs and versions, without importing torch or Ray."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anon_tune.records import NewWorker, WorkerKind

__all__ = ["describe_worker", "gpu_names"]

_PACKAGES = ("anon_tune", "ray", "torch")
_ID_BYTES = 8
_SECONDS = 10.0
_LIST_GPUS = ("nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader")
_DRIVER = Path("/proc/driver/nvidia/gpus")


def describe_worker(
    holder: str, kind: WorkerKind, at_once: int = 1, *, on_cluster: bool = False
) -> NewWorker:
    """Return the description of this process as a new worker; see `NewWorker`."""
    return NewWorker(
        id=secrets.token_hex(_ID_BYTES),
        holder=holder,
        kind=kind,
        machine=socket.gethostname(),
        at_once=at_once,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=tuple(gpu_names()),
        versions={"python": platform.python_version(), **dict(_versions())},
        on_cluster=on_cluster,
    )


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield package, version(package)


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES says.

    nvidia-smi lists them; without it NVIDIA's driver does, in an order that may be another one.
    """
    gpus = list(_listed()) or [(str(number), "", name) for number, name in enumerate(_known_to_driver())]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [name for _, _, name in gpus]
    wanted = [device.strip() for device in chosen.split(",") if device.strip()]
    return [
        name for device in wanted for index, uuid, name in gpus if device == index or uuid.startswith(device)
    ]


def _listed() -> Iterator[tuple[str, str, str]]:
    """Yield the index, the UUID and the name of each GPU."""
    try:
        done = subprocess.run(_LIST_GPUS, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # there is none, or the driver does not answer
        return
    for line in done.stdout.splitlines():
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == 3:
            yield parts[0], parts[1], parts[2]


def _known_to_driver() -> Iterator[str]:
    for file in sorted(_DRIVER.glob("*/information")):
        with contextlib.suppress(OSError):
            fields = dict(line.partition(":")[::2] for line in file.read_text().splitlines())
            yield fields.get("Model", "GPU").strip()
