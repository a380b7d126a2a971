"""Limits of one instance of the service, so that no client can take it from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import HTTPException

__all__ = ["RETRY", "Limits", "Streams"]

RETRY = {"Retry-After": "5"}
"""Header of an answer to a request that may be sent again: after how many seconds."""


@dataclass(frozen=True)
class Limits:
    """Limits of one instance of the service; a test compares them with the table in docs/service.md.

    Attributes:
        connections: Open connections. Most systems give a process 1,024 files.
        head_bytes: Bytes of a request before its body: address and headers.
        head_seconds: Time for these, from the connection's begin or from the response before.
        body_seconds: Time for the body.
        requests: Requests that wait or are answered, without streams and health.
        streams: Event streams.
        streams_per_token: Event streams of one token, or of all users of an open service.
    """

    connections: int = 800
    head_bytes: int = 65_536
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    requests: int = 200
    streams: int = 500
    streams_per_token: int = 250


class Streams:
    """Open event streams: `app.state.streams`. Used in the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str | None] = Counter()

    @contextmanager
    def taken(self, token_id: str | None) -> Iterator[None]:
        """Count a stream of a token, or of a user without one, during the block.

        Raises:
            HTTPException: 429 if the token has too many, 503 if the service has.
        """
        self._check(token_id)
        self._open[token_id] += 1
        try:
            yield
        finally:
            self._open[token_id] -= 1
            if not self._open[token_id]:
                del self._open[token_id]

    def _check(self, token_id: str | None) -> None:
        if self._open[token_id] >= self._limits.streams_per_token:
            raise HTTPException(
                429,
                f"This token has {self._limits.streams_per_token} event streams open. Close some, or ask for the job "
                "every few seconds instead.",
                RETRY,
            )
        if self._open.total() >= self._limits.streams:
            raise HTTPException(
                503,
                f"The service has {self._limits.streams} event streams open. Try again later, or ask for the job "
                "every few seconds instead.",
                RETRY,
            )
