"""The user's code on its way to the nodes of a cluster, as the working directory of Ray's runtime environment."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from anon_tune import code_archive
from anon_tune.errors import InputError
from anon_tune.spec import JobSpec
from anon_tune.workers.trial.shipped import PREFIX

__all__ = ["Shipment", "shipment"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shipment:
    """A copy of the user's code for Ray to take to the nodes.

    Attributes:
        root: Folder to be the working directory. It holds nothing but the folder `name`: Ray puts the working
            directory before all installed packages, and a module of the user must not hide one of Ray's.
        name: Name of the folder of code in it.
    """

    root: Path
    name: str

    def clear(self) -> None:
        """Delete the copy: once connected, Ray has its own."""
        shutil.rmtree(self.root, ignore_errors=True)


def shipment(spec: JobSpec, folder: Path, job: str) -> Shipment | None:
    """Copy the code of a job for its nodes; return None if it has none, or more than code has.

    Args:
        spec: The job.
        folder: The job's folder, for the copy; one from before is replaced.
        job: The job's id.
    """
    root, name = folder / "shipped", f"{PREFIX}{job}"
    shutil.rmtree(root, ignore_errors=True)
    if spec.folder is None or not spec.has_own_code:
        return None
    try:
        code_archive.copy(Path(spec.folder), root / name)
    except InputError as error:
        shutil.rmtree(root, ignore_errors=True)
        _log.warning("%s The nodes use the folder itself.", error)
        return None
    return Shipment(root, name)
