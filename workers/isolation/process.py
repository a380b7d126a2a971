"""Starts processes of user code, for a worker of Ray's that itself imports neither torch nor user code."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from anon_tune.workers.isolation.channel import CHANNEL
from anon_tune.workers.isolation.messages import Ended, Order, Started, Stop, read_lines, send

__all__ = ["IsolatedProcess", "Keeper"]

_TOKEN = "ANON_TUNE_KEEPER"
_KEEPER = "anon_tune.workers.isolation.keeper"


class Keeper:
    """Starts processes from another one, the keeper's own, that has loaded what they need.

    That process and all that it has started carry a token in their environment, by which they are found again if one
    of them was killed.

    Args:
        modules: Modules to load. They must not start threads.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = modules
        self._token = ""
        self._control: socket.socket | None = None
        self._pid: int | None = None

    def load(self) -> None:
        """Begin to load; `start` waits until that is done."""
        if self._control is None:
            self._control, self._pid = self._begin(), None

    def pid(self) -> int:
        """Return the id of the keeper's process, once it has loaded.

        Raises:
            OSError: It cannot load.
        """
        self.load()
        buffer = bytearray()
        while self._pid is None:
            lines = None if self._control is None else read_lines(self._control, buffer)
            if lines is None:
                raise OSError("the process that starts trials could not load; see the output of the worker")
            if lines:
                self._pid = Started(**json.loads(lines[0])).pid
        return self._pid

    def start(self, order: Order) -> IsolatedProcess:
        """Start a process.

        Raises:
            OSError: No process can be started.
        """
        try:
            return IsolatedProcess(self, order)
        except OSError:
            self.close()  # the keeper was killed: another one takes over
            return IsolatedProcess(self, order)

    def give(self, order: Order, descriptor: int) -> None:
        """Pass an order and the socket of its guard to the keeper's process.

        Raises:
            OSError: That process has ended.
        """
        self.pid()
        line = json.dumps(vars(order)).encode() + b"\n"
        if self._control is not None:
            socket.send_fds(self._control, [line], [descriptor])

    def close(self) -> None:
        """End the keeper, and every process that it has started."""
        control, self._control = self._control, None
        if control is not None:
            control.close()
            _sweep(self._token)

    def _begin(self) -> socket.socket:
        own, theirs = socket.socketpair()
        self._token = secrets.token_hex(16)
        with theirs:
            first = subprocess.Popen(
                [sys.executable, "-m", _KEEPER, str(theirs.fileno()), *self._modules],
                pass_fds=[theirs.fileno()],
                env={**os.environ, _TOKEN: self._token},
            )
        first.wait()  # it has forked the keeper's process
        return own

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class IsolatedProcess:
    """A process of user code, and the lines that it sends over its channel.

    Args:
        keeper: Starts it.
        order: What to start; the variable CHANNEL is added to its environment.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, keeper: Keeper, order: Order) -> None:
        self._keeper = keeper
        self._ended: Ended | None = None
        self._lines: deque[bytes] = deque()
        self._connection: socket.socket | None = None
        self._received, self._told = bytearray(), bytearray()
        self._folder = Path(tempfile.mkdtemp(prefix="anon_tune_"))  # short, and for this user alone
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            path = self._folder / "channel"
            self._listener.bind(str(path))
            self._listener.listen()
            self._control, theirs = socket.socketpair()
            with theirs:
                environment = {**order.environment, CHANNEL: str(path)}
                keeper.give(replace(order, environment=environment), theirs.fileno())
        except OSError:
            self._forget()
            raise

    def receive(self) -> bytes | Ended:
        """Wait for the next line of the process, or for its end, and return it."""
        while not self._lines and self._ended is None:
            self._wait()
        return self._lines.popleft() if self._lines else self._result()

    def reply(self, line: bytes) -> None:
        """Send the process a line; one that has ended meanwhile reads none."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.sendall(line + b"\n")

    def stop(self, grace: float) -> Ended:
        """End the process and all that it has started; return how it ended.

        Args:
            grace: Seconds between SIGTERM and SIGKILL.
        """
        self.ask_to_stop(grace)
        while self._ended is None:
            self._wait()
        return self._result()

    def ask_to_stop(self, grace: float) -> None:
        """Ask for the end of the process, as `stop`, without waiting for it; another thread may call this."""
        if self._ended is None:
            with contextlib.suppress(OSError):
                send(self._control, Stop(grace))

    def finish(self, seconds: float) -> Ended:
        """Wait for the end of the process for so many seconds, then kill it; return how it ended."""
        limit = time.monotonic() + seconds
        while self._ended is None and (left := limit - time.monotonic()) > 0:
            self._wait(left)
        return self.stop(0.0)

    def _result(self) -> Ended:
        self._forget()
        if self._ended is None:
            raise RuntimeError("the process has not ended")
        return self._ended

    def _wait(self, seconds: float | None = None) -> None:
        sources = [self._control, self._listener if self._connection is None else self._connection]
        ready, _, _ = select.select([each for each in sources if each.fileno() >= 0], [], [], seconds)
        if self._listener in ready:
            self._connection, _ = self._listener.accept()
            self._listener.close()
        elif self._connection in ready:
            self._take()
        elif self._control in ready:
            self._hear()

    def _take(self) -> bool:
        """Take the lines that have come over the channel; return whether it is still open."""
        if self._connection is None:
            return False
        lines = read_lines(self._connection, self._received)
        if lines is None:
            self._connection.close()
            return False
        self._lines += lines
        return True

    def _hear(self) -> None:
        lines = read_lines(self._control, self._told)
        if lines is None:  # the guard was killed, and with it the process, but not what that has started
            self._keeper.close()
            self._ended = Ended(status=9, left=0)
        for line in lines or ():
            message: dict[str, Any] = json.loads(line)
            if "status" in message:
                self._ended = Ended(**message)
        if self._ended is not None:
            self._drain()

    def _drain(self) -> None:
        """Take what the process has sent before its end."""
        if self._connection is None and select.select([self._listener], [], [], 0)[0]:
            self._connection, _ = self._listener.accept()
        while self._connection is not None and self._connection.fileno() >= 0:
            if not select.select([self._connection], [], [], 0)[0] or not self._take():
                break

    def _forget(self) -> None:
        for each in (self._listener, self._connection, getattr(self, "_control", None)):
            if each is not None:
                each.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sweep(token: str) -> None:
    """Kill all processes that carry a token, until there are none."""
    while found := list(_carriers(token)):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)


def _carriers(token: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE:
                yield process
