"""The surrogate: a Gaussian process of an arm's results over the unit cube of its space.

BoTorch's SingleTaskGP with its default priors, whose length scales grow with the dimension (Hvarfner et al. 2024,
arXiv 2402.02229): with ten or twenty noisy values, lengths by maximum likelihood alone are fitted to the noise.
Everything is computed in double precision and in one thread, so the same values give the same result.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Surrogate"]

_SAMPLES = 128
"""Joint draws by which the acquisition function is computed."""

_PAIRS = 512
"""Pairs of opposite draws by which `gain` is computed."""

_RESTARTS, _RAW_POINTS = 4, 256
"""From so many of the best of so many points the acquisition function is maximized."""


class Surrogate:
    """Gaussian process fitted to noisy values, the smaller the better.

    Args:
        points: Places in the unit cube, shape (n, d).
        values: The value at each, shape (n,), finite.
    """

    def __init__(self, points: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        # Imported here: torch and BoTorch take seconds, and the first trials need no model.
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from botorch.models.transforms import Standardize
        from gpytorch.mlls import ExactMarginalLogLikelihood

        with _reproducibly(seed=0):
            self._points = _tensor(points)
            # BoTorch maximizes.
            self._model = SingleTaskGP(
                self._points, -_tensor(values)[:, None], outcome_transform=Standardize(m=1)
            )
            fit_gpytorch_mll(ExactMarginalLogLikelihood(self._model.likelihood, self._model))

    def suggest(self, pending: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
        """Return the point of the unit cube from which the largest improvement is expected, shape (d,).

        By noisy expected improvement (Letham et al. 2019, arXiv 1706.07094; its logarithm: Ament et al. 2023, arXiv
        2310.20708).

        Args:
            pending: Places of running trials, shape (k, d): no improvement is expected from trying them twice.
            seed: Of the draws and the starting points.
        """
        import torch
        from botorch.acquisition import qLogNoisyExpectedImprovement
        from botorch.optim import optimize_acqf
        from botorch.sampling import SobolQMCNormalSampler

        with _reproducibly(seed):
            acquisition = qLogNoisyExpectedImprovement(
                self._model,
                self._points,
                sampler=SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=seed),
                X_pending=_tensor(pending) if len(pending) else None,
                prune_baseline=True,
            )
            best, _ = optimize_acqf(
                acquisition,
                torch.tensor([[0.0], [1.0]], dtype=torch.double).expand(2, self._points.shape[1]),
                q=1,
                num_restarts=_RESTARTS,
                raw_samples=_RAW_POINTS,
            )
            found: NDArray[np.float64] = best[0].numpy()
            return found

    def at(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return posterior mean and deviation of the value without noise at points (m, d), each of shape (m,)."""
        import torch

        with _reproducibly(seed=0), torch.no_grad():
            # Each point by itself: together they have a covariance of (m, m).
            posterior = self._model.posterior(_tensor(points)[:, None])
            return -posterior.mean[:, 0, 0].numpy(), posterior.variance[:, 0, 0].sqrt().numpy()

    def gain(self, points: NDArray[np.float64], trials: int) -> float:
        """Return by how much further trials are expected to lower the lowest expected value of some points.

        It is the knowledge gradient of a batch (Wu and Frazier 2016, arXiv 1606.04414). Each point is tried as often
        as it is the lowest of a joint draw. A noisy trial teaches little.

        Args:
            points: Places where low values are expected, shape (m, d).
            trials: How many trials there will be, at least 1.
        """
        import torch

        with _reproducibly(seed=0), torch.no_grad():
            posterior = self._model.posterior(_tensor(points))
            mean, covariance = -posterior.mean[:, 0], posterior.distribution.covariance_matrix
            lowest = (-posterior.rsample(torch.Size([2 * _PAIRS]))[:, :, 0]).argmin(dim=1)
            shares = torch.bincount(lowest, minlength=len(mean)).double() / len(lowest)
            tried = shares.nonzero()[:, 0]
            noise = self.noise**2 / (trials * shares[tried])
            seen = torch.linalg.cholesky(covariance[tried][:, tried] + torch.diag(noise))
            learnt = torch.linalg.solve_triangular(seen, covariance[tried], upper=False)
            half = torch.randn(_PAIRS, len(tried), dtype=torch.double)
            after = mean + torch.cat([half, -half]) @ learnt
            return float(mean.min() - after.min(dim=1).values.mean())

    def draw(self, points: NDArray[np.float64], count: int, seed: int) -> NDArray[np.float64]:
        """Return joint draws of the values without noise at points (m, d), shape (count, m)."""
        import torch

        with _reproducibly(seed), torch.no_grad():
            posterior = self._model.posterior(_tensor(points))
            found: NDArray[np.float64] = -posterior.rsample(torch.Size([count]))[:, :, 0].numpy()
            return found

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, in units of the values."""
        import torch

        with torch.no_grad():
            scale = self._model.outcome_transform.stdvs.item()
            return float(self._model.likelihood.noise.sqrt().item() * scale)


def _tensor(values: NDArray[np.float64]) -> Tensor:
    import torch

    return torch.tensor(np.asarray(values), dtype=torch.double)


@contextlib.contextmanager
def _reproducibly(seed: int) -> Iterator[None]:
    """Compute in one thread, from a seed, and leave torch as it was."""
    import torch
    from botorch.utils.sampling import manual_seed

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with manual_seed(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that ends at the limit of its iterations is good enough
            yield
    finally:
        torch.set_num_threads(threads)
