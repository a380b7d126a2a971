"""Surfaces to search on: from a configuration and a seed to a learning curve, without training.

`Simulated` ones are formulas with a known optimum; `Recorded` ones interpolate real trainings (`record.py`).
Both take the optimizer's own arguments, so a search in any coordinates can run on them.
`python -m benchmarks.search.referee` shows how faithful the interpolations are.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from benchmarks.search.interpolation import CAP, Process
from benchmarks.search.record import COORDINATES, FOLDER, GAMMAS

__all__ = ["Recorded", "Simulated", "Surface", "load_surfaces"]

_LOOKED_AT = 2**14
"""Points among which the search for a recorded surface's best loss begins."""

_KEPT, _AROUND = 16, 64
"""So many of the best points are kept, and so many others are looked at around each, again and again."""

_SPREADS = (0.1, 0.05, 0.02, 0.01, 0.005)
"""Standard deviations of these others, in the unit cube."""


class Surface(Protocol):
    """A search problem, as the simulator needs it."""

    @property
    def name(self) -> str:
        """Name of the surface."""

    @property
    def space(self) -> str:
        """Name of the product's space for such a training."""

    @property
    def epochs(self) -> int:
        """Length of a training."""

    @property
    def log_mean_sigma(self) -> float:
        """Gradient scale that the probe would measure."""

    @property
    def best(self) -> float:
        """The best final loss in the recorded ranges, without noise."""

    @property
    def deviation(self) -> float:
        """Standard deviation of the log of the final loss between seeds, near the best."""

    def instance(self, seed: int) -> Surface:
        """Return the surface for a search with this seed; most surfaces are the same for all."""

    def final(self, arguments: Mapping[str, Any]) -> float:
        """Return the final loss of a configuration, without noise; infinite where it diverges."""

    def curve(self, arguments: Mapping[str, Any], seed: int) -> NDArray[np.float64]:
        """Return the losses after each epoch; NaN from where it diverged."""


def _unit(arguments: Mapping[str, Any], log_scale: float, per_gamma: float = 0.0) -> NDArray[np.float64]:
    """Return a configuration's place in the unit cube of the recordings; outside of it, the nearest edge.

    Args:
        arguments: Arguments of the optimizer.
        log_scale: The gradient scale in whose units step size and decay are wanted.
        per_gamma: Log of the recording's units over these, for each unit of gamma.
    """
    low, high, _ = COORDINATES["gamma"]
    gamma = arguments["gamma"]
    multiplier = math.exp(-0.5 * gamma * log_scale - per_gamma * min(max(gamma, low), high))
    point = {
        "gamma": gamma,
        "step_size": arguments["lr"] * multiplier,
        "beta3": arguments["betas"][2],
        "delay": arguments["delay"],
        "decay": arguments["weight_decay"] / multiplier,
    }
    unit = [
        math.log(max(point[name], 1e-12) / low) / math.log(high / low)
        if log
        else (point[name] - low) / (high - low)
        for name, (low, high, log) in COORDINATES.items()
    ]
    return np.clip(unit, 0.0, 1.0)


@dataclass(frozen=True)
class Simulated:
    """A valley in (gamma, log step size), milder in the other coordinates, with a cliff beyond which it diverges.

    Early in training a high gamma is ahead, whatever is best in the end: curves cross. Noise between seeds is
    multiplicative and correlated along a curve.

    Args:
        name: Name of the surface.
        best_gamma: Gamma of the lowest point.
        deviation: See Surface.
        below: How fast the log of the loss rises with the square of the distance to a smaller gamma.
        above: The same for a larger one.
        best_step: The best step size there, in the search's own coordinates.
        drift: By how much log10 of the best step size moves per unit of gamma, in the same coordinates.
        cliff: Log10 of the largest step size that does not diverge, over the best.
        best_others: The best beta3, delay and decay, in the unit cube of the recordings.
        others: How fast the log of the loss rises with the squares of the distances to these.
        second_gamma: Gamma of a second valley.
        second_cost: Log of its lowest loss over the best; infinite: there is none.
        make: Other arguments for a search with a seed; None if all searches have the same surface.
    """

    name: str
    best_gamma: float
    deviation: float = 0.03
    below: float = 0.5
    above: float = 0.5
    best_step: float = 1.0
    drift: float = 0.25
    cliff: float = 0.75
    best_others: tuple[float, float, float] = (0.6, 0.4, 0.5)
    others: tuple[float, float, float] = (0.05, 0.05, 0.1)
    second_gamma: float = 0.0
    second_cost: float = math.inf
    make: Callable[[int], Mapping[str, Any]] | None = None
    space: str = "default"
    epochs: int = 12
    log_mean_sigma: float = -11.0
    best: float = 0.1

    def instance(self, seed: int) -> Simulated:
        """See Surface."""
        return self if self.make is None else dataclasses.replace(self, **self.make(seed), make=None)

    def _parts(self, arguments: Mapping[str, Any]) -> tuple[float, float, float]:
        """Return the log of the final loss over the best, the speed, and log10 of the step size over the best."""
        _, _, *others = _unit(arguments, self.log_mean_sigma)
        gamma = arguments["gamma"]
        away = gamma - self.best_gamma
        step = arguments["lr"] * math.exp(-0.5 * gamma * self.log_mean_sigma)
        off = math.log10(max(step, 1e-12) / self.best_step) - self.drift * away
        excess = (self.below if away < 0 else self.above) * away**2
        excess = min(excess, self.second_cost + self.above * (gamma - self.second_gamma) ** 2)
        excess += (0.9 if off < 0 else 1.6) * off**2 / (1 + 0.2 * abs(off))
        excess += sum(
            rise * (u - best) ** 2
            for rise, u, best in zip(self.others, others, self.best_others, strict=True)
        )
        return excess, 0.45 + 0.1 * gamma + 0.1 * math.tanh(off), off

    def final(self, arguments: Mapping[str, Any]) -> float:
        """See Surface."""
        excess, _, off = self._parts(arguments)
        return math.inf if off > self.cliff else min(self.best * math.exp(excess), 2.3)

    def curve(self, arguments: Mapping[str, Any], seed: int) -> NDArray[np.float64]:
        """See Surface."""
        rng = np.random.default_rng(seed)
        excess, speed, off = self._parts(arguments)
        steps = np.arange(1, self.epochs + 1)
        final = min(self.best * math.exp(excess), 2.3)
        left = np.exp(-max(speed, 0.05) * steps) - math.exp(-max(speed, 0.05) * self.epochs)
        wobble = 2 * np.linspace(1, 0, self.epochs) * rng.normal(size=self.epochs) + rng.normal()
        curve: NDArray[np.float64] = (final + (2.3 - final) * left) * np.exp(self.deviation * wobble)
        if off > self.cliff + 0.1 * rng.normal():
            curve[min(int(rng.integers(0, 3)), self.epochs - 1) :] = math.nan
        return curve


def _asymmetric(seed: int) -> dict[str, float]:
    """Return a surface that is steep on one side of the best gamma: above for even seeds, below for odd ones."""
    rng = np.random.default_rng([1, seed])
    gentle, steep = 0.3, 2.0
    return {
        "best_gamma": float(rng.uniform(0.0, 1.2)),
        "best_step": float(np.exp(rng.uniform(*np.log([0.5, 3.0])))),
        "below": steep if seed % 2 else gentle,
        "above": gentle if seed % 2 else steep,
    }


_FAR = list(itertools.product((-0.4, 0.5, 1.45), (0.06, 12.6)))
"""Best gamma and step size of the surface whose optimum is far from what is customary."""


def _far(seed: int) -> dict[str, float]:
    gamma, step = _FAR[seed % len(_FAR)]
    return {"best_gamma": gamma, "best_step": step}


def _place(**values: float) -> tuple[float, float, float]:
    """Return beta3, delay and decay in the unit cube of the recordings."""
    unit = _unit({"gamma": 0.0, "lr": 1.0, "betas": (0, 0, values["beta3"]), "delay": values["delay"],
                  "weight_decay": values["decay"]}, 0.0)  # fmt: skip
    return float(unit[2]), float(unit[3]), float(unit[4])


class Recorded:
    """A recorded training: a Gaussian process between the runs, divergence by trees, noise drawn from what was seen.

    Gamma, step size and decay beyond the recorded ranges count as at their ends.

    Args:
        path: The recording.
        cap: See `interpolation.CAP`.
    """

    def __init__(self, path: Path, cap: float = CAP) -> None:
        self.name, self._cap = path.stem, cap
        self.space = "cnn" if "cnn" in path.stem else "transformer"
        stored = np.load(path)
        self.epochs = int(stored["epochs"])
        self.multipliers = dict(
            zip(stored["multiplier_names"].tolist(), stored["log_multipliers"], strict=True)
        )
        self.unit, self.index = stored["unit"].astype(float), stored["index"].astype(int)
        self.log_loss = stored["log_loss"].astype(float)

    def instance(self, seed: int) -> Recorded:
        """See Surface."""
        return self

    @property
    def log_mean_sigma(self) -> float:
        """See Surface; from the recorded multiplier, which is linear in gamma."""
        return float(-2 * self.multipliers["gradient RMS"][-1] / GAMMAS[-1])

    @property
    def per_gamma(self) -> float:
        """Log of the search's units over the recording's (which are the median's), for each unit of gamma."""
        return float((self.multipliers["gradient RMS"][-1] - self.multipliers["median"][-1]) / GAMMAS[-1])

    @cached_property
    def healthy(self) -> NDArray[np.bool_]:
        """The runs that did not diverge."""
        return np.isfinite(self.log_loss[:, -1])

    def in_search(self, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points of the recording's unit cube with step size and decay in the search's units.

        Both stay on a scale where the recorded range is 1.
        """
        low, high, _ = COORDINATES["gamma"]
        moved = self.per_gamma * (low + unit[:, 0] * (high - low))
        found = unit.copy()
        for column, (name, sign) in {1: ("step_size", 1.0), 4: ("decay", -1.0)}.items():
            low, high, _ = COORDINATES[name]
            found[:, column] += sign * moved / math.log(high / low)
        return found

    @cached_property
    def process(self) -> Process:
        """The interpolation of the log losses; fitting it takes seconds."""
        points = self.in_search(self.unit[self.healthy])
        return Process(points, self.log_loss[self.healthy], cap=self._cap)

    @cached_property
    def _classifier(self) -> ExtraTreesClassifier | None:
        if self.healthy.all():
            return None
        trees = ExtraTreesClassifier(100, min_samples_leaf=2, random_state=0, n_jobs=1)
        return trees.fit(self.unit, ~self.healthy)

    @cached_property
    def _residuals(self) -> NDArray[np.float64]:
        """Log loss of each run made again with other seeds, less its mean over the seeds, for every epoch."""
        found = []
        for index in np.unique(self.index):
            runs = self.log_loss[(self.index == index) & self.healthy]
            if len(runs) > 2:
                found.append((runs - runs.mean(axis=0)) * math.sqrt(len(runs) / (len(runs) - 1)))
        return np.concatenate(found)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Epochs after which diverged runs ended."""
        return np.isfinite(self.log_loss[~self.healthy]).sum(axis=1)

    @cached_property
    def best(self) -> float:
        """See Surface."""
        return math.exp(self.lowest(lambda points: self.log_finals(points, math.inf))[0])

    @property
    def deviation(self) -> float:
        """See Surface."""
        return float(self._residuals[:, -1].std())

    def lowest(
        self,
        loss: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        gammas: tuple[float, float] = (-0.5, 1.5),
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the least of `loss` (of points of the unit cube) between two gammas, and where it is."""
        rng = np.random.default_rng(0)
        low, high, _ = COORDINATES["gamma"]
        ends = np.zeros(len(COORDINATES)), np.ones(len(COORDINATES))
        for end, gamma in zip(ends, gammas, strict=True):
            end[0] = (gamma - low) / (high - low)
        points = np.clip(np.concatenate([rng.uniform(*ends, (_LOOKED_AT, len(ends[0]))), self.unit]), *ends)
        found = loss(points)
        for spread in _SPREADS:
            kept = points[np.argsort(found)[:_KEPT]]
            moved = kept[:, None] + spread * rng.normal(size=(len(kept), _AROUND, kept.shape[1]))
            points = np.concatenate([kept, np.clip(moved.reshape(-1, kept.shape[1]), *ends)])
            found = loss(points)
        return float(found.min()), points[found.argmin()]

    def log_finals(self, points: NDArray[np.float64], diverged: float) -> NDArray[np.float64]:
        """Return the log of the final losses at points (n, coordinates) of the unit cube.

        `diverged` stands for points that diverge.
        """
        losses = self.process.predict(self.in_search(points))[:, -1]
        losses[self.diverges(points)] = diverged
        return losses

    def diverges(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether points (n, coordinates) of the unit cube diverge rather than not."""
        if self._classifier is None:
            return np.zeros(len(points), dtype=bool)
        return np.asarray(self._classifier.predict_proba(points)[:, 1] > 0.5)

    def _chance(self, unit: NDArray[np.float64]) -> float:
        """Return the probability of diverging at one point: predict_proba, without what it takes for each call."""
        if self._classifier is None:
            return 0.0
        point = unit[None].astype(np.float32)
        return float(np.mean([tree.tree_.predict(point)[0, 1] for tree in self._classifier.estimators_]))

    def place(self, arguments: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return a configuration's place in the unit cube of the recording; outside of it, the nearest edge."""
        return _unit(arguments, self.log_mean_sigma, self.per_gamma)

    def _curve(self, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.process.predict(self.in_search(unit[None]))[0]

    def final(self, arguments: Mapping[str, Any]) -> float:
        """See Surface."""
        unit = self.place(arguments)
        return math.inf if self._chance(unit) > 0.5 else float(np.exp(self._curve(unit)[-1]))

    def curve(self, arguments: Mapping[str, Any], seed: int) -> NDArray[np.float64]:
        """See Surface."""
        rng = np.random.default_rng(seed)
        unit = self.place(arguments)
        curve: NDArray[np.float64] = np.exp(self._curve(unit) + rng.choice(self._residuals))
        if rng.random() < self._chance(unit):
            curve[int(rng.choice(self._ends)) :] = math.nan
        return curve


def load_surfaces() -> dict[str, Surface]:
    """Return all surfaces by name: the recorded trainings, then the formulas."""
    surfaces: list[Surface] = [
        *(Recorded(path) for path in sorted(FOLDER.glob("*.npz"))),
        Simulated("simulated, gamma* -0.1", -0.1),
        Simulated("simulated, gamma* 1.1", 1.1),
        Simulated("asym", 0.6, 0.05, cliff=0.3, make=_asymmetric),
        Simulated("far", 0.5, 0.05, best_others=_place(beta3=0.90, delay=6.6, decay=2.5e-3),
                  others=(0.5, 0.5, 0.5), make=_far),
    ]  # fmt: skip
    return {surface.name: surface for surface in surfaces}
