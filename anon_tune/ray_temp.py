"""Ray temp directories, for sockets and logs: each belongs to one process and is deleted with it, or later."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from anon_tune.errors import DependencyError
from anon_tune.settings import Settings

__all__ = ["is_of_a_job", "ray_folder", "remove_abandoned"]


@contextlib.contextmanager
def ray_folder(settings: Settings) -> Iterator[Path]:
    """Create a Ray temp directory for this process, and delete it at the end of the block.

    A lock beside the folder marks it as in use. It is released when the process ends, for whatever reason.

    Raises:
        DependencyError: Another user owns the folder for it in the system's temporary folder.
    """
    folder = settings.ray_temp(secrets.token_hex(3))
    if folder.parent == settings.ray_temps_elsewhere:
        _make_own(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(_lock(folder)):
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


def remove_abandoned(settings: Settings) -> None:
    """Delete the directories of killed processes. If Ray is still shutting down, the next call deletes the rest."""
    for folder in settings.ray_temps():
        with contextlib.suppress(filelock.Timeout, OSError), filelock.FileLock(_lock(folder), timeout=0):
            _remove(folder)


def is_of_a_job(temporary: Path) -> bool:
    """Return whether a Ray with this temp directory was started by a job for itself, of whichever user."""
    return any(_lock(folder).exists() for folder in (temporary, temporary.parent))


def _make_own(folder: Path) -> None:
    """Create a folder that only this user can write to, inside a folder that everybody can write to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise DependencyError(
            f"{folder} belongs to another user. Ask them to remove it, or set TMPDIR to another folder."
        )


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    """Delete a folder, then its lock, which the caller holds."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        _lock(folder).unlink(missing_ok=True)
