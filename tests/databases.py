"""PostgreSQL servers that stop answering."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

__all__ = ["Server", "frozen"]

Server = Callable[[str], contextlib.AbstractContextManager[Path]]
"""The fixture `postgresql_programs`."""


@contextlib.contextmanager
def frozen(folder: Path, *, backends_only: bool = False) -> Iterator[None]:
    """Stop all processes of a server (SIGSTOP), or those of its present connections alone, until the block ends."""
    postmaster = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
    children = postmaster.children()
    if backends_only:
        stopped = [child for child in children if "postgres: postgres" in " ".join(child.cmdline())]
    else:
        stopped = [postmaster, *children]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
