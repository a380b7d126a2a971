"""Repeated calls while the ledger's database is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

from anon_tune.errors import DatabaseUnavailableError

__all__ = ["after", "retried"]

_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 1.0

_log = logging.getLogger(__name__)

T = TypeVar("T")


def retried(call: Callable[[bool], T], is_over: Callable[[], bool]) -> T:
    """Return `call(again)`, and repeat it while the database is unavailable.

    Args:
        call: Reads, or does one transaction. Its argument is whether an earlier call has failed: what that one wrote
            may have been stored all the same.
        is_over: Returns whether to give up.

    Raises:
        DatabaseUnavailableError: The error of the last call, once `is_over()` is true.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DatabaseUnavailableError),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
        stop=lambda _: is_over(),
        before_sleep=_log_first,
        reraise=True,
    )
    for attempt in attempts:
        with attempt:
            again = attempt.retry_state.attempt_number > 1
            result = call(again)
            if again:
                _log.info("the database is back after %.1f s", attempt.retry_state.seconds_since_start)
    return result


def after(seconds: float) -> Callable[[], bool]:
    """Return a function that returns whether so many seconds have passed since now."""
    limit = time.monotonic() + seconds
    return lambda: time.monotonic() > limit


def _log_first(state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        _log.warning("waiting for the database: %s", state.outcome.exception())
