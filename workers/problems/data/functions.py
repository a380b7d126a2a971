"""Test functions of optimization at points (..., dimensions); the minimum of each is 0."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["quadratic", "rastrigin", "rosenbrock"]


def rosenbrock(x: Tensor) -> Tensor:
    """Return Rosenbrock's function, a curved valley with a flat bottom; the minimum is at (1, ..., 1)."""
    here, after = x[..., :-1], x[..., 1:]
    return ((1 - here) ** 2 + 100 * (after - here**2) ** 2).sum(-1)


def rastrigin(x: Tensor) -> Tensor:
    """Return Rastrigin's function, a bowl with local minima at a distance of 1; the minimum is at 0."""
    return (10 + x**2 - 10 * (2 * math.pi * x).cos()).sum(-1)


def quadratic(x: Tensor, hessian: Tensor) -> Tensor:
    """Return x^T H x / 2 with a positive definite H (dimensions, dimensions); the minimum is at 0."""
    return 0.5 * (x * (x @ hessian.to(x))).sum(-1)
