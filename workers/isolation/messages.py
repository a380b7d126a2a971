"""Messages between a supervisor and the guard of a process of user code: lines of JSON."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

__all__ = ["Ended", "Order", "Started", "Stop", "describe", "is_killed", "read_lines", "send"]

_BYTES = 65_536


@dataclass(frozen=True)
class Order:
    """A process to start.

    Attributes:
        folder: Working folder.
        output: File to which standard output and error are appended.
        module: Module whose `main` runs in a fork of the keeper, where torch is loaded already; None with `command`.
        command: The user's program and its arguments; None with `module`.
        environment: Variables besides those of the keeper.
    """

    folder: str
    output: str
    module: str | None = None
    command: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """A request to end the process and all that it has started.

    Attributes:
        grace: Seconds between SIGTERM and SIGKILL; 0: SIGKILL at once.
    """

    grace: float


@dataclass(frozen=True)
class Started:
    """The process is running.

    Attributes:
        pid: Its process id.
    """

    pid: int


@dataclass(frozen=True)
class Ended:
    """The process has ended, and everything that it had started.

    Attributes:
        status: As `os.waitpid` gives it.
        left: Processes that it had left behind, which were killed.
    """

    status: int
    left: int


def send(connection: socket.socket, message: Order | Stop | Started | Ended) -> None:
    """Send a message. Raises OSError if the other side has gone."""
    connection.sendall(json.dumps(asdict(message)).encode() + b"\n")


def read_lines(connection: socket.socket, before: bytearray) -> list[bytes] | None:
    """Read, and return the whole lines; None if the other side has closed the connection.

    Args:
        connection: Connection to read from.
        before: Start of a line that was read before; replaced by the start of the next one.
    """
    try:
        received = connection.recv(_BYTES)
    except OSError:
        received = b""
    if not received:
        return None
    before += received
    *lines, rest = bytes(before).split(b"\n")
    before[:] = rest
    return lines


def describe(status: int) -> str:
    """Return how a process ended, in words: "exit code 3", "SIGSEGV (Segmentation fault)"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def is_killed(status: int) -> bool:
    """Return whether a process was ended by SIGKILL: by a person, or by the system when memory ran out."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
