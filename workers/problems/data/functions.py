"""Test functions of optimization, at points (..., dimensions); each has the value 0 at its lowest point."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["quadratic", "rastrigin", "rosenbrock"]


def rosenbrock(x: Tensor) -> Tensor:
    """A bent valley, flat along its bottom; the lowest point is (1, ..., 1), of two dimensions or more."""
    here, after = x[..., :-1], x[..., 1:]
    return ((1 - here) ** 2 + 100 * (after - here**2) ** 2).sum(-1)


def rastrigin(x: Tensor) -> Tensor:
    """A bowl full of dents, one apart; the lowest point is 0."""
    return (10 + x**2 - 10 * (2 * math.pi * x).cos()).sum(-1)


def quadratic(x: Tensor, hessian: Tensor) -> Tensor:
    """x^T H x / 2 with a positive definite H (dimensions, dimensions); the lowest point is 0."""
    return 0.5 * (x * (x @ hessian.to(x))).sum(-1)
