"""A test function to minimize, where it is begun, and the noise of its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.functions import quadratic, rastrigin, rosenbrock
from anon_tune.workers.problems.data.split import Split

__all__ = ["Surface", "quadratic_surface", "rastrigin_surface", "rosenbrock_surface"]

_ROTATION_SEED = 0
_AXES = ("aligned", "rotated")


@dataclass(frozen=True)
class Surface:
    """A function of points (dimensions) whose lowest value is 0, and draws of noise as its examples.

    An example's inputs (dimensions) are the scale of its noise in each coordinate, in units of the value at the
    start, and 0 in validation and test; its target is the lowest value.

    Attributes:
        value: Points (..., dimensions) -> values (...).
        lowest: The lowest point, where it is at first.
        start: Where the search for it begins, near enough.
        degrees_of_freedom: Of the noise, which is Student's t; infinite: normal.
        drift: How far the function moves in the time of the training split's length, along the diagonal.
    """

    train: Split
    validation: Split
    test: Split
    value: Callable[[Tensor], Tensor]
    lowest: Tensor
    start: Tensor
    degrees_of_freedom: float
    drift: float

    @property
    def first_value(self) -> float:
        """At the start."""
        return float(self.value(self.start))

    def noise(self, examples: Split) -> Tensor:
        """Return one draw for each example, (n, dimensions), from torch's global random state."""
        scale = examples.inputs
        drawn = torch.randn_like(scale)
        if math.isfinite(self.degrees_of_freedom):
            degrees = torch.full_like(scale, self.degrees_of_freedom)
            drawn = drawn * torch.distributions.Chi2(degrees).sample().div(degrees).rsqrt()
        return scale * drawn

    def moved(self, examples: Tensor) -> Tensor:
        """How far the function has moved, (dimensions), when it has been used with so many examples, a scalar."""
        share = examples / (len(self.train) * math.sqrt(len(self.lowest)))
        return (self.drift * share) * torch.ones_like(self.lowest, device=share.device)


_Shape = Callable[[int], tuple[Callable[[Tensor], Tensor], Tensor, Tensor]]
"""Dimensions -> the function, its lowest point and its usual start."""


def rosenbrock_surface(
    dimensions: int, start: float, train: int, noise: float, degrees_of_freedom: float, drift: float
) -> Surface:
    """Rosenbrock's valley, from (-1.2, 1, -1.2, ...).

    Args:
        dimensions: At least 2.
        start: Above 0: how far from the lowest point it is begun, as a multiple of the usual start's distance.
        train: Draws of noise in an epoch.
        noise: Its scale in each coordinate of an example's gradient, in units of the value at the start; of normal
            noise the deviation.
        degrees_of_freedom: Of Student's t, from 1: up to 2 its variance is infinite. 0: the noise is normal.
        drift: How far the lowest point moves in an epoch.

    Raises:
        InputError: An option is out of its range.
    """
    if dimensions < 2:
        raise InputError(f"data.dimensions: Rosenbrock's function has at least 2, found {dimensions}.")
    return _surface(_rosenbrock, dimensions, start, train, noise, degrees_of_freedom, drift)


def rastrigin_surface(
    dimensions: int, start: float, train: int, noise: float, degrees_of_freedom: float, drift: float
) -> Surface:
    """Rastrigin's dents, from (-2.2, 2.7, -2.2, ...); otherwise as rosenbrock_surface, from 1 dimension on."""
    return _surface(_rastrigin, dimensions, start, train, noise, degrees_of_freedom, drift)


def quadratic_surface(
    dimensions: int,
    condition: float,
    axes: str,
    start: float,
    train: int,
    noise: float,
    degrees_of_freedom: float,
    drift: float,
) -> Surface:
    """A quadratic function with curvatures from 1 to 1/condition, evenly on a log scale, from (1, ..., 1).

    Args:
        dimensions: At least 1.
        condition: The largest curvature over the smallest, at least 1.
        axes: "aligned": the curvatures are those of the coordinates. "rotated": of directions across them, the same
            each time.
        start: As in rosenbrock_surface, and all that follow.
        train: See there.
        noise: See there.
        degrees_of_freedom: See there.
        drift: See there.

    Raises:
        InputError: An option is out of its range.
    """
    if condition < 1.0:
        raise InputError(
            f"data.condition: the largest curvature over the smallest is at least 1, found {condition:g}."
        )
    if axes not in _AXES:
        raise InputError(f"data.axes: expected {' or '.join(_AXES)}, found {axes!r}")
    shape = partial(_quadratic, condition=condition, axes=axes)
    return _surface(shape, dimensions, start, train, noise, degrees_of_freedom, drift)


def _rosenbrock(dimensions: int) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    return rosenbrock, torch.ones(dimensions), _alternating(-1.2, 1.0, dimensions)


def _rastrigin(dimensions: int) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    return rastrigin, torch.zeros(dimensions), _alternating(-2.2, 2.7, dimensions)


def _quadratic(
    dimensions: int, condition: float, axes: str
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    hessian = torch.logspace(0.0, -math.log10(condition), dimensions).diag()
    if axes == "rotated":
        chance = torch.Generator().manual_seed(_ROTATION_SEED)
        basis = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=chance)).Q
        hessian = basis @ hessian @ basis.T
    return partial(quadratic, hessian=hessian), torch.zeros(dimensions), torch.ones(dimensions)


def _alternating(first: float, second: float, dimensions: int) -> Tensor:
    return torch.tensor([(first, second)[i % 2] for i in range(dimensions)])


def _surface(
    shape: _Shape,
    dimensions: int,
    start: float,
    train: int,
    noise: float,
    degrees_of_freedom: float,
    drift: float,
) -> Surface:
    for option, count in (("dimensions", dimensions), ("train", train)):
        if count < 1:
            raise InputError(f"data.{option}: expected a whole number of at least 1, found {count}")
    if not start > 0.0:
        raise InputError(f"data.start: expected a number above 0, the multiple of the usual, found {start:g}")
    if degrees_of_freedom and degrees_of_freedom < 1.0:
        raise InputError(
            f"data.degrees_of_freedom: expected at least 1, or 0 for normal noise, found {degrees_of_freedom:g}"
        )
    value, lowest, usual = shape(dimensions)

    def split(examples: int, scale: float) -> Split:
        return Split(torch.full((examples, dimensions), float(scale)), torch.zeros(examples))

    return Surface(
        train=split(train, noise),
        validation=split(1, 0.0),
        test=split(1, 0.0),
        value=value,
        lowest=lowest,
        start=lowest + start * (usual - lowest),
        degrees_of_freedom=degrees_of_freedom or math.inf,
        drift=drift,
    )
