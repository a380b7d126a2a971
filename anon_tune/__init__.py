"""Hyperparameter tuning for the Anon optimizer: which optimizer, and how adaptive, for my model?

The public names below, but for the errors, are loaded when they are first used, so that `import anon_tune` stays fast
and needs neither torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anon_tune.errors import (
    AnonTuneError,
    ConflictError,
    DatabaseUnavailableError,
    DependencyError,
    HyperparameterError,
    InputError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    QuotaError,
    SpecError,
    TransitionError,
)

if TYPE_CHECKING:
    from anon_tune.api import tune
    from anon_tune.jobs.client import Client
    from anon_tune.jobs.interface import Jobs, Result
    from anon_tune.optim import Anon, load_optimizer
    from anon_tune.script import trial
    from anon_tune.workers.trial.context import Context, TrialStopped

__all__ = [
    "Anon",
    "AnonTuneError",
    "Client",
    "ConflictError",
    "Context",
    "DatabaseUnavailableError",
    "DependencyError",
    "HyperparameterError",
    "InputError",
    "Jobs",
    "LeaseHeldError",
    "LeaseLostError",
    "NotFoundError",
    "QuotaError",
    "Result",
    "SpecError",
    "TransitionError",
    "TrialStopped",
    "__version__",
    "load_optimizer",
    "trial",
    "tune",
]

__version__ = "0.1.0"

_HOME_OF = {
    "Anon": "anon_tune.optim",
    "Client": "anon_tune.jobs.client",
    "Jobs": "anon_tune.jobs.interface",
    "Result": "anon_tune.jobs.interface",
    "tune": "anon_tune.api",
    "Context": "anon_tune.workers.trial.context",
    "TrialStopped": "anon_tune.workers.trial.context",
    "load_optimizer": "anon_tune.optim",
    "trial": "anon_tune.script",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'anon_tune' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    except ModuleNotFoundError as error:
        raise _explained(name, error) from error


def _explained(name: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error that says what to install for one of the public names."""
    advice = "pip install torch" if error.name == "torch" else "pip install anon_tune"
    message = f"anon_tune.{name} needs {error.name}, which is not installed. Run `{advice}`."
    return ModuleNotFoundError(message, name=error.name, path=error.path)


def __dir__() -> list[str]:
    return sorted(__all__)
