"""Server of the application, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from anon_tune.errors import DependencyError, InputError
from anon_tune.ledger import Ledger
from anon_tune.service.app import create_app
from anon_tune.settings import Settings

__all__ = ["DATABASE_SECONDS", "serve"]

DATABASE_SECONDS = 4.0
"""Longest wait of a request for the database: it is answered (503) within 5 s."""

_BACKLOG = 2048
_GRACE_SECONDS = 3
"""Time to finish responses when the server stops. Event streams end by themselves; their clients reconnect."""


def serve(
    ledger: Ledger,
    settings: Settings,
    host: str,
    port: int,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        ledger: Ledger that stores the jobs.
        settings: Settings, which name the jobs' folders and the data and modules that jobs may use.
        host: A name or an address of this machine.
        port: The port; 0 chooses a free one.
        started: Called with the address once it accepts connections.

    Raises:
        InputError: Other machines can reach the address, and the service has no tokens.
        DependencyError: The address is in use or cannot be used.
    """
    family, address = _resolve(host, port)
    on_loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    if not on_loopback and not ledger.tokens.ever_existed():
        raise InputError(
            f"Other machines can reach {host}, and the service has no tokens yet. Create the first one with "
            "`anon-tune token create NAME --role admin`, or serve on 127.0.0.1."
        )
    # Named TCP, which socket.create_server does not: asyncio then sends without delay, not 40 ms later.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise DependencyError(
            f"Cannot listen on {host}:{port} ({error.strerror}). Choose another --port; 0 chooses a free one."
        ) from error
    app = create_app(ledger, settings, on_loopback=on_loopback)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    shown = f"[{address[0]}]" if family is socket.AF_INET6 else address[0]
    server = uvicorn.Server(config)
    app.state.is_stopping = lambda: server.should_exit
    with listening:
        started(f"http://{shown}:{listening.getsockname()[1]}")
        server.run(sockets=[listening])


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"{host!r} is not a name or address of this machine ({error}). Choose another --host."
        ) from error
    return family, (str(address[0]), int(address[1]))
