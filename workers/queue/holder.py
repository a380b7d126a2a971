"""Who works on a job, as its lease names them: a process of a user on a machine."""

from __future__ import annotations

import getpass
import os
import socket

__all__ = ["LEASE_SECONDS", "is_on_this_machine", "this_process"]

LEASE_SECONDS = 15.0
"""For so long a job is taken by its holder, who renews it before."""


def this_process() -> str:
    """Return how this process is named as a holder, for people too."""
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"


def is_on_this_machine(holder: str) -> bool:
    """Whether a holder that `this_process` has named is, or was, a process of this machine or container."""
    return holder.rpartition(", process ")[0].endswith(f"@{socket.gethostname()}")
