"""The schema of a search space, and loading of a space by name or path."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from anon_tune.documents import ProblemsError, Strict, is_function, parse, read_text, unknown, yaml_mapping
from anon_tune.errors import SpecError
from anon_tune.search_spaces.domains import Choice, Domain, Range, Value, shown
from anon_tune.texts import cut

__all__ = [
    "COORDINATES",
    "DEFAULTS",
    "DELAYS",
    "FIXABLE",
    "Space",
    "load_space",
    "new_space",
    "space_names",
    "space_text",
]

_FOLDER = Path(__file__).parent
_MOST_PARTS = 1000
_LONGEST_SUMMARY = 500
_MOST_NAMES, _MOST_VALUES, _MOST_POINTS = 100, 256, 1000
"""Most parameters, and fixed arguments, of a new space; values of a choice or condition; and start points."""

_EVERY_FAMILY = "default"
_AT_BOUND = 1e-6
"""Distance from the end of a range, as a share of it, within which a value counts as at the end."""

COORDINATES: Mapping[str, Mapping[str, str]] = {
    "anon": {
        "gamma": "adaptivity: 0 is SGD-like, 1 Adam-like",
        "step_size": "learning rate in units of a typical step; lr = step_size / V(gamma)",
        "beta3": "weight of the old preconditioner at a refresh",
        "delay_family": "family of the refresh steps a_n",
        "delay": "base b of the geometric family, a_n = ceil(b^(n-1))",
        "delay_power": "power p of the polynomial family, a_n = ceil(n^p)",
        "delay_period": "period k of the family every, a_n = 1 + k(n-1)",
        "decay": "weight decay in the same units; weight_decay = decay * V(gamma)",
    },
    "adamw": {
        "lr": "learning rate",
        "one_minus_beta2": "1 - beta2, on a log scale",
        "weight_decay": "decoupled weight decay",
    },
    "sgd": {"lr": "learning rate", "momentum": "momentum", "weight_decay": "coupled weight decay (L2)"},
}
"""Coordinates that a sampler may search, by optimizer, with meanings. A user's factory has its own names."""

FIXABLE: Mapping[str, Mapping[str, str]] = {
    "anon": {
        "beta1": "weight of the old average of gradients",
        "beta2": "weight of the old second moment within a window",
        "eps": "added to the second moment",
        "floor": "share of the tensor's mean second moment that is added to it; 0 in the paper",
    },
    "adamw": {
        "beta1": "weight of the old average of gradients",
        "eps": "added to the root of the second moment",
    },
    "sgd": {},
}
"""Further arguments that a space may fix, per optimizer, with their meanings."""

DEFAULTS: Mapping[str, Mapping[str, float | str]] = {
    "anon": {
        "beta1": 0.9,
        "beta2": 0.999,
        "beta3": 0.5,
        "delay_family": "geometric",
        "delay": 2.0,
        "delay_power": 2.0,
        "delay_period": 10.0,
        "decay": 0.0,
        "eps": 1e-16,
        "floor": 0.0,
    },
    "adamw": {"beta1": 0.9, "one_minus_beta2": 0.001, "eps": 1e-8, "weight_decay": 0.01},
    "sgd": {"momentum": 0.0, "weight_decay": 0.0},
}
"""The optimizer's defaults, for arguments that no space names and for coordinates whose condition fails.

Every configuration needs all other coordinates.
"""

DELAYS: Mapping[str, str] = {"geometric": "delay", "polynomial": "delay_power", "every": "delay_period"}
"""The families of a_n, with the coordinate of each."""

_ALLOWED: Mapping[str, tuple[float, float]] = {
    "gamma": (-5.0, 5.0),
    "beta1": (0.0, 0.999999),
    "beta2": (0.0, 0.9999999),
    "beta3": (0.0, 0.999999),
    "momentum": (0.0, 0.999999),
    "delay": (1.01, 1e6),  # closer to 1 it is the same as every:1
    "delay_power": (1.0, 10.0),
    "delay_period": (1.0, 1e6),
    "one_minus_beta2": (1e-7, 1.0),
    "step_size": (1e-12, 1e6),
    "lr": (1e-12, 1e6),
}
"""Closed limits of a value; the others (decays, eps, floor) are only non-negative."""


class Space(Strict):
    """Search space of one arm.

    Attributes:
        optimizer: "anon", "adamw" or "sgd"; or the user's factory ("module:function"), which gets the parameters and
            fixed values as keyword arguments.
        summary: One line for `anon-tune spaces`.
        parameters: Search coordinates and their ranges.
        fixed: Coordinates and other optimizer arguments with a fixed value.
        start: Start points by architecture family, with "default" for families without their own. A list is for all
            families. Coordinates that a point omits are filled in.
    """

    optimizer: str
    summary: str
    parameters: dict[str, Domain] = Field(min_length=1)
    fixed: dict[str, Value] = Field(default_factory=dict)
    start: dict[str, tuple[dict[str, Value], ...]] = Field(default_factory=dict)

    @field_validator("start", mode="before")
    @classmethod
    def _points_of_every_family(cls, value: Any) -> Any:
        return {_EVERY_FAMILY: value} if isinstance(value, list | tuple) else value

    @field_validator("optimizer")
    @classmethod
    def _optimizer_exists(cls, name: str) -> str:
        if name not in COORDINATES and not is_function(name):
            raise ValueError(
                f"{unknown('optimizer', name, COORDINATES)}, or your own factory, module:function"
            )
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        parts = math.prod(float(domain.size) for domain in self._parents().values())
        if parts > _MOST_PARTS:  # each part is checked
            raise ValueError(
                f"`when` divides the space into {parts:g} parts; at most {_MOST_PARTS} are allowed"
            )
        error = ProblemsError(self._problems())
        if not error.problems:  # the points refer to the parameters
            error = ProblemsError(self._start_problems())
        if error.problems:
            raise error
        return self

    def _problems(self) -> Iterator[str]:
        yield from self._name_problems()
        yield from self._value_problems()
        yield from self._condition_problems()
        if self.optimizer == "anon":
            yield from self._delay_problems()

    def _name_problems(self) -> Iterator[str]:
        for name in self.fixed:
            if name in self.parameters:
                yield f"{name}: is in both `parameters` and `fixed`"
        if self.of_factory:  # the names are checked when the factory is called
            for name in (*self.parameters, *self.fixed):
                if not name.isidentifier():
                    yield f"{name!r}: is not a valid keyword argument"
            return
        coordinates, fixable = COORDINATES[self.optimizer], FIXABLE[self.optimizer]
        for name in self.parameters:
            if name not in coordinates:
                yield f"parameters.{name}: {unknown('coordinate', name, coordinates)}"
        for name in self.fixed:
            if name not in coordinates and name not in fixable:
                yield f"fixed.{name}: {unknown('argument', name, [*coordinates, *fixable])}"
        optional = {"delay_family", *DELAYS.values()}
        for name in coordinates:
            if name not in self.parameters and name not in self.fixed and name not in optional:
                yield f"{name}: is in neither `parameters` nor `fixed`"

    def _value_problems(self) -> Iterator[str]:
        wrong = _infinite if self.of_factory else _wrong
        for name, value in self.fixed.items():
            if problem := wrong(name, value):
                yield f"fixed.{name}: {problem}"
        for name, domain in self.parameters.items():
            if isinstance(domain, Choice):
                values = domain.choices
            elif self.of_factory:
                values = (domain.low, domain.high)
            elif name == "delay_family":
                yield f"parameters.{name}: expected `choices` among {', '.join(DELAYS)}; found a range"
                continue
            elif name == "delay_period" and not domain.integer:
                yield f"parameters.{name}: is counted in steps; add integer: true"
                continue
            else:
                values = (domain.low, domain.high)
            for value in values:
                if problem := wrong(name, value):
                    yield f"parameters.{name}: {problem}"

    def _condition_problems(self) -> Iterator[str]:
        needed = COORDINATES.get(self.optimizer, {}).keys() - self._defaults.keys()
        for name, domain in self.parameters.items():
            if domain.when and name in needed:
                yield f"parameters.{name}.when: every configuration needs {name}; remove the condition"
            for parent, values in (domain.when or {}).items():
                for problem in self._parent_problems(name, parent, values):
                    yield f"parameters.{name}.when.{parent}: {problem}"

    def _parent_problems(self, name: str, parent: str, values: tuple[float | str, ...]) -> Iterator[str]:
        domain = self.parameters.get(parent)
        if parent == name:
            yield "a parameter cannot depend on itself"
        elif parent in self.fixed:
            yield "is fixed; a condition needs a parameter with choices"
        elif domain is None:
            yield unknown("parameter", parent, self.parameters)
        elif isinstance(domain, Range):
            yield f"is a range ({domain.text}); a condition needs a parameter with choices"
        elif domain.when:
            yield "has a condition itself; conditions go one level deep"
        else:
            yield from (problem for value in values if (problem := domain.problem(value)))

    def _delay_problems(self) -> Iterator[str]:
        searched = self.parameters.get("delay_family")
        families = searched.choices if isinstance(searched, Choice) else (self.constant("delay_family"),)
        for family, name in DELAYS.items():
            domain = self.parameters.get(name)
            given = domain is not None or name in self.fixed
            if family in families and not given:
                yield f"{name}: is in neither `parameters` nor `fixed`, and delay_family can be {family}"
            elif given and family not in families:
                yield (
                    f"{name}: belongs to delay_family {family}, which is not in this space; "
                    "remove one or add the other"
                )
            elif searched and domain and (domain.when or {}).get("delay_family") != (family,):
                yield (
                    f"parameters.{name}.when: delay_family is searched, so this must have "
                    f"when: {{delay_family: {family}}}"
                )

    def _start_problems(self) -> Iterator[str]:
        for family, points in self.start.items():
            for index, point in enumerate(points):
                yield from (f"start.{family}.{index}.{problem}" for problem in self.problems_of(point))

    def for_family(self, family: str) -> Space:
        """Return the space with the start points of one architecture family only."""
        points = self.start.get(family, self.start_points)
        return self.model_copy(update={"start": {_EVERY_FAMILY: points} if points else {}})

    @property
    def start_points(self) -> tuple[dict[str, Value], ...]:
        """The start points for families without their own."""
        return self.start.get(_EVERY_FAMILY, ())

    @property
    def of_factory(self) -> bool:
        """Whether the user's function makes the optimizer."""
        return is_function(self.optimizer)

    @property
    def meanings(self) -> Mapping[str, str]:
        """The meaning of each argument, in the order to show them; empty for a user's own factory."""
        if self.of_factory:
            return dict.fromkeys((*self.parameters, *self.fixed), "")
        return {**COORDINATES[self.optimizer], **FIXABLE[self.optimizer]}

    @property
    def _defaults(self) -> Mapping[str, float | str]:
        return DEFAULTS.get(self.optimizer, {})

    @property
    def is_conditional(self) -> bool:
        """Whether some coordinate exists in only a part of the configurations."""
        return any(domain.when for domain in self.parameters.values())

    @property
    def configurations(self) -> float:
        """The number of configurations; infinite with a range of real numbers."""
        return sum(
            math.prod(
                float(domain.size) for name, domain in self.parameters.items() if self._free(name, point)
            )
            for point in self._conditions()
        )

    def points(self) -> Iterator[dict[str, float | str]]:
        """Yield every configuration of a finite space; nothing for an infinite one."""
        if math.isinf(self.configurations):
            return
        for point in self._conditions():
            free = {
                name: domain.choices
                if isinstance(domain, Choice)
                else tuple(map(float, range(int(domain.low), int(domain.high) + 1)))
                for name, domain in self.parameters.items()
                if self._free(name, point)
            }
            for values in itertools.product(*free.values()):
                yield {**point, **dict(zip(free, values, strict=True))}

    def on_grid(self, levels: int) -> Space:
        """Return the space with each range replaced by `levels` of its values, including both ends."""
        coarse = {
            name: Choice(
                choices=tuple(dict.fromkeys(domain.at(i / (levels - 1)) for i in range(levels))),
                when=domain.when,
            )
            if isinstance(domain, Range)
            else domain
            for name, domain in self.parameters.items()
        }
        return self.model_copy(update={"parameters": coarse})

    def complete(self, unit: Sequence[float], point: Mapping[str, float | str]) -> dict[str, float | str]:
        """Return `point` as a full configuration, with missing coordinates at these fractions of their ranges."""
        params = dict(point)
        places = list(zip(self.parameters.items(), unit, strict=True))
        # Those without a condition first: the others depend on them.
        for (name, domain), u in sorted(places, key=lambda place: bool(place[0][1].when)):
            if name not in params and self.active(name, params):
                params[name] = domain.at(u)
        return params

    def middles(self) -> Iterator[dict[str, float | str]]:
        """Yield the middle of the space, or of each of its parts if conditions divide it."""
        for point in self._conditions():
            yield self.complete([0.5] * len(self.parameters), point)

    def _conditions(self) -> Iterator[dict[str, float | str]]:
        """Yield every point of the parameters that others depend on."""
        parents = self._parents()
        for values in itertools.product(*(domain.choices for domain in parents.values())):
            yield dict(zip(parents, values, strict=True))

    def _parents(self) -> dict[str, Choice]:
        """Return the parameters that others depend on."""
        conditions = {parent for domain in self.parameters.values() for parent in domain.when or {}}
        return {
            name: domain
            for name, domain in self.parameters.items()
            if name in conditions and isinstance(domain, Choice)
        }

    def _free(self, name: str, point: Mapping[str, float | str]) -> bool:
        """Whether a coordinate exists at these params and the point does not set it."""
        return name not in point and self.active(name, point)

    def active(self, name: str, params: Mapping[str, Any]) -> bool:
        """Whether a searched coordinate exists at these params."""
        domain = self.parameters.get(name)
        return domain is not None and all(
            params.get(parent) in values for parent, values in (domain.when or {}).items()
        )

    def unit(self, params: Mapping[str, Any]) -> list[float]:
        """Return a point's place in the unit cube: a number in [0, 1] for each range, and one for each choice.

        A coordinate that does not exist at the point is in the middle.
        """
        place: list[float] = []
        for name, domain in self.parameters.items():
            if isinstance(domain, Choice):
                place += [float(params.get(name) == choice) for choice in domain.choices]
            else:
                place.append(domain.fraction(params[name]) if name in params else 0.5)
        return place

    def at_unit(self, place: Sequence[float]) -> dict[str, float | str]:
        """Return the inverse of `unit` in a space without conditions; choices take their largest number's value."""
        numbers = iter(place)
        params: dict[str, float | str] = {}
        for name, domain in self.parameters.items():
            if isinstance(domain, Choice):
                weights = {choice: float(next(numbers)) for choice in domain.choices}
                params[name] = max(weights, key=weights.__getitem__)
            else:
                params[name] = domain.at(float(next(numbers)))
        return params

    def at_bound(self, params: Mapping[str, Any]) -> list[str]:
        """Return the coordinates at an end of their range."""
        return [
            name
            for name, domain in self.parameters.items()
            if isinstance(domain, Range) and name in params
            if min(u := domain.fraction(params[name]), 1.0 - u) < _AT_BOUND
        ]

    def is_constant(self, name: str) -> bool:
        """Whether every configuration has the same value of an argument."""
        default = name in self._defaults and name not in DELAYS.values()
        return name not in self.parameters and (default or name in self.fixed)

    def constant(self, name: str) -> float | str:
        """Return the value of an argument that this space does not search."""
        return self.fixed.get(name, self._defaults.get(name, math.nan))

    def problems_of(self, point: Mapping[str, Any]) -> list[str]:
        """Yield the problems of a user's point, which may omit coordinates; one line each."""
        return [f"{name}: {problem}" for name in point if (problem := self._problem_of(name, point))]

    def _problem_of(self, name: str, point: Mapping[str, Any]) -> str | None:
        domain = self.parameters.get(name)
        if domain is None:
            if self.is_constant(name):
                return f"is fixed at {shown(self.constant(name))} in this space; omit it"
            return unknown("coordinate", name, self.parameters)
        if not self.active(name, point):
            found = ", ".join(
                f"{parent} is {shown(point[parent])}" if parent in point else f"{parent} is missing"
                for parent in domain.when or {}
            )
            return f"exists only where {domain.condition}; here {found}"
        return domain.problem(point[name])


def _infinite(name: str, value: float | str) -> str | None:
    """Return the problem of a value of a factory's argument, or None; the factory itself checks its range."""
    return None if isinstance(value, str) or math.isfinite(value) else f"{shown(value)} is not finite"


def _wrong(name: str, value: float | str) -> str | None:
    """Return the problem of a value of this argument in any space, or None."""
    if name == "delay_family":
        return None if value in DELAYS else unknown("family", shown(value), DELAYS)
    if isinstance(value, str):
        return f"expected a number, found {value!r}"
    low, high = _ALLOWED.get(name, (0.0, math.inf))
    if not (low <= value <= high and math.isfinite(value)):
        return f"{shown(value)} is outside the allowed {shown(low)} to {shown(high)}"
    if name == "delay_period" and not value.is_integer():
        return f"{shown(value)} is not a whole number"
    return None


def new_space(document: Mapping[str, Any], source: str, path: str = "") -> Space:
    """Return a space that is not from the ledger; `path` is where it is in its document.

    Raises:
        SpecError: It is invalid, or larger than a search can use.
    """
    within = f"{path}." if path else ""
    error = SpecError(source, (f"{within}{problem}" for problem in _size_problems(document)))
    if error.problems:
        raise error
    return parse(Space, document, source, path=path)


def _size_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is too large in a space before it is read: the ledger may hold spaces of any size."""
    summary = document.get("summary")
    if isinstance(summary, str) and len(summary) > _LONGEST_SUMMARY:
        yield f"summary: expected at most {_LONGEST_SUMMARY} characters, found {len(summary):,}"
    for key in ("parameters", "fixed"):
        if (count := _length(document.get(key))) > _MOST_NAMES:
            yield f"{key}: expected at most {_MOST_NAMES}, found {count:,}"
    start = document.get("start")
    if (count := sum(map(_length, start.values() if isinstance(start, Mapping) else [start]))) > _MOST_POINTS:
        yield f"start: expected at most {_MOST_POINTS:,} points, found {count:,}"
    for name, domain in _mapping(document.get("parameters")).items():
        domain = _mapping(domain)
        when = domain.get("when")
        lists = {"choices": domain.get("choices"), "when": when}
        lists |= {f"when.{parent}": values for parent, values in _mapping(when).items()}
        for key, values in lists.items():
            if (count := _length(values)) > _MOST_VALUES:
                yield f"parameters.{cut(str(name))}.{cut(key)}: expected at most {_MOST_VALUES}, found {count:,}"


def _length(value: Any) -> int:
    """Return the number of items of a list or mapping; 0 for anything else, which has another problem."""
    return len(value) if isinstance(value, Mapping | list | tuple) else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def space_names() -> list[str]:
    """Return the names of the spaces that come with anon_tune."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def space_text(name: str) -> str:
    """Return the file of a space that comes with anon_tune, with its comments. Raises KeyError for another name."""
    if name not in space_names():
        raise KeyError(name)
    return read_text(_FOLDER / f"{name}.yaml")


def load_space(name: str) -> Space:
    """Return a space by name, or from a file if `name` ends in .yaml or .yml.

    Raises:
        SpecError: The name is unknown, or the file is invalid; says which key and what is allowed.
        NotFoundError: There is no such file.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
    elif name in space_names():
        path = _FOLDER / f"{name}.yaml"
    else:
        raise SpecError("space", [f"{unknown('space', name, space_names())}, or the path of a .yaml file"])
    return _parsed(read_text(path), str(path))


@functools.lru_cache(maxsize=64)
def _parsed(text: str, source: str) -> Space:
    """Return the space in a YAML text: checking a job and storing it ask for the same ones."""
    return new_space(yaml_mapping(text, source), source)
