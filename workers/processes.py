"""The processes in which a daemon has jobs run: one is ready before there is a job for it."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
from collections.abc import Sequence
from typing import IO, TextIO, cast

from anon_tune.ledger import Lease

__all__ = ["JobProcesses", "told"]

_log = logging.getLogger(__name__)


class JobProcesses:
    """Starts a process for each job, and keeps one that has loaded what a job needs, which takes seconds.

    A process hears of its job by its standard input, and ends where that is empty: when the daemon has died, nothing
    waits for ever.

    Args:
        command: Starts a process that loads, reads its job by `told`, and works on it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._ready: subprocess.Popen[bytes] | None = None
        self._is_kept = True

    def prepare(self) -> None:
        """Have a process ready. One that ended by itself is not replaced: the next would end, too."""
        if self._ready is not None and self._ready.poll() is not None:
            _log.warning("the process kept ready for a job ended (exit code %d)", self._ready.returncode)
            self.close()
            self._is_kept = False
        if self._ready is None and self._is_kept:
            try:
                self._ready = self._start()
            except OSError as error:
                _log.warning("no process can be kept ready for a job: %s", error)
                self._is_kept = False

    def start(self, lease: Lease) -> subprocess.Popen[bytes]:
        """Have a process work under a lease, as the leader of a process group of its own.

        Raises:
            OSError: No process can be started.
        """
        ready, self._ready = self._ready, None
        if ready is not None:
            try:
                return _tell(ready, lease)
            except BrokenPipeError:
                ready.wait()
        return _tell(self._start(), lease)

    def close(self) -> None:
        """End the process that is ready."""
        if self._ready is not None:
            self._ready.kill()
            self._ready.communicate()
            self._ready = None

    def _start(self) -> subprocess.Popen[bytes]:
        # Of its own session: Ctrl-C is for the daemon, which tells it.
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)


def _tell(process: subprocess.Popen[bytes], lease: Lease) -> subprocess.Popen[bytes]:
    with cast("IO[bytes]", process.stdin) as stdin:
        stdin.write(json.dumps(dataclasses.asdict(lease)).encode())
    return process


def told(words: TextIO) -> Lease | None:
    """Wait for the lease under which this process is to work; None where there is no work any more."""
    line = words.read()
    return Lease(**json.loads(line)) if line else None
