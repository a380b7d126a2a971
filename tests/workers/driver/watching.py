"""A lease that is renewed every 0.1 s, and what looks after its holder's main thread, as in a job's process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from anon_tune.ledger import Lease, Ledger
from anon_tune.workers.driver import job
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from anon_tune.workers.driver.shutdown_request import ShutdownRequest

PATIENCE = 60.0
LEASE_SECONDS = 0.5
LOOK_SECONDS = LEASE_SECONDS / job._LOOKS_PER_LEASE


class Watched:
    """A process's lease and its requests to stop."""

    def __init__(self, ledger: Ledger, lease: Lease, is_wanted: Callable[[], bool] = lambda: True) -> None:
        self.renewal = LeaseRenewal(ledger, lease)
        self.shutdown: ShutdownRequest = job._shutdown_request(self.renewal, is_wanted)

    @contextlib.contextmanager
    def running(self, signals: bool = True) -> Iterator[None]:
        """Renew the lease, and interrupt the block when it is to stop."""
        with (
            self.renewal.running(),
            self.shutdown.watching(LOOK_SECONDS),
            self.shutdown.signals() if signals else contextlib.nullcontext(),
        ):
            yield


def wait_for_the_interrupt(cause: Callable[[], object] = lambda: None) -> None:
    cause()
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        time.sleep(0.01)
    pytest.fail("nothing interrupted the work")
