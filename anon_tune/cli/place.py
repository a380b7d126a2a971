"""The place that a command acts on: the ledger here, or the service that was chosen before the command."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anon_tune.backend import Backend
from anon_tune.errors import InputError
from anon_tune.settings import Settings

if TYPE_CHECKING:
    from anon_tune.local import LocalBackend

__all__ = ["chosen", "local_backend", "open_backend", "server_address", "settings_here"]


@dataclass
class _Chosen:
    """Options given before the command."""

    server: str | None = None
    at_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


chosen = _Chosen()


def server_address() -> str | None:
    """Address of the service whose jobs to act on; None: the ledger here has them."""
    return chosen.server or Settings.from_environment().server


def open_backend() -> Backend:
    """The jobs to act on, wherever they are."""
    settings = Settings.from_environment()
    server = chosen.server or settings.server
    if server is None:
        return local_backend(settings)
    from anon_tune.remote import RemoteBackend

    backend = RemoteBackend(server, settings.token.get_secret_value() if settings.token else None)
    chosen.at_exit.callback(backend.close)
    return backend


def local_backend(settings: Settings) -> LocalBackend:
    """The jobs of the ledger here."""
    from anon_tune.local import LocalBackend, open_ledger

    backend = LocalBackend(open_ledger(settings), settings)
    chosen.at_exit.callback(backend.close)
    return backend


def settings_here(command: str) -> Settings:
    """The settings, for a command that works on this machine alone."""
    if chosen.server is not None:
        raise InputError(f"`anon-tune {command}` works here, without --server.")
    return Settings.from_environment()
