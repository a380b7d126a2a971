"""`Client`: the jobs of a service, or of the ledger on this machine."""

from __future__ import annotations

from anon_tune.jobs.interface import Jobs
from anon_tune.settings import Settings

__all__ = ["Client", "open_jobs"]


def Client(server: str | None = None, token: str | None = None, patience: float = 30.0) -> Jobs:  # noqa: N802
    """Open the jobs of a service; without an address and without ANON_TUNE_SERVER, those of the ledger here.

    It is named like a class: callers use the interface `Jobs`, whichever class implements it.

    Args:
        server: Address of the service, such as "http://127.0.0.1:8000".
        token: Token to send. Default: ANON_TUNE_TOKEN.
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
    from anon_tune.jobs.service import ServiceJobs  # and an HTTP client

    if token is None and settings.token is not None:
        token = settings.token.get_secret_value()
    return ServiceJobs(server, token, patience)
