"""Output of a trial's process, including C code, in a file that remains if the process dies."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LAST_LINES", "capture", "last_words", "newest", "own", "tail", "trim"]

LAST_LINES = 100
"""torchrun writes about 40 lines after the error of a process that it has started."""

_RANK = re.compile(r"^\[\w+\]: ?")
"""`[rank1]: `, as torch.distributed puts it before each line of a traceback."""
_MOST_BYTES = 2**20


def own(path: Path) -> Path:
    """Return a path for the output of an attempt that only this process uses.

    Tune may start two processes for an attempt and drop one, which then deletes its file.
    """
    return path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")


def newest(path: Path) -> Path | None:
    """Return the newest file among the `own` paths of all processes; None if there is none."""
    found = []
    for each in path.parent.glob(f"{path.stem}.*{path.suffix}"):
        with contextlib.suppress(OSError):  # deleted meanwhile
            found.append((each.stat().st_mtime_ns, each))
    return max(found)[1] if found else None


def capture(path: Path) -> None:
    """Redirect this process's standard output and error to a file.

    If the file cannot be created, as on a node without the driver's folders, they stay unchanged.
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
    """Return at most LAST_LINES last lines of a file; None if it is missing or empty."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    return "\n".join(text.replace("\0", "").splitlines()[-LAST_LINES:]).strip("\n") or None


def last_words(log: str) -> str | None:
    """Return the line of a log that tells best why its process failed; None if it has no words.

    This is the error of the last traceback, but under torchrun that of the first one: a process that fails takes
    the others along, and torchrun adds a traceback of its own.
    """
    lines = [_RANK.sub("", line) for line in log.splitlines()]
    errors = list(_errors(lines))
    causes = [error for error in errors if not error.startswith("torch.distributed.elastic.")]
    if causes:
        return causes[0] if len(causes) < len(errors) else causes[-1]
    return next((line.strip() for line in reversed(lines) if any(map(str.isalnum, line))), None)


def _errors(lines: list[str]) -> Iterator[str]:
    """Yield the line that follows the frames of each traceback."""
    is_frames = False
    for line in lines:
        if line.startswith("Traceback (most recent call last):"):
            is_frames = True
        elif is_frames and line and not line.startswith(" "):
            yield line.strip()
            is_frames = False


def trim(path: Path) -> None:
    """Cut a large file down to its end; its writers append."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > _MOST_BYTES:
            path.write_text((tail(path) or "") + "\n", encoding="utf-8")
