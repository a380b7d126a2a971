"""Errors of the interpolated surfaces: `python -m benchmarks.search.referee`.

For each recorded surface: the cross-validated error of its Gaussian process and of two other models, and the profile
over gamma (the best loss in each bin of gamma, less the best bin) of the interpolations and of the runs themselves;
and where the good configurations are, by which the ranges of the spaces were chosen.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process.kernels import Kernel
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anon_tune.search_spaces import Range, load_space
from benchmarks.search.interpolation import CAP, Process
from benchmarks.search.record import COORDINATES, from_unit
from benchmarks.search.surfaces import Recorded, load_surfaces

BINS = ((-0.5, -0.25), (-0.25, 0.25), (0.25, 0.75), (0.75, 1.25), (1.25, 1.5))
_FOLDS = 10
_BEST_RUNS = 3
_GOOD, _DRAWN = 64, 2**16

Array = NDArray[np.float64]
Model = Callable[[Array], Array]
"""From points of a recording's unit cube to log final losses."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--surfaces", nargs="*", default=[""], help="only those whose names contain one of these"
    )
    names = parser.parse_args().surfaces
    console = Console(width=160)
    surfaces = [
        surface
        for surface in load_surfaces().values()
        if isinstance(surface, Recorded) and any(part in surface.name for part in names)
    ]
    for surface in surfaces:
        console.print(tables(surface))
    console.print(good_places(surfaces))


def tables(surface: Recorded) -> Table:
    """Return errors and profiles of a surface's interpolations."""
    title = (
        f"{surface.name}: {surface.healthy.sum()} of {len(surface.unit)} runs did not diverge; seeds' standard "
        f"deviation {surface.deviation:.3f}"
    )
    bins = [f"{low:g} to {high:g}" for low, high in BINS]
    table = Table("model", "error", "best quarter", "best loss", "its gamma", *bins, title=title)
    losses = surface.log_loss[surface.healthy, -1]
    table.add_row("runs", "", "", *_shown(raw_profile(surface)))
    for name, fit in models(surface).items():
        found = profile(surface, fit(np.ones(len(losses), dtype=bool)))
        table.add_row(name, *(f"{error:.3f}" for error in errors(surface, fit)), *_shown(found))
    return table


def good_places(surfaces: Sequence[Recorded]) -> Table:
    """Return the 10, 50 and 90% quantiles of each coordinate among the best of many points."""
    table = Table("surface", *COORDINATES, title=f"the best {_GOOD} of {_DRAWN} points, 10% 50% 90%")
    for surface in surfaces:
        points = np.random.default_rng(0).random((_DRAWN, len(COORDINATES)))
        best = points[np.argsort(surface.log_finals(points, math.inf))[:_GOOD]]
        found = [from_unit(point) for point in surface.in_search(best)]
        table.add_row(
            surface.name,
            *(
                " ".join(f"{value:.2g}" for value in np.quantile([at[name] for at in found], (0.1, 0.5, 0.9)))
                for name in COORDINATES
            ),
        )
    return table


def models(surface: Recorded) -> Mapping[str, Callable[[NDArray[np.bool_]], Model]]:
    """Return the interpolations: from which of the healthy runs are known to a model."""
    unit, losses = surface.unit[surface.healthy], surface.log_loss[surface.healthy]
    points = surface.in_search(unit)
    kernels: dict[float, Kernel] = {CAP: surface.process.kernel}
    kernels[math.inf] = Process(points, losses, cap=math.inf).kernel

    def process(cap: float, known: NDArray[np.bool_]) -> Model:
        found = Process(points[known], losses[known], cap=cap, kernel=kernels[cap], restarts=0)
        return lambda asked: found.predict(surface.in_search(asked))[:, -1]

    def network(known: NDArray[np.bool_]) -> Model:
        net = MLPRegressor(
            hidden_layer_sizes=(32, 32),
            activation="tanh",
            alpha=1.0,
            solver="lbfgs",
            max_iter=1000,
            random_state=0,
        )
        model = TransformedTargetRegressor(make_pipeline(StandardScaler(), net), transformer=StandardScaler())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(unit[known], losses[known])
        return lambda asked: model.predict(asked)[:, -1]

    def trees(known: NDArray[np.bool_]) -> Model:
        model = ExtraTreesRegressor(300, min_samples_leaf=2, random_state=0, n_jobs=1)
        model.fit(points[known], losses[known, -1])
        return lambda asked: model.predict(surface.in_search(asked))

    return {
        "Gaussian process": partial(process, CAP),
        "GP, not capped": partial(process, math.inf),
        "former network": network,
        "extra trees": trees,
    }


def errors(surface: Recorded, fit: Callable[[NDArray[np.bool_]], Model]) -> tuple[float, float]:
    """Return the cross-validated RMS errors of the log loss: of all runs, capped, and of the best quarter.

    Runs at the same point are in the same fold.
    """
    unit, losses = surface.unit[surface.healthy], surface.log_loss[surface.healthy, -1]
    found = np.empty(len(losses))
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=0).split(
        unit, groups=surface.index[surface.healthy]
    )
    for _, held_out in folds:
        known = np.ones(len(losses), dtype=bool)
        known[held_out] = False
        found[held_out] = fit(known)(unit[held_out])
    top = losses.min() + CAP
    wrong = np.minimum(found, top) - np.minimum(losses, top)
    best = losses <= np.quantile(losses, 0.25)
    return float(np.sqrt(np.mean(wrong**2))), float(np.sqrt(np.mean(wrong[best] ** 2)))


def profile(surface: Recorded, model: Model) -> list[tuple[float, float]]:
    """Return the least log loss of each bin and its gamma, in the product's range of the step size."""

    def inside(points: Array) -> Array:
        found = np.where(surface.diverges(points), math.inf, model(points))
        return np.where(_in_range(surface, points), found, math.inf)

    found = [surface.lowest(inside, gammas) for gammas in BINS]
    return [(loss, from_unit(point)["gamma"]) for loss, point in found]


def raw_profile(surface: Recorded) -> list[tuple[float, float]]:
    """Return the mean log loss and gamma of the best runs of each bin, in the same range."""
    unit, losses = surface.unit[surface.healthy], surface.log_loss[surface.healthy, -1]
    low, high, _ = COORDINATES["gamma"]
    gammas = low + unit[:, 0] * (high - low)
    found = []
    for start, end in BINS:
        inside = np.flatnonzero(_in_range(surface, unit) & (gammas >= start) & (gammas <= end))
        best = inside[losses[inside].argsort()[:_BEST_RUNS]]
        found.append((float(losses[best].mean()), float(gammas[best].mean())))
    return found


def _in_range(surface: Recorded, points: Array) -> NDArray[np.bool_]:
    low, high, _ = COORDINATES["step_size"]
    steps = low * (high / low) ** surface.in_search(points)[:, 1]
    allowed = load_space(surface.space).parameters["step_size"]
    assert isinstance(allowed, Range)  # noqa: S101
    return (steps >= allowed.low) & (steps <= allowed.high)


def _shown(found: list[tuple[float, float]]) -> list[str]:
    """Cells of a profile: the best loss, its gamma, and each bin's log loss less the best bin's."""
    best, gamma = min(found)
    return [f"{math.exp(best):.4f}", f"{gamma:.2f}", *(f"{loss - best:.3f}" for loss, _ in found)]


if __name__ == "__main__":
    main()
