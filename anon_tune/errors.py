"""Every error that anon_tune raises on purpose, with its exit code and HTTP status.

::

    AnonTuneError                          exit 1   500
    ├── InputError (ValueError)            exit 2   422   invalid user input
    │   ├── HyperparameterError            exit 2   422   an optimizer argument out of its range
    │   └── SpecError                      exit 2   422   a job file or search space, with the key's path
    ├── NotFoundError (LookupError)        exit 3   404   no such job, trial, file
    ├── ConflictError                      exit 4   409   the current state does not allow it
    │   ├── TransitionError                exit 4   409   a state that cannot follow another
    │   └── LeaseHeldError                 exit 4   409   another live process works on this job
    ├── LeaseLostError                     exit 5   409   another process has taken over; this one must stop
    └── DependencyError                    exit 6   503   a library, server or device is not available
        └── DatabaseUnavailableError       exit 6   503   the ledger's database is away for the moment

Each message says what is wrong and what to do next.
"""

from __future__ import annotations

__all__ = [
    "AnonTuneError",
    "ConflictError",
    "DatabaseUnavailableError",
    "DependencyError",
    "HyperparameterError",
    "InputError",
    "LeaseHeldError",
    "LeaseLostError",
    "NotFoundError",
    "SpecError",
    "TransitionError",
]


class AnonTuneError(Exception):
    """Base class of all errors, with the command line's `exit_code` and the service's `http_status`."""

    exit_code = 1
    http_status = 500


class InputError(AnonTuneError, ValueError):
    """Invalid user input."""

    exit_code = 2
    http_status = 422


class HyperparameterError(InputError):
    """An optimizer argument outside its range."""


class SpecError(InputError):
    """A document (job file, search space) with an invalid key or value.

    Attributes:
        problems: One line per problem: the key's path, what is wrong, what is allowed.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(problems))


class NotFoundError(AnonTuneError, LookupError):
    """Something named does not exist."""

    exit_code = 3
    http_status = 404


class ConflictError(AnonTuneError):
    """The current state does not allow the request."""

    exit_code = 4
    http_status = 409


class TransitionError(ConflictError):
    """A transition between two states that is not allowed."""


class LeaseHeldError(ConflictError):
    """A live process holds this job."""


class LeaseLostError(AnonTuneError):
    """Another process has taken this job over; nothing of this write was stored."""

    exit_code = 5
    http_status = 409


class DependencyError(AnonTuneError):
    """A library, server or device that the work needs is not available."""

    exit_code = 6
    http_status = 503


class DatabaseUnavailableError(DependencyError):
    """The ledger's database cannot be reached, does not answer or is locked; trying again may help."""
