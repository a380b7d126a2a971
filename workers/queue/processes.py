"""Processes that run a daemon's jobs; one can be ready before its job."""

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

__all__ = ["DATABASE_AWAY", "JobProcesses", "is_assigned", "kill_group", "receive_lease"]

DATABASE_AWAY = os.EX_TEMPFAIL
"""Exit code of a process whose job only waits for the ledger's database."""

_LOAD_SECONDS = 60.0
_READY = b"ready\n"
_CLOSE_SECONDS = 5.0

_log = logging.getLogger(__name__)


class JobProcesses:
    """Starts a process for each job, and keeps one ready that has loaded the modules, which takes seconds.

    A process gets its lease on standard input, and ends at an empty input, so that it does not outlive the daemon. It
    reports on standard output that it is ready.

    Args:
        command: Starts a process that waits for its job by `receive_lease`, and works on it.
        keep_ready: Whether to keep a process ready.
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
        """Start a process that gets ready, unless there is one.

        If one failed to get ready, no other is started: the next would fail too.
        """
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
        """Return whether a process is still loading: a job claimed now would wait for it, its lease not renewed."""
        if self._kept is None or self._is_ready or self._kept.poll() is not None:
            return False
        output = cast("IO[bytes]", self._kept.stdout)
        if select.select([output], [], [], 0)[0]:
            self._said += os.read(output.fileno(), 4096)
        if not self._is_ready and time.monotonic() - self._since > _LOAD_SECONDS:
            _log.warning("no process is kept ready for a job: loading takes more than %.0f s", _LOAD_SECONDS)
            self._wanted = False
            kill_group(self._kept)
            self.close()
        return self._kept is not None and not self._is_ready

    @property
    def _is_ready(self) -> bool:
        """Whether the kept process has reported that it is ready, after any other output."""
        return self._said.endswith(_READY)

    def start(self, lease: Lease) -> subprocess.Popen[bytes]:
        """Run the job of a lease in a process, as the leader of a new process group.

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
        """End the process that is ready, and its child processes."""
        if self._kept is not None:
            try:
                self._kept.communicate(timeout=_CLOSE_SECONDS)  # which closes its standard input
            except subprocess.TimeoutExpired:
                kill_group(self._kept)
                self._kept.communicate()
            self._kept = None

    def _start(self) -> subprocess.Popen[bytes]:
        # In a new session: Ctrl-C is for the daemon, which stops it.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the leader of a process group and its child processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def is_assigned() -> bool:
    """Return whether the daemon has already sent this process its lease, or has ended."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def receive_lease() -> Lease | None:
    """Report that this process is ready, and wait for its lease; None if the daemon has ended."""
    with contextlib.suppress(BrokenPipeError):  # the lease was sent before
        os.write(sys.stdout.fileno(), _READY)
    line = sys.stdin.read()
    return Lease(**json.loads(line)) if line else None


def _send_lease(process: subprocess.Popen[bytes], lease: Lease) -> subprocess.Popen[bytes]:
    with cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stdin) as stdin:
        stdin.write(json.dumps(dataclasses.asdict(lease)).encode())
    return process
