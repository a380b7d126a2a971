"""Checks that the services a job needs are reachable: a Ray cluster, an MLflow server."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit
from urllib.request import urlopen

from anon_tune.errors import InputError

__all__ = ["ask_mlflow", "check_cluster", "check_reachable"]


def check_cluster(ray_address: str) -> None:
    """Check the form of a cluster's address as Ray does, without importing Ray, which takes seconds.

    Raises:
        InputError: `ray_address` is not the address of a cluster.
    """
    if not re.fullmatch(r"auto|(ray://)?[^\s/]+:\d+", ray_address):
        raise InputError(
            f"RAY_ADDRESS={ray_address!r} is not the address of a Ray cluster. Give host:port, ray://host:port or "
            "auto, or unset it to start a local Ray for each job."
        )


def check_reachable(ray_address: str, seconds: float) -> bool:
    """Check that a Ray cluster's host and port accept connections; return False for an address without them ("auto").

    Args:
        ray_address: Address of the cluster, in the form of RAY_ADDRESS.
        seconds: Timeout of the connection.

    Raises:
        OSError: The connection failed.
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
    """Check that an MLflow server is healthy and return True; return False if the tracking URI names a database.

    Raises:
        OSError: The server does not answer, or reports an error.
    """
    if not uri.startswith(("http://", "https://")):
        return False
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=seconds).close()
    except ValueError as error:
        raise OSError(str(error)) from error
    return True
