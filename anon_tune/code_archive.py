"""Code that goes to a service with a job: a folder as a zip, which is named by its hash."""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from anon_tune.errors import InputError

__all__ = ["LARGEST", "digest", "modules", "pack", "unpack"]

LARGEST = 8 * 2**20
"""Bytes of an archive: code, not data."""

_LARGEST_UNPACKED = 64 * 2**20
_MOST_FILES = 5000
_LEFT_OUT = {"__pycache__", "node_modules", "venv"}
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the first that a zip knows: the same files give the same bytes


def digest(archive: bytes) -> str:
    """SHA-256 of an archive, in hexadecimal: its name."""
    return hashlib.sha256(archive).hexdigest()


def pack(folder: Path) -> bytes:
    """Return a folder as a zip, without hidden files, caches and virtual environments.

    Raises:
        InputError: It is no folder, or too large.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the one that holds the job's modules.")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if any(part.startswith(".") or part in _LEFT_OUT for part in inside.parts) or not path.is_file():
                continue
            archive.writestr(
                zipfile.ZipInfo(inside.as_posix(), _MOMENT), path.read_bytes(), zipfile.ZIP_DEFLATED
            )
            if written.tell() > LARGEST:
                raise InputError(
                    f"{folder} has more than {LARGEST // 2**20} MiB of code (at {inside}). Data does not go "
                    "along: put it into the service's folder of data."
                )
    return written.getvalue()


def modules(archive: bytes) -> frozenset[str]:
    """The top-level modules and packages that an archive holds.

    Raises:
        InputError: It is no zip, is too large, or has a name that leads out of its folder.
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
        raise InputError(f"The archive is no zip that can be read ({error}).") from error
    tops = (PurePosixPath(entry.filename).parts[0] for entry in entries if entry.filename.endswith(".py"))
    return frozenset(top.removesuffix(".py") for top in tops)


def unpack(archive: bytes, folder: Path) -> Path:
    """Unpack an archive into a folder, which then holds nothing else, and return it. Raises as `modules`."""
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
            raise InputError(f"The archive has an entry {entry.filename!r}, which leads out of its folder.")
