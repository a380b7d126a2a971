"""A framework's own checkpoint, a folder of files, as part of a trial's checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["SavedFolder"]


class SavedFolder:
    """The files of a folder, for `context.resume`.

    Args:
        path: Folder that the framework writes before a report with a checkpoint.
        folder: Folder of the trial. In it, each process of a distributed training gets a folder of its own.

    Attributes:
        restored: Folder of the files when a trial resumes; missing in a fresh trial.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self.restored = folder / f"restored-{os.getpid()}"

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the bytes (n) of each file, by its path in the folder."""
        files = sorted(path for path in self._path.rglob("*") if path.is_file())
        return {
            file.relative_to(self._path).as_posix(): torch.frombuffer(
                bytearray(file.read_bytes()), dtype=torch.uint8
            )
            if file.stat().st_size
            else torch.empty(0, dtype=torch.uint8)
            for file in files
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Write the files."""
        shutil.rmtree(self.restored, ignore_errors=True)
        for name, content in state_dict.items():
            file = self.restored / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.numpy().tobytes())
