"""A test function to minimize, its start point, and the noise of its gradients."""

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
    """A function of points (dimensions) with a minimum of 0, and draws of noise as its examples.

    An example's inputs (dimensions) are the scale of its noise in each coordinate, in units of the value at the
    start; they are 0 in validation and test. Its target is the minimum.

    Attributes:
        value: Maps points (..., dimensions) to values (...).
        lowest: The initial position of the minimum.
        start: The approximate start of the optimization.
        degrees_of_freedom: Degrees of freedom of the noise, which is Student's t; infinite: normal.
        drift: Distance that the function moves along the diagonal over one training split.
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
        """The value at the start."""
        return float(self.value(self.start))

    def noise(self, examples: Split) -> Tensor:
        """Return one draw of noise for each example, (n, dimensions), from torch's global random state."""
        scale = examples.inputs
        drawn = torch.randn_like(scale)
        if math.isfinite(self.degrees_of_freedom):
            degrees = torch.full_like(scale, self.degrees_of_freedom)
            drawn = drawn * torch.distributions.Chi2(degrees).sample().div(degrees).rsqrt()
        return scale * drawn

    def moved(self, examples: Tensor) -> Tensor:
        """Return the distance that the function has moved, (dimensions), after a number of examples, a scalar."""
        share = examples / (len(self.train) * math.sqrt(len(self.lowest)))
        return (self.drift * share) * torch.ones_like(self.lowest, device=share.device)


_Shape = Callable[[int], tuple[Callable[[Tensor], Tensor], Tensor, Tensor]]
"""Maps dimensions to the function, its minimum and its usual start."""


def rosenbrock_surface(
    dimensions: int, start: float, train: int, noise: float, degrees_of_freedom: float, drift: float
) -> Surface:
    """Return Rosenbrock's valley with a start at (-1.2, 1, -1.2, ...).

    Args:
        dimensions: At least 2.
        start: Distance of the start from the minimum, as a multiple of the usual one; above 0.
        train: Draws of noise in an epoch.
        noise: Scale of the noise in each coordinate of an example's gradient, in units of the value at the start; the
            standard deviation if the noise is normal.
        degrees_of_freedom: Degrees of freedom of Student's t, from 1; up to 2 the variance is infinite. 0: the noise
            is normal.
        drift: Distance that the minimum moves in an epoch.

    Raises:
        InputError: An option is out of its range.
    """
    if dimensions < 2:
        raise InputError(f"data.dimensions: Rosenbrock's function has at least 2, found {dimensions}.")
    return _surface(_rosenbrock, dimensions, start, train, noise, degrees_of_freedom, drift)


def rastrigin_surface(
    dimensions: int, start: float, train: int, noise: float, degrees_of_freedom: float, drift: float
) -> Surface:
    """Return Rastrigin's function, in 1 dimension or more, from (-2.2, 2.7, ...); see rosenbrock_surface."""
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
    """Return a quadratic function with curvatures evenly from 1 to 1/condition on a log scale, from (1, ..., 1).

    Args:
        dimensions: At least 1.
        condition: The largest curvature over the smallest, at least 1.
        axes: "aligned": the curvatures are those of the coordinates. "rotated": of a fixed set of rotated directions.
        start: See rosenbrock_surface.
        train: See rosenbrock_surface.
        noise: See rosenbrock_surface.
        degrees_of_freedom: See rosenbrock_surface.
        drift: See rosenbrock_surface.

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
        raise InputError(
            f"data.start: expected a factor above 0 (1 is the usual distance from the minimum), found {start:g}"
        )
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
