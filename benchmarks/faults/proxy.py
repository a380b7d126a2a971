"""A TCP proxy that can stop forwarding, as a network does that loses every packet."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]

_CHUNK = 65536


class Proxy:
    """Forwards connections on a port of loopback to a socket in the file system, until the context ends.

    While it is partitioned, nothing arrives and no connection ends, on either side; new ones are accepted and get no
    answer. What was sent meanwhile arrives afterwards, as by TCP.

    Attributes:
        port: Its port.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._flows.set()
        for each in list(self._sockets):
            _end(each)

    def partition(self) -> None:
        """Forward nothing from now on."""
        self._flows.clear()

    def heal(self) -> None:
        """Forward again."""
        self._flows.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._flows.wait()
        server = socket.socket(socket.AF_UNIX)
        with client, server:
            try:
                server.connect(str(self._target))
            except OSError:  # the server is away
                return
            self._sockets |= {client, server}
            back = threading.Thread(target=self._forward, args=(server, client), daemon=True)
            back.start()
            self._forward(client, server)
            back.join()
            self._sockets -= {client, server}

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        """Forward until either end is closed; then close the other, but not during a partition."""
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flows.wait()
                target.sendall(data)
        self._flows.wait()
        _end(target)
        _end(source)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):  # its other end is gone
        each.shutdown(socket.SHUT_RDWR)
