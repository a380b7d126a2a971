"""Surfaces to search on: from a configuration and a seed to a learning curve, without training.

`Simulated` ones are formulas with a known best gamma; `Recorded` ones interpolate real trainings (`record.py`). Both
take the optimizer's own arguments, so a search in any coordinates can run on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.search.record import COORDINATES, FOLDER, GAMMAS

__all__ = ["Recorded", "Simulated", "Surface", "load_surfaces"]

_LOOKED_AT = 2**14
"""Points by which the best loss of a recorded surface is found."""


class Surface(Protocol):
    """What the simulator needs."""

    @property
    def name(self) -> str:
        """Of the surface."""

    @property
    def epochs(self) -> int:
        """Of a training."""

    @property
    def log_mean_sigma(self) -> float:
        """What the probe would measure."""

    @property
    def best(self) -> float:
        """The best known final loss, without noise."""

    @property
    def tolerance(self) -> float:
        """How far above that is as good: the larger of 1% and one seed standard deviation."""

    def final(self, arguments: Mapping[str, Any]) -> float:
        """The final loss of a configuration, without noise; infinite where it diverges."""

    def curve(self, arguments: Mapping[str, Any], seed: int) -> np.ndarray:
        """Losses after each epoch; NaN from where it diverged."""


def _unit(arguments: Mapping[str, Any], log_scale: float) -> np.ndarray:
    """A configuration's place in the unit cube of the recordings; outside it in step size and decay, its edge."""
    gamma, multiplier = arguments["gamma"], math.exp(-0.5 * arguments["gamma"] * log_scale)
    point = {
        "gamma": gamma,
        "step_size": arguments["lr"] * multiplier,
        "beta3": arguments["betas"][2],
        "delay": arguments["delay"],
        "decay": arguments["weight_decay"] / multiplier,
    }
    unit = [
        math.log(point[name] / low) / math.log(high / low) if log else (point[name] - low) / (high - low)
        for name, (low, high, log) in COORDINATES.items()
    ]
    return np.clip(unit, 0.0, 1.0)


@dataclass(frozen=True)
class Simulated:
    """A valley in (gamma, log step size), mild in the other coordinates, with a cliff beyond which it diverges.

    Early in training a high gamma is ahead, whatever is best in the end: curves cross. Noise between seeds is
    multiplicative and correlated along a curve.

    Args:
        name: Of the surface.
        best_gamma: Where the valley is deepest.
        drift: By how much log10 of the best step size moves per unit of gamma, in the search's own coordinates.
        noise: Standard deviation of the log of the final loss between seeds.
    """

    name: str
    best_gamma: float
    drift: float = 0.25
    noise: float = 0.03
    epochs: int = 12
    log_mean_sigma: float = -11.0
    best: float = 0.1

    @property
    def tolerance(self) -> float:
        """See Surface."""
        return self.best * max(0.01, math.expm1(self.noise))

    def _parts(self, arguments: Mapping[str, Any]) -> tuple[float, float, float]:
        """Log of the final loss over the best one, how fast training is, and log10 of step size over the best."""
        gamma, _, beta3, delay, decay = _unit(arguments, self.log_mean_sigma)
        gamma = -0.5 + 2.0 * gamma
        multiplier = math.exp(-0.5 * gamma * self.log_mean_sigma)
        off = math.log10(max(arguments["lr"] * multiplier, 1e-12)) - self.drift * (gamma - self.best_gamma)
        excess = 0.5 * (gamma - self.best_gamma) ** 2 + (0.9 if off < 0 else 1.6) * off**2 / (
            1 + 0.2 * abs(off)
        )
        excess += 0.05 * (beta3 - 0.6) ** 2 + 0.05 * (delay - 0.4) ** 2 + 0.1 * (decay - 0.5) ** 2
        return excess, 0.45 + 0.1 * gamma + 0.1 * math.tanh(off), off

    def final(self, arguments: Mapping[str, Any]) -> float:
        """See Surface."""
        excess, _, off = self._parts(arguments)
        return math.inf if off > 0.75 else min(self.best * math.exp(excess), 2.3)

    def curve(self, arguments: Mapping[str, Any], seed: int) -> np.ndarray:
        """See Surface."""
        rng = np.random.default_rng(seed)
        excess, speed, off = self._parts(arguments)
        steps = np.arange(1, self.epochs + 1)
        final = min(self.best * math.exp(excess), 2.3)
        left = np.exp(-max(speed, 0.05) * steps) - math.exp(-max(speed, 0.05) * self.epochs)
        wobble = 2 * np.linspace(1, 0, self.epochs) * rng.normal(size=self.epochs) + rng.normal()
        curve = (final + (2.3 - final) * left) * np.exp(self.noise * wobble)
        if off > 0.75 + 0.1 * rng.normal():
            curve[min(int(rng.integers(0, 3)), self.epochs - 1) :] = math.nan
        return curve


class Recorded:
    """A recorded training, interpolated by trees; noise and the epoch of divergence are drawn from what was seen."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        stored = np.load(path)
        self.epochs = int(stored["epochs"])
        self.multipliers = dict(
            zip(stored["multiplier_names"].tolist(), stored["log_multipliers"], strict=True)
        )
        self.unit, self.index = stored["unit"].astype(float), stored["index"].astype(int)
        self.log_loss = stored["log_loss"].astype(float)

    @property
    def log_mean_sigma(self) -> float:
        """See Surface; from the recorded multiplier, which is linear in gamma."""
        return float(-2 * self.multipliers["gradient RMS"][-1] / GAMMAS[-1])

    @property
    def _median_log_sigma(self) -> float:
        """The scale in whose units the points were recorded."""
        return float(-2 * self.multipliers["median"][-1] / GAMMAS[-1])

    @cached_property
    def _healthy(self) -> np.ndarray:
        return np.isfinite(self.log_loss[:, -1])

    @cached_property
    def _regressor(self) -> RegressorMixin:
        net = MLPRegressor(
            hidden_layer_sizes=(32, 32),
            activation="tanh",
            alpha=1.0,
            solver="lbfgs",
            max_iter=1000,
            random_state=0,
        )
        model = TransformedTargetRegressor(make_pipeline(StandardScaler(), net), transformer=StandardScaler())
        return model.fit(self.unit[self._healthy], self.log_loss[self._healthy])

    @cached_property
    def _classifier(self) -> ExtraTreesClassifier | None:
        if self._healthy.all():
            return None
        trees = ExtraTreesClassifier(100, min_samples_leaf=2, random_state=0, n_jobs=1)
        return trees.fit(self.unit, ~self._healthy)

    @cached_property
    def _residuals(self) -> np.ndarray:
        """Of runs made again with other seeds: log loss minus its mean over the seeds, for every epoch."""
        found = []
        for index in np.unique(self.index):
            runs = self.log_loss[(self.index == index) & self._healthy]
            if len(runs) > 2:
                found.append((runs - runs.mean(axis=0)) * math.sqrt(len(runs) / (len(runs) - 1)))
        return np.concatenate(found)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Epochs after which diverged runs ended."""
        return np.isfinite(self.log_loss[~self._healthy]).sum(axis=1)

    @cached_property
    def best(self) -> float:
        """See Surface."""
        points = np.random.default_rng(0).random((_LOOKED_AT, len(COORDINATES)))
        return float(np.exp(self.log_finals(np.concatenate([points, self.unit]), math.inf).min()))

    @cached_property
    def tolerance(self) -> float:
        """See Surface."""
        return self.best * max(0.01, math.expm1(self._residuals[:, -1].std()))

    def log_finals(self, points: np.ndarray, diverged: float) -> np.ndarray:
        """Log of the final losses at points (n, coordinates) of the unit cube; `diverged` where they do."""
        losses = self._regressor.predict(points)[:, -1]
        if self._classifier is not None:
            losses[self._classifier.predict_proba(points)[:, 1] > 0.5] = diverged
        return losses

    def _diverges(self, unit: np.ndarray) -> float:
        """The probability at one point: predict_proba, without what it takes for each call."""
        if self._classifier is None:
            return 0.0
        point = unit[None].astype(np.float32)
        return float(np.mean([tree.tree_.predict(point)[0, 1] for tree in self._classifier.estimators_]))

    def final(self, arguments: Mapping[str, Any]) -> float:
        """See Surface."""
        unit = _unit(arguments, self._median_log_sigma)
        if self._diverges(unit) > 0.5:
            return math.inf
        return float(np.exp(self._regressor.predict(unit[None])[0, -1]))

    def curve(self, arguments: Mapping[str, Any], seed: int) -> np.ndarray:
        """See Surface."""
        rng = np.random.default_rng(seed)
        unit = _unit(arguments, self._median_log_sigma)
        curve = np.exp(self._regressor.predict(unit[None])[0] + rng.choice(self._residuals))
        if rng.random() < self._diverges(unit):
            curve[int(rng.choice(self._ends)) :] = math.nan
        return curve


def load_surfaces() -> dict[str, Surface]:
    """All surfaces by name."""
    simulated = [Simulated("simulated, gamma* -0.1", -0.1), Simulated("simulated, gamma* 1.1", 1.1)]
    recorded = [Recorded(path) for path in sorted(FOLDER.glob("*.npz"))]
    surfaces: list[Surface] = [*simulated, *recorded]
    return {surface.name: surface for surface in surfaces}
