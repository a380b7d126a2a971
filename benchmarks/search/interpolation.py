"""The Gaussian process that interpolates a recorded training.

The search's own sampler has another kernel and other priors on its lengths, so the two do not share their errors.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

__all__ = ["CAP", "Process", "capped"]

CAP = 1.0
"""Log losses count as this much above the best at most: the process is stationary, and bad runs are rough."""

Array = NDArray[np.float64]


def capped(losses: Array, cap: float = CAP) -> Array:
    """Return log losses (runs, epochs), each at most `cap` above the best of its epoch."""
    return np.minimum(losses, losses.min(axis=0) + cap)


class Process:
    """Gaussian process over points of a recording: Matern 5/2, a length for each coordinate, maximum likelihood.

    The kernel is fitted to the final losses and used for every epoch.

    Args:
        points: Coordinates of the runs that did not diverge (runs, coordinates).
        losses: Their log losses (runs, epochs).
        cap: See `CAP`.
        kernel: Start of the fit; by default lengths of half the range.
        restarts: Further starts of the fit, drawn at random.
    """

    def __init__(
        self,
        points: Array,
        losses: Array,
        *,
        cap: float = CAP,
        kernel: Kernel | None = None,
        restarts: int = 2,
    ) -> None:
        losses = capped(losses, cap)
        self._mean, self._scale = losses.mean(axis=0), losses.std(axis=0)
        standardized = (losses - self._mean) / self._scale
        if kernel is None:
            matern = Matern(np.full(points.shape[1], 0.5), (0.05, 20.0), nu=2.5)
            kernel = ConstantKernel(1.0, (0.05, 100.0)) * matern + WhiteKernel(0.1, (1e-4, 1.0))
        model = GaussianProcessRegressor(kernel, n_restarts_optimizer=restarts, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: it does not matter
            model.fit(points, standardized[:, -1])
        self.kernel: Kernel = model.kernel_
        self._points = points
        self._weights: Array = cho_solve((model.L_, True), standardized)

    def predict(self, points: Array) -> Array:
        """Log losses (n, epochs) at points (n, coordinates)."""
        return self._mean + self._scale * (self.kernel.k1(points, self._points) @ self._weights)
