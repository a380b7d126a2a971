"""Renewal of the lease on a job, and the heartbeat responses of the ledger."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from anon_tune.errors import LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import HeartbeatResponse
from anon_tune.workers.driver.periodic import repeating

__all__ = ["LeaseRenewal"]

_HEARTBEATS_PER_LEASE = 5

_log = logging.getLogger(__name__)


class LeaseRenewal:
    """Renews a lease from a thread of its own, and keeps the ledger's last response.

    Args:
        ledger: Ledger that stores the job.
        lease: The lease.
        response: The last response, if there was one.

    Attributes:
        response: The ledger's response to the last heartbeat.
        lost: Whether another process has the lease.
        unwritable: The error that kept the lease from being renewed before it ran out; None if there was none.
    """

    def __init__(self, ledger: Ledger, lease: Lease, response: HeartbeatResponse | None = None) -> None:
        self.response = response or HeartbeatResponse()
        self.lost = False
        self.unwritable: Exception | None = None
        self._ledger = ledger
        self._lease = lease
        self._renewed = time.monotonic()
        self._stopped = False

    @property
    def is_over(self) -> bool:
        """Whether this process may no longer hold the lease."""
        return self.lost or self.unwritable is not None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Renew the lease now, and regularly until the end of the block. Raises as `renew`."""
        self.renew()
        interval = self._lease.seconds / _HEARTBEATS_PER_LEASE
        with repeating(self._try_to_renew, interval, f"heartbeat-{self._lease.job}"):
            yield

    def stop(self) -> None:
        """Stop renewing the lease: it is released, or runs out."""
        self._stopped = True

    def renew(self) -> None:
        """Renew the lease once.

        Raises:
            LeaseLostError: Another process has it.
            DependencyError: The ledger cannot be written.
        """
        self.response = self._ledger.leases.heartbeat(self._lease)
        self._renewed = time.monotonic()

    def _try_to_renew(self) -> bool:
        """Renew the lease; return whether to continue."""
        if self._stopped:
            return False
        try:
            self.renew()
        except LeaseLostError:
            self.lost = True
        except Exception as error:  # noqa: BLE001 - without this thread nobody would renew the lease
            # Tolerable for a while: the lease lasts some more heartbeats, and writes are fenced.
            _log.warning("heartbeat of job %s: %s", self._lease.job, error)
            if time.monotonic() - self._renewed > self._lease.seconds:
                self.unwritable = error
        return not self.is_over
