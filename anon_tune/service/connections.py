"""Limits below HTTP, for which uvicorn has no options: connections, and the size and time of a request's head."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anon_tune.service.limits import Limits

__all__ = ["protocol_with"]


class _LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol of one connection, with limits.

    A timer runs whenever no request is being answered: from the connection's begin, and from each response. The head
    of a request stops it. So what is left of a body whose request was answered cannot keep a connection open, either.
    """

    limits: ClassVar[Limits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection that is one too many; else wait for a request."""
        super().connection_made(transport)
        self._in_head, self._received, self._head_bytes = True, 0, 0
        self._requests = 0
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.limits.connections:
            self._refuse(503, f"The service has {self.limits.connections} connections open. Try again later.")
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        """Parse data. Refuse a head that is too large before it is complete."""
        self._received += len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._received > self.limits.head_bytes and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count the address."""
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, with its colon, blank and line end."""
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        """Begin to answer a request, unless its head is too large."""
        if self._head_bytes > self.limits.head_bytes:
            raise ValueError("the head is too large")  # the parser stops, and `send_400_response` follows
        self._in_head = False
        self._requests += 1
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        super().on_message_complete()
        self._in_head, self._received = True, 0

    def on_response_complete(self) -> None:
        """Wait for the next request, unless one has come already."""
        super().on_response_complete()
        self._requests -= 1
        if not self._requests and not self.transport.is_closing():
            self._wait_for_head()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser did not take."""
        if self._head_bytes > self.limits.head_bytes:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _wait_for_head(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.head_seconds, self._is_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        if self.transport.is_closing():
            return
        if not self._received:  # a browser may connect ahead of its requests, and would show the answer
            self.transport.close()
            return
        self._refuse(
            408, f"The request was not complete after {self.limits.head_seconds:g} s. Send it again at once."
        )

    def _refuse_head(self) -> None:
        self._refuse(
            431,
            f"Address and headers of a request may have at most {self.limits.head_bytes} bytes. Send less, for "
            "example fewer cookies.",
        )

    def _refuse(self, status: int, why: str) -> None:
        """Answer in plain text, as no request has reached the application, and close the connection."""
        self._stop_timer()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(why)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write((head + why).encode("ascii"))
        self.transport.close()


def protocol_with(limits: Limits) -> type[asyncio.Protocol]:
    """Return the class of connections with these limits, for `uvicorn.Config(http=...)`."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits})
