"""PostgreSQL servers that restart, or stop answering."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

__all__ = ["Server", "bounce", "frozen"]

Server = Callable[[str], contextlib.AbstractContextManager[Path]]
"""The fixture `postgresql_programs`."""


@contextlib.contextmanager
def frozen(folder: Path, *, backends_only: bool = False) -> Iterator[None]:
    """Stop all processes of a server (SIGSTOP), or those of its present connections alone, until the block ends."""
    postmaster = _postmaster(folder)
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


def bounce(folder: Path) -> None:
    """Restart a server: connections that are open break, and so do transactions."""
    program = Path(_postmaster(folder).exe()).with_name("pg_ctl")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    arguments = ["-D", str(folder / "data"), "-l", str(folder / "log"), "-m", "fast", "-w", "restart"]
    subprocess.run([*as_user, str(program), *arguments], check=True, stdout=subprocess.DEVNULL, cwd=folder)


def _postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
