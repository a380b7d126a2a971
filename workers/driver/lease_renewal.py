"""Renewal of the lease on a job, and the heartbeat responses of the ledger."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from anon_tune.errors import DatabaseUnavailableError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import HeartbeatResponse
from anon_tune.workers.driver.periodic import repeating

__all__ = ["LeaseRenewal"]

_HEARTBEATS_PER_LEASE = 5
_LOOKS_PER_LEASE = 30

_log = logging.getLogger(__name__)


class LeaseRenewal:
    """Renews a lease from a thread of its own, and keeps the ledger's last response.

    Another thread, which never waits for the database, notices that the lease has run out.

    Args:
        ledger: Ledger that stores the job.
        lease: The lease.
        response: The last response, if there was one.

    Attributes:
        response: The ledger's response to the last heartbeat.
        lost: Whether another process has the lease.
        expired: The error for a lease that has run out without a renewal; None if it has not.
    """

    def __init__(self, ledger: Ledger, lease: Lease, response: HeartbeatResponse | None = None) -> None:
        self.response = response or HeartbeatResponse()
        self.lost = False
        self.expired: Exception | None = None
        self._ledger = ledger
        self._lease = lease
        self._looks = 0
        self._failure: Exception | None = None
        self._stopped = False

    @property
    def is_over(self) -> bool:
        """Whether this process may no longer hold the lease."""
        return self.lost or self.expired is not None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Renew the lease now, and regularly until the end of the block. Raises as `renew`."""
        self.renew()
        seconds, job = self._lease.seconds, self._lease.job
        with (
            repeating(self._try_to_renew, seconds / _HEARTBEATS_PER_LEASE, f"heartbeat-{job}"),
            repeating(self._look, seconds / _LOOKS_PER_LEASE, f"lease-{job}"),
        ):
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
        self._looks, self._failure = 0, None

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
            self._failure = error
        return not self.is_over

    def _look(self) -> bool:
        """Notice that the lease has run out; return whether to continue.

        This counts looks instead of seconds: a process that was suspended first tries to renew its lease.
        """
        self._looks += 1
        if self._looks > _LOOKS_PER_LEASE and not self._stopped:
            self.expired = self._failure or DatabaseUnavailableError(
                f"The lease on job {self._lease.job} could not be renewed for {self._lease.seconds:g} s: the "
                "ledger's database does not answer. Check that its server is running."
            )
        return not self.is_over
