"""The surrogate: a Gaussian process of an arm's results over the unit cube of its space.

It is BoTorch's SingleTaskGP with its default priors, whose length scales grow with the dimension (Hvarfner et al.
2024, arXiv 2402.02229). With ten or twenty noisy values, maximum likelihood alone would fit the lengths to the noise.
All computations are in double precision and in one thread, so the same values give the same result.
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
"""Number of joint draws of the acquisition function."""

_PAIRS = 512
"""Number of pairs of opposite draws of `gain`."""

_RESTARTS, _RAW_POINTS = 4, 256
"""Number of starts of the maximization of the acquisition function, and of points they are the best of."""


class Surrogate:
    """Gaussian process fitted to noisy values; smaller is better.

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
            # BoTorch maximizes, hence the signs.
            self._model = SingleTaskGP(
                self._points, -_tensor(values)[:, None], outcome_transform=Standardize(m=1)
            )
            fit_gpytorch_mll(ExactMarginalLogLikelihood(self._model.likelihood, self._model))

    def suggest(self, pending: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
        """Return the point of the unit cube with the largest expected improvement, shape (d,).

        The criterion is noisy expected improvement (Letham et al. 2019, arXiv 1706.07094) in its logarithmic form
        (Ament et al. 2023, arXiv 2310.20708).

        Args:
            pending: Places of running trials, shape (k, d), where a second trial would bring no improvement.
            seed: Seed of the draws and the starting points.
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
            # Each point by itself, because a joint posterior has a covariance of (m, m).
            posterior = self._model.posterior(_tensor(points)[:, None])
            return -posterior.mean[:, 0, 0].numpy(), posterior.variance[:, 0, 0].sqrt().numpy()

    def gain(self, points: NDArray[np.float64], trials: int) -> float:
        """Return the amount by which further trials are expected to lower the lowest expected value of some points.

        This is the knowledge gradient of a batch (Wu and Frazier 2016, arXiv 1606.04414). Each point is tried as
        often as it is the lowest of a joint draw. The noisier a trial, the smaller the gain.

        Args:
            points: Places where low values are expected, shape (m, d).
            trials: Number of further trials, at least 1.
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
    """Compute in one thread, from a seed, and restore torch's settings afterwards."""
    import torch
    from botorch.utils.sampling import manual_seed

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with manual_seed(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that stops at its iteration limit is good enough
            yield
    finally:
        torch.set_num_threads(threads)
