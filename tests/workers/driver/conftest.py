"""A lease on a job for the tests of the driver's parts."""

from __future__ import annotations

import dataclasses

import pytest

from anon_tune.ledger import Lease, Ledger
from tests.workers.driver.watching import LEASE_SECONDS


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    """One that is renewed every 0.1 s."""
    job = ledger.jobs.create("x", {"budget": {"trials": 3}}, {}).id
    return dataclasses.replace(ledger.leases.acquire(job, "me", 60.0), seconds=LEASE_SECONDS)
