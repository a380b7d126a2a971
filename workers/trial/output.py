"""Output of a trial's process, C code included, in a file of its own: all that a process that died leaves."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path

__all__ = ["LAST_LINES", "capture", "newest", "own", "tail", "trim"]

LAST_LINES = 50
_MOST_BYTES = 2**20


def own(path: Path) -> Path:
    """Return the path at which this process alone writes the output of an attempt.

    Tune may start two processes for an attempt, and drop one, which then deletes what it has written.
    """
    return path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")


def newest(path: Path) -> Path | None:
    """Return the file of the process that wrote last, of those that write at an `own` path; None if there is none."""
    found = []
    for each in path.parent.glob(f"{path.stem}.*{path.suffix}"):
        with contextlib.suppress(OSError):  # deleted meanwhile
            found.append((each.stat().st_mtime_ns, each))
    return max(found)[1] if found else None


def capture(path: Path) -> None:
    """Have this process write its standard output and error to a file from now on.

    Where the file cannot be made, as on a node without the driver's folders, they go on as before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    except OSError:
        return
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        with contextlib.suppress(ValueError):  # closed
            stream.flush()
        os.dup2(target, number)
    os.close(target)


def tail(path: Path) -> str | None:
    """The last lines of a file, LAST_LINES at most; None where there is none, or nothing in it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    return "\n".join(text.replace("\0", "").splitlines()[-LAST_LINES:]).strip("\n") or None


def trim(path: Path) -> None:
    """Keep the end of a file that has grown large; its writers append."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > _MOST_BYTES:
            path.write_text((tail(path) or "") + "\n", encoding="utf-8")
