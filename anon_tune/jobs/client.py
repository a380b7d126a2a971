"""`Client`: the jobs of a service, or of the ledger on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anon_tune.jobs.interface import Jobs
from anon_tune.settings import Settings

if TYPE_CHECKING:
    from anon_tune.jobs.service import ServiceJobs

__all__ = ["Client", "open_jobs", "open_service"]


def Client(server: str | None = None, token: str | None = None, patience: float = 30.0) -> Jobs:  # noqa: N802
    """Open the jobs of a service; without an address and without ANON_TUNE_SERVER, those of the ledger here.

    It is named like a class: callers use the interface `Jobs`, whichever class implements it.

    Args:
        server: Address of the service, such as "http://127.0.0.1:8000".
        token: Token to send. Default: ANON_TUNE_TOKEN; for the service of `anon-tune up` on this machine, the token
            in its home folder.
        patience: Seconds to wait for a service that has not answered yet. For a service that has answered before the
            wait is at least a minute.

    Raises:
        InputError: `server` is not an address, or a setting is invalid.
        DependencyError: The ledger cannot be opened.
    """
    return open_jobs(Settings.from_environment(), server, token, patience)


def open_jobs(
    settings: Settings, server: str | None = None, token: str | None = None, patience: float = 5.0
) -> Jobs:
    """Open jobs as `Client` does, with settings that have been read.

    Raises:
        InputError: `server` is not an address.
        DependencyError: The ledger cannot be opened.
    """
    server = server or settings.server
    if server is None:
        from anon_tune.jobs.ledger import LedgerJobs, open_ledger  # and SQLAlchemy

        return LedgerJobs(open_ledger(settings), settings)
    return open_service(settings, server, token, patience)


def open_service(
    settings: Settings, server: str, token: str | None = None, patience: float = 5.0
) -> ServiceJobs:
    """Open the jobs of a service. Raises InputError if `server` is not an address."""
    from anon_tune.jobs.service import ServiceJobs  # and an HTTP client
    from anon_tune.local_service import token_for

    if token is None and settings.token is not None:
        token = settings.token.get_secret_value()
    return ServiceJobs(server, token or token_for(settings, server), patience)
