"""Holders of leases: the name of a user's process on a machine."""

from __future__ import annotations

import getpass
import os
import socket

__all__ = ["LEASE_SECONDS", "is_on_this_machine", "this_process"]

LEASE_SECONDS = 15.0
"""Duration of a lease; its holder renews it before it runs out."""


def this_process() -> str:
    """Return the name of this process as a holder."""
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"


def is_on_this_machine(holder: str) -> bool:
    """Return whether a holder, named by `this_process`, is or was a process of this machine or container."""
    return holder.rpartition(", process ")[0].endswith(f"@{socket.gethostname()}")
