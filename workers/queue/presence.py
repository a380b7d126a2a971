"""Presence of this process in the ledger's list of workers."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable

from anon_tune.errors import DependencyError
from anon_tune.ledger import HEARTBEAT_SECONDS, Ledger
from anon_tune.records import NewWorker

__all__ = ["Presence"]

_log = logging.getLogger(__name__)


class Presence:
    """Lists a worker in the ledger, as long as `keep` is called.

    Its heartbeats are for people to look at. If one fails, the worker goes on: its leases have their own.

    Args:
        ledger: Ledger that has the list.
        describe: Returns the description of the worker; called before the first heartbeat.
    """

    def __init__(self, ledger: Ledger, describe: Callable[[], NewWorker]) -> None:
        self._ledger, self._describe = ledger, describe
        self._worker: NewWorker | None = None
        self._sent = -math.inf
        self._failed = False

    def keep(self) -> bool:
        """Send a heartbeat if one is due. Return True, to be called again."""
        if time.monotonic() - self._sent < HEARTBEAT_SECONDS:
            return True
        self._sent = time.monotonic()
        if self._worker is None:
            self._worker = self._describe()
        try:
            self._ledger.workers.heartbeat(self._worker)
        except DependencyError as error:
            if not self._failed:
                _log.warning("the list of workers: %s", error)
            self._failed = True
        else:
            self._failed = False
        return True

    def end(self) -> None:
        """Remove the worker from the list; if that fails, it is lost after some heartbeats."""
        if self._worker is not None:
            with contextlib.suppress(DependencyError):
                self._ledger.workers.leave(self._worker.id)
