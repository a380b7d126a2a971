"""Channel from a process of user code to its supervisor: lines, and replies to them. Needs the standard library."""

from __future__ import annotations

import os
import socket

__all__ = ["CHANNEL", "FOLDER", "WORK", "Channel"]

CHANNEL = "ANON_TUNE_CHANNEL"
"""Variable that names the Unix socket of a process: it connects there, and sends and reads lines."""

WORK = "ANON_TUNE_WORK"
"""Variable that names the file with the work of a process."""

FOLDER = "ANON_TUNE_FOLDER"
"""Variable that names the folder for files of an attempt."""


class Channel:
    """A connection to the supervisor of this process, at the socket that CHANNEL names.

    Raises:
        OSError: Nobody listens there.
    """

    def __init__(self) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(os.environ[CHANNEL])
        self._lines = self._connection.makefile("rb")

    def send(self, line: bytes) -> None:
        """Send a line. Raises OSError if the supervisor has gone."""
        self._connection.sendall(line + b"\n")

    def ask(self, line: bytes) -> bytes:
        """Send a line, and wait for the reply; it is empty if the supervisor has gone.

        Raises:
            OSError: The supervisor has gone.
        """
        self.send(line)
        return self._lines.readline().rstrip(b"\n")
