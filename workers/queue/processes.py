"""The processes in which a daemon has jobs run: one is ready before there is a job for it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, cast

from anon_tune.ledger import Lease

__all__ = ["JobProcesses", "is_assigned", "kill_group", "receive_lease"]

_LOAD_SECONDS = 60.0
_READY = b"ready\n"
_CLOSE_SECONDS = 5.0

_log = logging.getLogger(__name__)


class JobProcesses:
    """Starts a process for each job, and keeps one that has loaded what a job needs, which takes seconds.

    A process hears of its job by its standard input, and ends where that is empty: when the daemon has died, nothing
    waits for ever. That it is ready it says by its standard output.

    Args:
        command: Starts a process that waits for its job by `receive_lease`, and works on it.
        keep_ready: Whether `prepare` does anything.
    """

    def __init__(self, command: Sequence[str], keep_ready: bool = True) -> None:
        self._command = list(command)
        self._kept: subprocess.Popen[bytes] | None = None
        self._since = 0.0
        self._said = b""
        self._wanted = keep_ready

    @property
    def lacks_one(self) -> bool:
        """Whether `prepare` would do anything."""
        return self._wanted and (self._kept is None or self._kept.poll() is not None)

    def prepare(self) -> None:
        """Have a process ready, or getting so. One that could not get so is not replaced: the next could not, too."""
        if self._kept is not None and self._kept.poll() is not None:
            _log.warning("the process kept ready for a job ended (exit code %d)", self._kept.returncode)
            self._wanted = self._is_ready
            self.close()
        if self._kept is None and self._wanted:
            try:
                self._kept = self._start()
            except OSError as error:
                _log.warning("no process can be kept ready for a job: %s", error)
                self._wanted = False
            self._since, self._said = time.monotonic(), b""

    def is_preparing(self) -> bool:
        """Whether a process is getting ready: who takes a job now would have it wait, and nobody renews its lease."""
        if self._kept is None or self._is_ready or self._kept.poll() is not None:
            return False
        output = cast("IO[bytes]", self._kept.stdout)
        if select.select([output], [], [], 0)[0]:
            self._said += os.read(output.fileno(), 4096)
        if not self._is_ready and time.monotonic() - self._since > _LOAD_SECONDS:
            _log.warning("no process is kept ready for a job: it takes more than %.0f s", _LOAD_SECONDS)
            self._wanted = False
            kill_group(self._kept)
            self.close()
        return self._kept is not None and not self._is_ready

    @property
    def _is_ready(self) -> bool:
        """Whether the one that is kept has said so, whatever else it has said before."""
        return self._said.endswith(_READY)

    def start(self, lease: Lease) -> subprocess.Popen[bytes]:
        """Have a process work under a lease, as the leader of a process group of its own.

        Raises:
            OSError: No process can be started.
        """
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                return _send_lease(kept, lease)
            except BrokenPipeError:
                kept.wait()
        return _send_lease(self._start(), lease)

    def close(self) -> None:
        """End the process that is ready, and what it has started."""
        if self._kept is not None:
            try:
                self._kept.communicate(timeout=_CLOSE_SECONDS)  # which closes its standard input
            except subprocess.TimeoutExpired:
                kill_group(self._kept)
                self._kept.communicate()
            self._kept = None

    def _start(self) -> subprocess.Popen[bytes]:
        # Of its own session: Ctrl-C is for the daemon, which tells it.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group, and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def is_assigned() -> bool:
    """Whether this process, which a daemon started, has heard of its job already, or of the daemon's end."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def receive_lease() -> Lease | None:
    """Say that this process is ready, and wait for its lease; None where there is no work any more."""
    with contextlib.suppress(BrokenPipeError):  # it was told before
        os.write(sys.stdout.fileno(), _READY)
    line = sys.stdin.read()
    return Lease(**json.loads(line)) if line else None


def _send_lease(process: subprocess.Popen[bytes], lease: Lease) -> subprocess.Popen[bytes]:
    with cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stdin) as stdin:
        stdin.write(json.dumps(dataclasses.asdict(lease)).encode())
    return process
