"""Checks that the services a job needs are reachable: a Ray cluster, an MLflow server."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass, urlopen

from anon_tune.errors import DependencyError, InputError

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "ask_mlflow",
    "bypass_proxies",
    "check_cluster",
    "check_reachable",
    "http_client",
    "mlflow_page",
    "password_problem",
    "proxy_of",
    "without_password",
    "without_passwords",
]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bypass_proxies() -> None:
    """Exempt this machine's own addresses from the proxy variables, for this process and those that it starts."""
    for variable in ("no_proxy", "NO_PROXY"):
        exempt = [host.strip() for host in os.environ.get(variable, "").split(",") if host.strip()]
        missing = [host for host in _LOOPBACK if host not in exempt]
        if missing and exempt != ["*"]:
            os.environ[variable] = ",".join([*exempt, *missing])


def http_client(url: str, seconds: float) -> httpx2.Client:
    """Return a client for requests to a URL; a URL of this machine is reached without a proxy.

    Args:
        url: Base URL of the requests, which may also be whole URLs of this host.
        seconds: Timeout of each.

    Raises:
        InputError: The password in the URL is not written as URLs need it.
        DependencyError: A proxy variable names a proxy that cannot be used.
    """
    import httpx2

    problem = password_problem(url)
    if problem is not None:
        raise InputError(f"{without_password(url)!r}: {problem}")

    # Loading the trusted certificates takes 30 ms, and only https needs them.
    verify = urlsplit(url).scheme == "https"
    direct = httpx2.HTTPTransport(verify=verify) if _is_loopback(url) else None
    try:
        return httpx2.Client(base_url=url, timeout=seconds, verify=verify, transport=direct)
    except (ImportError, ValueError) as error:  # SOCKS needs another package; a proxy's URL may be invalid
        raise DependencyError(
            f"The proxy that the environment names cannot be used ({error}). Unset ALL_PROXY, HTTP_PROXY and "
            "HTTPS_PROXY, or add the host to NO_PROXY."
        ) from error


def proxy_of(url: str) -> str | None:
    """Return the proxy through which requests to a URL go, without its password; None if they go directly."""
    parts = urlsplit(url)
    if parts.hostname is None or _is_loopback(url) or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return None if found is None else without_password(found)


def without_password(url: str) -> str:
    """Return a URL with its password, and secrets among its parameters, replaced by ***, for messages.

    A password that is not written as URLs need it may hold / and @, so all up to the last @ counts as the password.
    """
    return _without(url, r".*")


def without_passwords(text: str) -> str:
    """Return a text with the passwords of its URLs replaced by ***: for messages of other libraries."""
    return _without(text, r"\S*")


def _without(text: str, password: str) -> str:
    hidden = re.sub(rf"(://[^/?#@:\s]*):{password}@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"(?i)([?&][\w.-]*(?:passw|pwd|secret|token)[\w.-]*=)[^&#\s\"']+", r"\1***", hidden)


def password_problem(url: str) -> str | None:
    """Return what is wrong with the password of a URL, which libraries would take for another part of it."""
    scheme, _, rest = url.partition("://")
    before, at, _ = rest.rpartition("@")
    user, _, password = before.partition(":")
    refused = "/?#@ " if scheme in {"http", "https"} else "@"  # databases' libraries read up to the first @
    is_port = re.match(r"\d+/", password) is not None and "@" not in password
    if not at or "/" in user or is_port or not set(password) & set(refused):
        return None
    return (
        "the password has a character that URLs do not allow there. Write / as %2F, ? as %3F, # as %23, @ as %40 and "
        "a space as %20."
    )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or host.startswith("127.")


def check_cluster(ray_address: str) -> None:
    """Check the form of a cluster's address as Ray does, without importing Ray, which takes seconds.

    Raises:
        InputError: `ray_address` is not the address of a cluster.
    """
    if ray_address.startswith("ray://"):
        raise InputError(
            f"RAY_ADDRESS={ray_address!r} names a Ray Client, through which jobs cannot run. Start the worker on a "
            "node of the cluster (`ray start --address=HOST:6379` makes one) with RAY_ADDRESS=HOST:6379, and submit "
            "jobs to it."
        )
    if not re.fullmatch(r"auto|[^\s/]+:\d+", ray_address):
        raise InputError(
            f"RAY_ADDRESS={ray_address!r} is not the address of a Ray cluster. Give host:port or auto, or unset it "
            "to start a local Ray for each job."
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
        parts = urlsplit(f"//{ray_address}")
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
    bypass_proxies()
    scheme, _, rest = uri.rstrip("/").partition("://")
    try:  # without user and password: `urlopen` takes none, and this path is open to all
        urlopen(f"{scheme}://{rest.rpartition('@')[2]}/health", timeout=seconds).close()
    except ValueError as error:
        raise OSError(str(error)) from error
    return True


def mlflow_page(uri: str, run: str) -> str | None:
    """Return the address of a run's page; None if the tracking URI names a database, which has no pages."""
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{without_password(uri).rstrip('/')}/#/runs/{run}"
