"""The probe: gradient scale and size of a job's model, measured before the search. Needs torch alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anon_tune.architecture import Computation, fingerprint
from anon_tune.errors import InputError
from anon_tune.workers.problems.data import Split
from anon_tune.workers.problems.tasks import Problem
from anon_tune.workers.trial.dry_run import FactoryArm, dry_run
from anon_tune.workers.trial.messages import ProbeResult
from anon_tune.workers.trial.operations import counted

__all__ = ["PROBE_BATCHES", "gradient_scale", "probe"]

PROBE_BATCHES = 4
_EPS = 1e-16  # Anon's own


def probe(
    problem: Problem,
    *,
    seed: int,
    batch_size: int,
    floor: float,
    device: torch.device | str,
    batches: int = PROBE_BATCHES,
    arms: Iterable[FactoryArm] = (),
) -> ProbeResult:
    """Measure a freshly initialized model on a few batches, and try the user's arms on it; deterministic for a seed.

    Args:
        problem: Data, model and loss; its data already on `device`.
        seed: Seed of the initial weights and of the batches.
        batch_size: Batch size of the training, since the gradient's noise is part of its scale.
        floor: Floor of the space; part of sigma.
        device: Device to measure on.
        batches: Number of batches to average over.
        arms: Arms to try; see `dry_run`.

    Raises:
        InputError: The gradient is not finite; or as `dry_run`.
    """
    torch.manual_seed(seed)
    model = problem.build_model().to(device)
    order = torch.Generator().manual_seed(seed)
    train = problem.train
    squares: list[Tensor] = [torch.zeros_like(parameter) for parameter in model.parameters()]
    model.train()
    size = min(batch_size, len(train))
    signature: dict[str, Any] = {}
    noting = model.register_forward_hook(
        lambda _, inputs, output: signature.update(_signature(inputs, output))
    )
    for batch in train.batches(size, torch.randint(len(train), (batches * size,), generator=order), (seed,)):
        model.zero_grad()
        problem.loss(model, batch, 0.0).backward()
        for square, parameter in zip(squares, model.parameters(), strict=True):
            if parameter.grad is not None:
                square += parameter.grad.square() / batches
    noting.remove()
    log_mean_sigma, quantiles = gradient_scale(squares, floor)
    dry_run(arms, model)
    architecture = fingerprint(model, _computation(problem, model, batch))
    return ProbeResult(
        log_mean_sigma=log_mean_sigma,
        quantiles_log_sigma=quantiles,
        floor=floor,
        batches=batches,
        architecture=architecture,
        signature=signature or None,
    )


def _signature(inputs: tuple[Any, ...], output: Any) -> dict[str, Any]:
    """Return types and shapes of a call of a model, with -1 for the size of the batch; {} if not all are tensors."""
    if not isinstance(output, Tensor) or not all(isinstance(each, Tensor) and each.dim() for each in inputs):
        return {}
    return {
        name: [{"type": str(t.dtype).removeprefix("torch."), "shape": [-1, *t.shape[1:]]} for t in tensors]
        for name, tensors in (("inputs", inputs), ("outputs", (output,)))
    }


def _computation(problem: Problem, model: nn.Module, batch: Split) -> Computation | None:
    """Return the multiplications of a forward pass; None if the model cannot run while they are counted."""
    try:
        with torch.no_grad(), counted() as found:
            problem.loss(model, batch, 0.0)
    except Exception:  # noqa: BLE001 - the model has just been trained: this is about counting alone
        return None
    return found


def gradient_scale(squares: Sequence[Tensor], floor: float) -> tuple[float, dict[str, float]]:
    """Return `log_mean_sigma` and `quantiles_log_sigma` of a `ProbeResult` from the mean squared gradients.

    Raises:
        InputError: One is not finite.
    """
    log_sigma = torch.cat([(s + _EPS + floor * s.mean()).log().flatten().double() for s in squares]).cpu()
    if not log_sigma.isfinite().all():
        raise InputError("The gradient is not finite at the initial weights. Check the data and the model.")
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = zip(shares, _quantiles(log_sigma, shares), strict=True)
    return (
        (log_sigma.logsumexp(0) - math.log(len(log_sigma))).item(),
        {f"{share:.0%}": value for share, value in quantiles},
    )


def _quantiles(values: Tensor, at: tuple[float, ...]) -> list[float]:
    """Return quantiles by sorting, since torch.quantile refuses more than 16 million values."""
    ordered = values.sort().values
    return [ordered[round(q * (len(ordered) - 1))].item() for q in at]
