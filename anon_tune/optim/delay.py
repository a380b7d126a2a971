"""The refresh steps a_1 < a_2 < ... of the incremental delay update, as a small value.

The multiplier is recomputed at these steps only (paper, arXiv 2605.02317: "IDU"). Every family starts at
a_1 = 1, because there is no multiplier to use before the first refresh.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

from anon_tune.errors import HyperparameterError

__all__ = ["Delay", "DelayLike"]

DelayLike: TypeAlias = "float | str | Sequence[int] | Delay"
"""A delay as a user may write it: `2.0`, `"geometric:2"`, `"polynomial:2"`, `"every:10"`, `[1, 3, 9]`. Numbers and
arrays of NumPy and torch are accepted too."""

_FAMILIES = {
    "geometric": "a_n = ceil(b^(n-1)), with a base b > 1",
    "polynomial": "a_n = ceil(n^p), with a power p >= 1",
    "every": "a_n = 1 + k(n-1), with a whole k >= 1",
    "steps": "the listed steps: rising whole numbers from 1; after the last one the multiplier stays",
}


_ROUNDING = 1e-6
"""Far more than the relative error of a power."""

_NEVER = 2**63
"""Stands for refresh steps that are too large for a float, such as the second of `polynomial:2000`."""


@dataclass(frozen=True, slots=True)
class Delay:
    """A sequence of refresh steps.

    Attributes:
        family: `geometric`, `polynomial`, `every` or `steps`.
        parameter: The base b, the power p or the period k; 0 for `steps`.
        steps: The listed steps; empty for the other families.

    Raises:
        HyperparameterError: The parameter is out of its family's range.
    """

    family: str
    parameter: float = 0.0
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self._valid():
            allowed = "; ".join(f"{name}: {rule}" for name, rule in _FAMILIES.items())
            given = self.steps or self.parameter
            raise HyperparameterError(f"delay {self.family} of {given} is not allowed; use {allowed}")

    def _valid(self) -> bool:
        match self.family:
            case "geometric":
                return 1.0 < self.parameter < math.inf
            case "polynomial":
                return 1.0 <= self.parameter < math.inf
            case "every":
                return 1.0 <= self.parameter < math.inf and self.parameter == int(self.parameter)
            case "steps":
                rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
                return rising and self.steps[:1] == (1,)
            case _:
                return False

    @classmethod
    def parse(cls, value: DelayLike) -> Delay:
        """Read a delay; `Delay.parse(str(delay)) == delay`.

        Args:
            value: A base b > 1 of the geometric family, `"family:parameter"`, or the rising steps themselves.

        Raises:
            HyperparameterError: The value is none of these.
        """
        if isinstance(value, Delay):
            return value
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, Sequence) and not isinstance(value, str):
            return _listed(tuple(map(_whole_number, value)))
        return _parse(value)

    def __str__(self) -> str:
        if self.family == "steps":
            return "steps:" + ",".join(map(str, self.steps))
        return f"{self.family}:{self.parameter:g}" if self._is_short else f"{self.family}:{self.parameter!r}"

    @property
    def _is_short(self) -> bool:
        return float(f"{self.parameter:g}") == self.parameter

    def is_refresh(self, t: int) -> bool:
        """Whether step t (counted from 1) is one of the a_n."""
        return self.at_or_before(t) == t

    def at_or_before(self, t: int) -> int:
        """Return the largest a_n <= t, or a_0 = 0 if t < 1."""
        return self._value(self._index(t)) if t >= 1 else 0

    def next_after(self, t: int) -> int | None:
        """Return the smallest a_n > t, or None if there is none: after the end of a list, or from 2^63 on."""
        if t < 1:
            return 1
        index = self._index(t) + 1
        if self.family == "steps" and index >= len(self.steps):
            return None
        value = self._value(index)
        return value if value < _NEVER else None

    def window(self, t: int) -> int:
        """Return the window a_n - a_(n-1) of a refresh at t = a_n, with a_0 = 0; 0 if t is not a refresh step."""
        return t - self.at_or_before(t - 1) if self.is_refresh(t) else 0

    def count(self, t: int) -> int:
        """Return the number of refreshes in the steps 1..t."""
        if t < 1:
            return 0
        index = self._index(t)
        if self.family != "geometric":
            return index + 1
        # A base below 2 repeats whole numbers at the start. Powers below 1/(b-1) are less than 1 apart and hit every
        # whole number; powers above it hit none twice. Only those at the border are computed.
        border = 1.0 / (self.parameter - 1.0)
        low = self._index(max(1, min(t, math.floor(border * (1.0 - _ROUNDING)))))
        high = self._index(min(t, math.ceil(border * (1.0 + _ROUNDING))))
        between = {self._value(n) for n in range(low, high + 1)}
        return self._value(low) - 1 + len(between) + index - high

    def _value(self, index: int) -> int:
        """Return a_(index+1), including repeats of the geometric family."""
        match self.family:
            case "geometric":
                return _power(self.parameter, index)
            case "polynomial":
                return _power(index + 1, self.parameter)
            case "every":
                return 1 + int(self.parameter) * index
            case _:
                return self.steps[index]

    def _index(self, t: int) -> int:
        """Return the largest index with a value <= t, for t >= 1."""
        match self.family:
            case "steps":
                return bisect.bisect_right(self.steps, t) - 1
            case "every":
                return (t - 1) // int(self.parameter)
            case "geometric":
                guess = math.floor(math.log(t) / math.log(self.parameter))
            case _:
                guess = math.floor(t ** (1.0 / self.parameter)) - 1
        # The logarithm may be off by one at exact powers; the values themselves decide.
        while guess > 0 and self._value(guess) > t:
            guess -= 1
        while self._value(guess + 1) <= t:
            guess += 1
        return guess


def _power(base: float, exponent: float) -> int:
    try:
        return math.ceil(math.pow(base, exponent))
    except OverflowError:
        return _NEVER


def _whole_number(step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, Integral):
        raise HyperparameterError(f"delay: the steps must be whole numbers, such as [1, 3, 9], not {step!r}")
    return int(step)


@functools.lru_cache(maxsize=256)
def _listed(steps: tuple[int, ...]) -> Delay:
    return Delay("steps", steps=steps)


@functools.lru_cache(maxsize=256)
def _parse(value: float | str) -> Delay:
    if isinstance(value, str):
        family, colon, rest = value.strip().partition(":")
        try:
            if family == "steps":
                return Delay("steps", steps=tuple(int(step) for step in rest.split(",")))
            return Delay(family.strip(), float(rest)) if colon else Delay("geometric", float(family))
        except ValueError as error:
            if isinstance(error, HyperparameterError):
                raise
            raise HyperparameterError(
                f"invalid delay {value!r}; write a base such as 2.0, or "
                '"geometric:2", "polynomial:2", "every:10", "steps:1,3,9"'
            ) from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise HyperparameterError(
            f"delay must be a number, a string or a list of steps, not {type(value).__name__}"
        )
    return Delay("geometric", float(value))
