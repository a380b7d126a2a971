"""Connections to PostgreSQL that never wait for long: for a server that is frozen, or that the network has cut off.

The server's own time limits do not help against either, and libpq has none for an answer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event

__all__ = ["ANSWER_SECONDS", "connect_options", "limit_waits", "without_limits"]

ANSWER_SECONDS = 10.0
"""Longest wait for an answer, below the 15 s of a lease: its holder can try again before it runs out."""

# For a connection, or for whether the one from the pool still works. Both together take no longer than an answer.
_CONNECT_SHARE = 0.5
_LEAST_CONNECT_SECONDS = 2  # libpq's
_MARGIN_SECONDS = 0.5  # so that the server, if it is well, ends a statement before the client does
_LOCK_SECONDS = 5.0  # transactions take milliseconds: whoever has a lock for longer is frozen
_IDLE_SECONDS = (
    30  # two leases, and long for a busy client: then the server frees the locks of one that is frozen
)
_REST_SECONDS = 1.0
_TICK_SECONDS = 0.25
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}


def connect_options(url: sa.URL, seconds: float) -> dict[str, Any]:
    """Return libpq's options for connections that notice a dead peer, except those that the URL sets."""
    options = {
        "connect_timeout": _connect_seconds(seconds),
        "tcp_user_timeout": round(seconds * 1000),
        **_KEEPALIVE,
    }
    return {name: value for name, value in options.items() if name not in url.query}


def _connect_seconds(seconds: float) -> int:
    return max(_LEAST_CONNECT_SECONDS, round(seconds * _CONNECT_SHARE))


def limit_waits(engine: sa.Engine, seconds: float) -> None:
    """Let no connection of an engine wait longer than `seconds` for an answer.

    A connection from the pool is tried first, and given less: one to a frozen server is replaced.
    """
    server, lock = _Server(_connect_seconds(seconds)), min(_LOCK_SECONDS, seconds - 2 * _MARGIN_SECONDS)
    settings = {
        "statement_timeout": round((seconds - _MARGIN_SECONDS) * 1000),
        "lock_timeout": round(lock * 1000),
        "idle_in_transaction_session_timeout": _IDLE_SECONDS * 1000,
    }
    query = "SELECT " + ", ".join(
        f"set_config('{name}', '{value}', false)" for name, value in settings.items()
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> _Connection:
        return server.connect(*arguments, **options)

    @event.listens_for(engine, "connect")
    def configure(connection: _Connection, _record: Any) -> None:
        connection.execute(query)
        connection.commit()

    @event.listens_for(engine, "checkout")
    def begin(connection: _Connection, _record: Any, _proxy: Any) -> None:
        connection.patience = seconds

    @event.listens_for(engine, "checkin")
    def end(connection: _Connection | None, _record: Any) -> None:
        if connection is not None:  # it was not invalidated
            connection.patience = server.patience


def without_limits(connection: sa.Connection) -> None:
    """Let the statements of this transaction take any time: a migration of a large database does."""
    found = connection.connection.driver_connection
    if isinstance(found, _Connection):
        found.patience = float("inf")
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {name} = 0")


class _Server:
    """Connects to a server; one that did not answer a moment ago is left alone, so that callers do not queue up.

    Attributes:
        patience: Seconds for the first answers of a connection.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._silent = float("-inf")

    def connect(self, *arguments: Any, **options: Any) -> _Connection:
        if time.monotonic() - self._silent < _REST_SECONDS:
            raise psycopg.OperationalError("the server did not answer a moment ago")
        try:
            connection = _Connection.connect(*arguments, **options)
        except psycopg.errors.ConnectionTimeout:
            self._silent = time.monotonic()
            raise
        connection.patience = self.patience
        return connection


class _Connection(psycopg.Connection[Any]):
    """A connection that breaks if an answer takes too long.

    Attributes:
        patience: Seconds for an answer.
    """

    patience = ANSWER_SECONDS

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """Wait as psycopg does, but not for ever."""
        with _WAITS.limited(self.fileno(), self.patience) as limited:
            try:
                return super().wait(*arguments, **options)
            except psycopg.OperationalError as error:
                if limited.left > 0:
                    raise
                raise psycopg.OperationalError(f"no answer within {self.patience:g} s") from error


@dataclass(eq=False)
class _Wait:
    """A wait for an answer at a socket, and the seconds that are left."""

    file: int
    left: float


class _Waits:
    """Waits for answers that are under way; a thread ends those that take too long.

    It shuts their socket down, which ends the wait with an error. It counts its own rounds, not the time: a process
    that was suspended has not waited.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all waits and the thread, which a forked process does not have."""
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def limited(self, file: int, seconds: float) -> Iterator[_Wait]:
        wait = _Wait(file, seconds)
        with self._lock:
            self._waits.add(wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="database-limits", daemon=True)
                self._thread.start()
        try:
            yield wait
        finally:
            with self._lock:  # not while its socket is shut down: the number may soon be another file's
                self._waits.remove(wait)

    def _look(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            with self._lock:
                for wait in self._waits:
                    wait.left -= _TICK_SECONDS
                    if wait.left <= 0:
                        _shut_down(wait.file)


def _shut_down(file: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(file)) as opened:
        opened.shutdown(socket.SHUT_RDWR)


_WAITS = _Waits()
os.register_at_fork(after_in_child=_WAITS.reset)
