"""Reports of a framework's own loop: names of metrics, units of the budget, and which evaluations count."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from anon_tune.workers.trial.context import Context

__all__ = ["Reports"]

_VALIDATION = re.compile(r"(?:val|valid|validation|eval)[_/.-](.+)")
_TEST = re.compile(r"test[_/.-](.+)")


class Reports:
    """Reports of one training.

    A report's step is the completed share of the training in units of `budget.epochs` or `budget.steps`, rounded
    down. The first evaluation of each unit counts, and an evaluation that repeats it after the training does nothing.

    Args:
        context: The trial.
        done: Last step of the trial before this attempt; 0 if it is new.
    """

    def __init__(self, context: Context, done: int) -> None:
        self._context = context
        self._last = done
        self._tested = False

    def is_new(self, share: Fraction) -> bool:
        """Return whether no evaluation of this unit was reported; `share` of the training is done, in [0, 1]."""
        return self._step(share) > self._last

    def validated(self, logged: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics to report: those of validation data without their prefix, and the training's.

        If the job's objective has such a prefix, as `valid_loss`, the metric that it means keeps that name.
        """
        metric = self._context.metric
        found = {name: value for name, value in logged.items() if not _is(_VALIDATION, name)}
        for name in sorted(filter(_VALIDATION.fullmatch, logged), key=lambda name: name == metric):
            base = _without(_VALIDATION, name)
            means_it = _is(_VALIDATION, metric) and base == _without(_VALIDATION, metric)
            found[metric if means_it else base] = logged[name]
        return found

    def report(self, share: Fraction, metrics: Mapping[str, Any], resumable: bool) -> None:
        """Report metrics if they are new. Raises as `Context.report_state`."""
        if self.is_new(share):
            self._last = self._step(share)
            self._context.report_state(self._last, metrics, resumable)

    def test(self, logged: Mapping[str, Any]) -> None:
        """Record the metrics of a test, in trials of the verdict: of the first one after the last report.

        Raises as `Context.test`.
        """
        if not logged or not self._context.tests or not self._last or self._tested:
            return
        self._tested = True
        metric, found = self._context.metric, dict[str, Any]()
        for name in sorted(logged, key=lambda name: _is(_TEST, name)):
            base = _without(_TEST, _without(_VALIDATION, name))
            found[metric if base == _without(_VALIDATION, metric) else base] = logged[name]
        self._context.test(**found)

    def _step(self, share: Fraction) -> int:
        return math.floor(self._context.length * share)


def _is(prefix: re.Pattern[str], name: str) -> bool:
    return prefix.fullmatch(name) is not None


def _without(prefix: re.Pattern[str], name: str) -> str:
    found = prefix.fullmatch(name)
    return name if found is None else found[1]
