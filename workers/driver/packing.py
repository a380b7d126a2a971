"""Functions of a notebook or script as bytes, for the processes of its trials."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from anon_tune.errors import InputError

__all__ = ["packed"]


def packed(functions: Mapping[str, Callable[..., Any]]) -> bytes:
    """Return functions as bytes of cloudpickle, by their names in the job.

    Raises:
        InputError: A function uses a variable that cannot be sent to another process. The message names it.
    """
    from ray import cloudpickle

    try:
        found: bytes = cloudpickle.dumps(dict(functions))
    except Exception as error:
        for name, function in functions.items():
            for variable, value in _variables(function).items():
                if not _can_be_sent(value):
                    raise InputError(
                        f"{name} uses the variable {variable} ({type(value).__name__}), which cannot be sent to the "
                        "processes of the trials. Make it inside the function, or import it there from a module"
                    ) from error
        raise InputError(
            f"{', '.join(functions)} cannot be sent to the processes of the trials: {error}. Put the function into a "
            "module, and name it there"
        ) from error
    return found


def _variables(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the variables from outside that a function uses, by name."""
    try:
        used = inspect.getclosurevars(function)
    except (TypeError, ValueError):  # not a plain function, or a cell that is still empty
        return {}
    return {**used.globals, **used.nonlocals}


def _can_be_sent(value: object) -> bool:
    from ray import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001 - any error of any class's own pickling
        return False
    return True
