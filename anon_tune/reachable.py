"""Whether what jobs need besides the ledger answers: a Ray cluster, an MLflow server."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit
from urllib.request import urlopen

from anon_tune.errors import InputError

__all__ = ["ask_mlflow", "check_cluster", "check_reachable"]


def check_cluster(ray_address: str) -> None:
    """Refuse what Ray refuses whatever is there, without Ray: to import it takes seconds.

    Raises:
        InputError: It is no address of a cluster.
    """
    if not re.fullmatch(r"auto|(ray://)?[^\s/]+:\d+", ray_address):
        raise InputError(
            f"RAY_ADDRESS={ray_address!r} is not the address of a Ray cluster. Give host:port, ray://host:port or "
            "auto, or unset it: a Ray is then started for each job."
        )


def check_reachable(ray_address: str, seconds: float) -> bool:
    """Connect to a Ray cluster's host and port, and return True; False for what only Ray understands ("auto").

    Args:
        ray_address: As RAY_ADDRESS.
        seconds: How long to wait.

    Raises:
        OSError: Nothing answers there.
    """
    try:
        parts = urlsplit(ray_address if "://" in ray_address else f"//{ray_address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise OSError(str(error)) from error
    if host is None or port is None:
        return False
    socket.create_connection((host, port), timeout=seconds).close()
    return True


def ask_mlflow(uri: str, seconds: float) -> bool:
    """Ask an MLflow server how it is, and return True; False where the tracking URI is a database's.

    Raises:
        OSError: It does not answer, or not well.
    """
    if not uri.startswith(("http://", "https://")):
        return False
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=seconds).close()
    except ValueError as error:
        raise OSError(str(error)) from error
    return True
