"""The service that `anon-tune up` runs: its token, in a file that only its user may read, and whether it runs.

The token is sent to no other service: a port of this machine may be another user's. So `up` holds a lock on a file
that is named after this machine and its port; the system releases it when the process ends, however that happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from anon_tune.errors import DependencyError
from anon_tune.settings import Settings

__all__ = ["HOST", "hold", "private_file", "running_service", "stored_secret", "token_for", "token_path"]

HOST = "127.0.0.1"
"""Address on which it listens; "localhost" may stand for another one."""

_SUFFIX = ".lock"
_OTHERS = 0o077


def token_path(settings: Settings) -> Path:
    """Return the file of the token; it has nothing else in it."""
    return settings.home.absolute() / "token"


def stored_secret(settings: Settings) -> str | None:
    """Return the secret of the stored token; None without one, or if others may have read it."""
    path = token_path(settings)
    try:
        if path.stat().st_mode & _OTHERS:
            return None
        return path.read_text(encoding="ascii").strip() or None
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise DependencyError(
            f"The token in {path} cannot be read ({error.strerror}). Make it readable for you, or delete it."
        ) from error


def private_file(path: Path, text: str) -> None:
    """Write a file that only this user may read.

    Raises:
        DependencyError: It cannot be written.
    """
    try:
        path.unlink(missing_ok=True)  # another file's permissions would stay
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise DependencyError(f"{path} cannot be written ({error.strerror}). Check the folder.") from error


@contextlib.contextmanager
def hold(settings: Settings, port: int) -> Iterator[None]:
    """Let commands find the service on this port while the context lasts."""
    path = _lock_path(settings, port)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def token_for(settings: Settings, server: str) -> str | None:
    """Return the secret to send to a service; None unless `up` runs it here, from this home."""
    parts = urlsplit(server)
    if parts.scheme != "http" or parts.hostname != HOST or parts.port is None:
        return None
    return stored_secret(settings) if _is_held(_lock_path(settings, parts.port)) else None


def running_service(settings: Settings) -> str | None:
    """Return the address of a service that `up` runs on this machine from this home, or None."""
    for path in sorted(_lock_path(settings, 0).parent.glob(f"*{_SUFFIX}")):
        port = path.stem.removeprefix(f"{platform.node()}-")
        if port.isdecimal() and _is_held(path):  # machines that share a home have names such as gpu and gpu-1
            return f"http://{HOST}:{port}"
    return None


def _lock_path(settings: Settings, port: int) -> Path:
    return settings.home.absolute() / "up" / f"{platform.node()}-{port}{_SUFFIX}"


def _is_held(path: Path) -> bool:
    """Return whether a process holds the lock; processes that look share it, so they do not see one another."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
