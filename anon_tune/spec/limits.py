"""Limits of new jobs. Jobs that the ledger holds from versions without a limit are read as they are."""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from anon_tune.spec.places import origin_of
from anon_tune.texts import quoted

__all__ = ["LARGEST_SIZE", "LONGEST_COMMAND", "LONGEST_NAME", "MOST_ARMS", "AtMost", "too_many"]

MOST_ARMS = 32
"""Most arms of a job, and most search spaces of its own."""

LARGEST_SIZE = 10**9
"""Largest whole number among the options of a model or data set of the catalogue."""

LONGEST_NAME = 80
"""Most characters of a job's name, and of a metric's."""

LONGEST_COMMAND = 10_000
"""Most characters of a command."""


@dataclass(frozen=True)
class AtMost:
    """Largest value of a number in a new job, as an annotation of its key."""

    le: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any, info: ValidationInfo) -> Any:
        is_too_large = value is not None and self.le < value < math.inf  # infinity has a message of its own
        if is_too_large and not origin_of(info).stored:
            raise ValueError(f"expected at most {self.le:,}, found {quoted(value)}")
        return value


def too_many(key: str, items: Sized) -> str | None:
    """Return the problem of a list or mapping with more items than a job has arms; None if it has not."""
    if len(items) <= MOST_ARMS:
        return None
    return f"{key}: expected at most {MOST_ARMS}, found {len(items):,}; split the job"
