"""Surfaces with a known answer, for calibration: one shape each, with a random best gamma for each job."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.search.surfaces import Simulated

__all__ = ["SHAPES", "surface"]

_RANGE = (-0.5, 1.5)
"""Range of gamma in the default space."""

_INSIDE = (0.0, 1.0)


def _valley(rise: float) -> Callable[[np.random.Generator], Mapping[str, float]]:
    return lambda rng: {"best_gamma": float(rng.uniform(*_INSIDE)), "below": rise, "above": rise}


def _edge(rng: np.random.Generator) -> Mapping[str, float]:
    return {"best_gamma": _RANGE[1], "below": 0.8, "above": 0.8}


def _cliff(rng: np.random.Generator) -> Mapping[str, float]:
    """Return a surface that is flat on one side, steep on the other, and diverges at twice the best step."""
    gentle, steep = (0.3, 2.0) if rng.random() < 0.5 else (2.0, 0.3)
    return {"best_gamma": float(rng.uniform(*_INSIDE)), "below": gentle, "above": steep, "cliff": 0.3}


def _two_valleys(rng: np.random.Generator) -> Mapping[str, float]:
    """Return a surface with two valleys, the second a tenth worse."""
    return {"best_gamma": 0.0, "below": 3.0, "above": 3.0, "second_gamma": 1.1, "second_cost": 0.1}


def _flat(rng: np.random.Generator) -> Mapping[str, float]:
    return {"best_gamma": 0.5, "below": 0.0, "above": 0.0}


SHAPES: Mapping[str, Callable[[np.random.Generator], Mapping[str, float]]] = {
    "mild": _valley(0.5),
    "sharp": _valley(3.0),
    "edge": _edge,
    "cliff": _cliff,
    "two valleys": _two_valleys,
    "flat": _flat,
}
"""Of the log loss over gamma, with all other coordinates at their best."""


def surface(shape: str, deviation: float, seed: int) -> Simulated:
    """Return a surface of a shape, with other places of the optimum for each seed.

    Args:
        shape: One of SHAPES.
        deviation: Standard deviation of the log loss between seeds.
        seed: Seed of the job.
    """
    rng = np.random.default_rng([seed, *map(ord, shape)])
    step = float(np.exp(rng.uniform(*np.log([0.5, 4.0]))))
    return Simulated(f"{shape}, {deviation:g}", deviation=deviation, best_step=step, **SHAPES[shape](rng))  # type: ignore[arg-type]
