"""Place that a command acts on: the ledger on this machine, or the service given with `--server`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anon_tune.errors import InputError
from anon_tune.settings import Settings

if TYPE_CHECKING:
    from anon_tune.jobs.interface import Jobs
    from anon_tune.jobs.ledger import LedgerJobs

__all__ = ["chosen", "ledger_jobs", "open_jobs", "server_address", "settings_here"]


@dataclass
class _Chosen:
    """Options given before the command, and the settings, which are read on first use."""

    server: str | None = None
    at_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _settings: Settings | None = None

    def begin(self, server: str | None, at_exit: contextlib.ExitStack) -> None:
        """Begin a command with these options."""
        self.server, self.at_exit, self._settings = server, at_exit, None

    @property
    def settings(self) -> Settings:
        """Settings of this command. Raises InputError if one is invalid."""
        if self._settings is None:
            self._settings = Settings.from_environment()
        return self._settings


chosen = _Chosen()


def server_address() -> str | None:
    """Return the address of the service to use; None for the ledger on this machine."""
    return chosen.server or chosen.settings.server


def open_jobs() -> Jobs:
    """Open the jobs of the service or of the ledger, until the command ends."""
    from anon_tune.jobs import client  # loads the database's or the service's modules

    jobs = client.open_jobs(chosen.settings, chosen.server)
    chosen.at_exit.callback(jobs.close)
    return jobs


def ledger_jobs(settings: Settings) -> LedgerJobs:
    """Open the jobs of the ledger on this machine, until the command ends."""
    from anon_tune.jobs.ledger import LedgerJobs, open_ledger

    jobs = LedgerJobs(open_ledger(settings), settings)
    chosen.at_exit.callback(jobs.close)
    return jobs


def settings_here(command: str) -> Settings:
    """Return the settings, for a command that only works on this machine. Raises InputError with `--server`."""
    if chosen.server is not None:
        raise InputError(f"`anon-tune {command}` only works on this machine. Call it without --server.")
    return chosen.settings
