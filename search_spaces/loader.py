"""The schema of a search space, and loading one by name or path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from anon_tune.documents import parse, read_yaml, unknown
from anon_tune.errors import SpecError

__all__ = ["COORDINATES", "FIXABLE", "Choice", "Range", "Space", "load_space", "space_names"]

_FOLDER = Path(__file__).parent

COORDINATES: Mapping[str, Mapping[str, str]] = {
    "anon": {
        "gamma": "adaptivity: 0 is SGD-like, 1 Adam-like",
        "step_size": "learning rate in units of a typical step; lr = step_size / V(gamma)",
        "beta3": "weight of the old preconditioner at a refresh",
        "delay": "base b of the refresh steps a_n = ceil(b^(n-1))",
        "decay": "weight decay in the same units; weight_decay = decay * V(gamma)",
    },
    "adamw": {
        "lr": "learning rate",
        "one_minus_beta2": "1 - beta2, on a log scale",
        "weight_decay": "decoupled weight decay",
    },
    "sgd": {"lr": "learning rate", "momentum": "momentum", "weight_decay": "coupled weight decay (L2)"},
}
"""What a sampler may search, per optimizer, with its meaning."""

FIXABLE: Mapping[str, Mapping[str, float]] = {
    "anon": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-16, "floor": 0.0},
    "adamw": {"beta1": 0.9, "eps": 1e-8},
    "sgd": {},
}
"""What a space may fix besides, per optimizer, with its default."""

_ALLOWED: Mapping[str, tuple[float, float]] = {
    "gamma": (-5.0, 5.0),
    "beta1": (0.0, 0.999999),
    "beta2": (0.0, 0.9999999),
    "beta3": (0.0, 0.999999),
    "momentum": (0.0, 0.999999),
    "delay": (1.0000001, 1e6),
    "one_minus_beta2": (1e-7, 1.0),
    "step_size": (1e-12, 1e6),
    "lr": (1e-12, 1e6),
}
"""Closed limits of a value; the others (decays, eps, floor) are only non-negative."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Strict):
    """A closed interval, searched uniformly or, with `log`, uniformly in the logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("low and high must be finite numbers")
        if self.low >= self.high:
            raise ValueError(
                f"low ({self.low:g}) must be below high ({self.high:g}); a fixed value goes under `fixed`"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a log range cannot reach {self.low:g}; low must be above 0")
        return self


class Choice(_Strict):
    """A finite set of numbers."""

    choices: tuple[float, ...] = Field(min_length=2)

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(choices)) != len(choices):
            raise ValueError("the same choice is listed twice")
        return choices


def _kind(value: Any) -> str:
    """Which of the two a domain is meant to be, so that only that one's problems are told."""
    chosen = isinstance(value, Choice) or (isinstance(value, Mapping) and "choices" in value)
    return "choice" if chosen else "range"


Domain = Annotated[Annotated[Range, Tag("range")] | Annotated[Choice, Tag("choice")], Discriminator(_kind)]


class Space(_Strict):
    """What one arm searches.

    Attributes:
        optimizer: "anon", "adamw" or "sgd".
        summary: One line for `anon-tune spaces`.
        parameters: Search coordinates and their ranges.
        fixed: Coordinates and other optimizer arguments held at one value.
    """

    optimizer: Literal["anon", "adamw", "sgd"]
    summary: str
    parameters: dict[str, Domain] = Field(min_length=1)
    fixed: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        coordinates, fixable = COORDINATES[self.optimizer], FIXABLE[self.optimizer]
        problems = [
            f"parameters.{name}: {unknown('coordinate', name, coordinates)}"
            for name in self.parameters
            if name not in coordinates
        ]
        problems += [
            f"fixed.{name}: {unknown('argument', name, [*coordinates, *fixable])}"
            for name in self.fixed
            if name not in coordinates and name not in fixable
        ]
        problems += [
            f"{name}: is in neither `parameters` nor `fixed`"
            for name in coordinates
            if name not in self.parameters and name not in self.fixed
        ]
        problems += [
            f"{name}: is in both `parameters` and `fixed`" for name in self.parameters.keys() & self.fixed
        ]
        for name, domain in self.parameters.items():
            values = domain.choices if isinstance(domain, Choice) else (domain.low, domain.high)
            problems += [f"parameters.{name}: {p}" for value in values if (p := _outside(name, value))]
        problems += [
            f"fixed.{name}: {p}" for name, value in self.fixed.items() if (p := _outside(name, value))
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def configurations(self) -> float:
        """How many configurations there are; infinitely many with a range."""
        domains = self.parameters.values()
        return math.prod(len(d.choices) if isinstance(d, Choice) else math.inf for d in domains)

    def constant(self, name: str) -> float:
        """The value of an argument that this space does not search."""
        return self.fixed.get(name, FIXABLE[self.optimizer].get(name, math.nan))


def _outside(name: str, value: float) -> str | None:
    low, high = _ALLOWED.get(name, (0.0, math.inf))
    allowed = low <= value <= high and math.isfinite(value)
    return None if allowed else f"{value:g} is outside the allowed {low:g} to {high:g}"


def space_names() -> list[str]:
    """Names of the spaces that come with anon_tune."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_space(name: str) -> Space:
    """Return a space by name, or from a file if `name` ends in .yaml or .yml.

    Raises:
        SpecError: The name is unknown, or the file is wrong; says which key and what is allowed.
        NotFoundError: There is no such file.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
    elif name in space_names():
        path = _FOLDER / f"{name}.yaml"
    else:
        raise SpecError("space", [f"{unknown('space', name, space_names())}, or the path of a .yaml file"])
    data: dict[str, Any] = read_yaml(path)
    return parse(Space, data, str(path))
