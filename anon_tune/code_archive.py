"""Folders of user code that travel: to a service as a zip named by its hash, and to the nodes of a cluster."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from anon_tune.errors import InputError

__all__ = ["LARGEST", "copy", "digest", "modules", "pack", "unpack"]

LARGEST = 8 * 2**20
"""Bytes of an archive: code, not data."""

_LARGEST_UNPACKED = 64 * 2**20
_MOST_FILES = 5000
_LEFT_OUT = {"__pycache__", "node_modules", "venv"}
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: the same files give the same bytes


def digest(archive: bytes) -> str:
    """Return the SHA-256 of an archive, in hexadecimal: its name."""
    return hashlib.sha256(archive).hexdigest()


def pack(folder: Path) -> bytes:
    """Return a folder as a zip, without hidden files, caches and virtual environments.

    Raises:
        InputError: It is not a folder, or is too large.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name the folder of the job's modules.")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files(folder):
            inside = path.relative_to(folder)
            archive.writestr(
                zipfile.ZipInfo(inside.as_posix(), _MOMENT), path.read_bytes(), zipfile.ZIP_DEFLATED
            )
            if written.tell() > LARGEST:
                raise InputError(
                    f"{folder} has more than {LARGEST // 2**20} MiB of code (at {inside}). Put data into "
                    "the service's data folder instead."
                )
    return written.getvalue()


def copy(folder: Path, target: Path) -> None:
    """Copy a folder, without what `pack` leaves out; `target` must not exist.

    Raises:
        InputError: It has more files or bytes than code has.
        OSError: A file cannot be read or written.
    """
    target.mkdir(parents=True)
    size = 0
    for number, path in enumerate(_files(folder), 1):
        size += path.stat().st_size
        if number > _MOST_FILES or size > _LARGEST_UNPACKED:
            raise InputError(
                f"{folder} has more than {_MOST_FILES} files or {_LARGEST_UNPACKED // 2**20} MiB (at "
                f"{path.relative_to(folder)})."
            )
        copied = target / path.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder in a fixed order, without hidden ones, caches and virtual environments."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFT_OUT)
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and name not in _LEFT_OUT and path.is_file():
                yield path


def modules(archive: bytes) -> frozenset[str]:
    """Return the top-level modules and packages of an archive.

    Raises:
        InputError: It is not a zip, is too large, or has a path outside its folder.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
            _check(entries)
            if opened.testzip() is not None:
                raise InputError("The archive is damaged; send it again.")
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The archive is not a readable zip ({error}).") from error
    tops = (PurePosixPath(entry.filename).parts[0] for entry in entries if entry.filename.endswith(".py"))
    return frozenset(top.removesuffix(".py") for top in tops)


def unpack(archive: bytes, folder: Path) -> Path:
    """Unpack an archive into a folder, replacing its contents, and return it. Raises the errors of `modules`."""
    modules(archive)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        opened.extractall(folder)
    return folder


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > _MOST_FILES or sum(entry.file_size for entry in entries) > _LARGEST_UNPACKED:
        raise InputError(
            f"The archive unpacks to more than {_MOST_FILES} files or {_LARGEST_UNPACKED // 2**20} MiB."
        )
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if (
            path.is_absolute()
            or ".." in path.parts
            or not path.parts
            or kind not in {0, stat.S_IFREG, stat.S_IFDIR}
        ):
            raise InputError(
                f"The archive has an unsafe entry, a link or a path outside its folder: {entry.filename!r}."
            )
