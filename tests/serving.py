"""An application in a thread of the test, served over HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from anon_tune.service.limits import Limits
from anon_tune.service.server import configured

__all__ = ["serving"]


@contextlib.contextmanager
def serving(app: FastAPI, certificate: Path | None = None, limits: Limits | None = None) -> Iterator[str]:
    """Serve an application on loopback, and yield its address; with a certificate and its key in a file by TLS."""
    config = configured(app, limits or Limits())
    config.timeout_graceful_shutdown, config.ssl_certfile = 1, certificate
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            scheme = "http" if certificate is None else "https"
            yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
