"""Domains of coordinates: ranges and choices, with or without a condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from anon_tune.documents import Strict, unknown

__all__ = ["Choice", "Domain", "Range", "Value", "shown"]


def _number_or_name(value: Any) -> float | str:
    if isinstance(value, bool):
        raise ValueError(f"expected a number or a name, found {value!r}; write {value:d} instead")
    if not isinstance(value, int | float | str):
        raise ValueError(f"expected a number or a name, found {value!r}")
    try:
        return float(value)  # YAML reads 1e-3 as text
    except OverflowError:
        raise ValueError("expected a smaller number") from None
    except ValueError:
        return str(value)


Value = Annotated[float | str, BeforeValidator(_number_or_name)]
"""A number, or the name of a family."""

Values = Annotated[tuple[Value, ...], Field(min_length=1)]


class _Conditional(Strict):
    """Base class of domains, which may depend on a parameter with choices; the subclasses document the attributes."""

    when: dict[str, Values] | None = Field(default=None, min_length=1)

    @field_validator("when", mode="before")
    @classmethod
    def _one_or_several(cls, when: Any) -> Any:
        """Accept `when: {delay_family: every}` as short for `when: {delay_family: [every]}`."""
        if not isinstance(when, Mapping):
            return when
        return {
            name: values if isinstance(values, list | tuple) else [values] for name, values in when.items()
        }

    @property
    def condition(self) -> str:
        """The condition in words, such as "delay_family is every"; empty without one."""
        return " and ".join(
            f"{name} is {' or '.join(map(shown, values))}" for name, values in (self.when or {}).items()
        )


class Range(_Conditional):
    """A closed interval, searched uniformly or, with `log`, uniformly in the logarithm.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether the logarithm is searched.
        integer: Whether the range has only whole numbers.
        when: Maps a parameter with choices to the values at which this coordinate exists; all conditions must hold.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(
                f"low ({self.low:g}) must be below high ({self.high:g}); a fixed value goes under `fixed`"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a log range cannot reach {self.low:g}; low must be above 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(
                f"low ({self.low:g}) and high ({self.high:g}) of an integer range must be whole numbers"
            )
        return self

    @property
    def size(self) -> float:
        """The number of values."""
        return self.high - self.low + 1 if self.integer else math.inf

    def at(self, u: float) -> float:
        """Return the value at a fraction of the range, u in [0, 1]."""
        value = self.low * (self.high / self.low) ** u if self.log else self.low + u * (self.high - self.low)
        return min(max(float(round(value)) if self.integer else value, self.low), self.high)

    def fraction(self, value: float) -> float:
        """Return the inverse of `at`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def text(self) -> str:
        """The domain in words, such as "1 to 100, whole, log"."""
        return (
            f"{self.low:g} to {self.high:g}{', whole' if self.integer else ''}{', log' if self.log else ''}"
        )

    def problem(self, value: Any) -> str | None:
        """Return the problem of a value, or None."""
        if isinstance(value, bool) or not isinstance(value, Real):
            return f"expected a number ({self.text}), found {value!r}"
        number = float(value)
        if not self.low <= number <= self.high:
            return f"{shown(number)} is outside {self.text}"
        if self.integer and not number.is_integer():
            return f"{shown(number)} is not a whole number; allowed: {self.text}"
        return None


class Choice(_Conditional):
    """A finite set of numbers or, for `delay_family`, names.

    Attributes:
        choices: The values.
        when: As in `Range`.
    """

    choices: tuple[Value, ...] = Field(min_length=2)

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[float | str, ...]) -> tuple[float | str, ...]:
        if len(set(choices)) != len(choices):
            raise ValueError("the same choice is listed twice")
        return choices

    @property
    def size(self) -> float:
        """The number of values."""
        return len(self.choices)

    def at(self, u: float) -> float | str:
        """Return the choice at a fraction of the list, u in [0, 1]."""
        return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]

    @property
    def text(self) -> str:
        """The domain in words, such as "2, 4, 8"."""
        return ", ".join(map(shown, self.choices))

    def problem(self, value: Any) -> str | None:
        """Return the problem of a value, or None."""
        if value in self.choices and not isinstance(value, bool):
            return None
        if isinstance(value, str):
            return unknown("choice", value, map(shown, self.choices))
        return f"{shown(value)} is not one of {self.text}"


def _kind(value: Any) -> str:
    """Return the tag of the intended domain, so that errors concern only that one."""
    chosen = isinstance(value, Choice) or (isinstance(value, Mapping) and "choices" in value)
    return "choice" if chosen else "range"


Domain = Annotated[Annotated[Range, Tag("range")] | Annotated[Choice, Tag("choice")], Discriminator(_kind)]


def shown(value: Any) -> str:
    """Return a value as a person would write it."""
    return f"{value:.8g}" if isinstance(value, float) else str(value)
