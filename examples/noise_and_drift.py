"""Effect of negative gamma with heavy-tailed gradient noise, or with a moving optimum, on a grid.

    python -m examples.noise_and_drift

Each contender has the step size, of a grid of three per decade, with the lowest third quartile of the loss over 64
seeds (the median would allow one with which almost half of the runs diverge); the table is of 64 other seeds. Loss is
the value over that at the start: the mean over the last tenth of the steps, with a cosine schedule, where the optimum
stands still; over the last half, with a constant rate, where it moves. All runs of a contender are rows of one
tensor: with floor 0 Anon works coordinate by coordinate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from anon_tune.optim import Anon
from anon_tune.search.coordinates import typical_multiplier
from anon_tune.workers.problems.data import Split, Surface, read_surface
from anon_tune.workers.trial.schedules import schedule_factor

GAMMAS = (-1.0, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5)
STEP_SIZES = [10 ** (k / 3) for k in range(-8, 4)]
SEEDS = 64
BATCH = 16
SPREAD = 0.1

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def anon(gamma: float, **options: Any) -> tuple[float, Make]:
    return gamma, lambda groups: Anon(groups, gamma=gamma, **options)


EVERY_STEP = {"delay": "every:1", "betas": (0.9, 0.999, 0.999)}  # as often as Adam, and averaged as there
CONTENDERS: Mapping[str, tuple[float, Make]] = {
    **{f"gamma {gamma:g}": anon(gamma) for gamma in GAMMAS},
    **{f"gamma {gamma:g}, every step": anon(gamma, **EVERY_STEP) for gamma in (-0.5, 1.0)},
    "Adam": (1.0, torch.optim.Adam),
}
SURFACES: Mapping[str, Mapping[str, Any]] = {
    "quadratic": {"name": "quadratic"},
    "rosenbrock": {"name": "rosenbrock"},
    "rotated quadratic": {"name": "quadratic", "axes": "rotated"},
}
CONDITIONS: Mapping[str, Mapping[str, float]] = {
    "normal noise": {},
    "t(1.5) noise": {"degrees_of_freedom": 1.5},
    "drift": {"drift": 1.0},
}


def losses(surface: Surface, contender: str, step_sizes: list[float], *, seed: int, steps: int) -> Tensor:
    """Return the loss of each run, (step sizes, SEEDS), from one seed's random states; infinite if it diverged."""
    gamma, make = CONTENDERS[contender]
    multiplier = typical_multiplier(gamma, log_mean_square(surface))
    torch.manual_seed(seed)
    first = surface.start + SPREAD * torch.randn(SEEDS, len(surface.start))
    points = [first.clone().requires_grad_() for _ in step_sizes]
    optimizer = make(
        [{"params": [p], "lr": size / multiplier} for p, size in zip(points, step_sizes, strict=True)]
    )
    schedule = "constant" if surface.drift else "cosine"
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: schedule_factor(schedule, t, steps))
    draws = Split(surface.train.inputs[:1].expand(SEEDS * BATCH, -1), torch.zeros(SEEDS * BATCH))
    total, counted = torch.zeros(len(points), SEEDS), max(1, steps // (2 if surface.drift else 10))
    for step in range(steps):
        # An epoch has all steps here, so this is the distance that the optimum moves.
        moved = surface.moved(torch.tensor(step / steps * len(surface.train)))
        noise = surface.noise(draws).view(SEEDS, BATCH, -1).mean(1)
        places = torch.stack(points) - moved
        values = surface.value(places) / surface.first_value
        optimizer.zero_grad()
        (values.sum() + (noise * (places - places.detach())).sum()).backward()
        optimizer.step()
        rate.step()
        if step >= steps - counted:
            total += values.detach() / counted
    return total.nan_to_num(math.inf)


def log_mean_square(surface: Surface) -> float:
    """Scale of the gradient at the start, without noise, as the probe's without a floor."""
    point = surface.start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(surface.value(point) / surface.first_value, point)
    return gradient.square().mean().log().item()


def median(values: Tensor) -> tuple[float, float, float]:
    """Return the median of values (n) and its 95% interval by ranks (normal approximation of the binomial)."""
    ordered, n = values.sort().values.tolist(), len(values)
    reach = 0.98 * math.sqrt(n)
    low, high = ordered[math.floor(n / 2 - reach)], ordered[math.ceil(n / 2 + reach)]
    return values.median().item(), low, high


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--noise", type=float, default=0.3, help="scale of an example's noise; a batch has 16"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for surface_name, function in SURFACES.items():
        for condition, options in CONDITIONS.items():
            kind = {**function, **options, "noise": arguments.noise}
            surface = read_surface(kind.pop("name"), kind)
            print(f"{surface_name}, {condition}", flush=True)
            for contender in CONTENDERS:
                compare(surface, contender, arguments.steps)


def compare(surface: Surface, contender: str, steps: int) -> None:
    """Choose a contender's step size, and print its results on other seeds."""
    tuned = losses(surface, contender, STEP_SIZES, seed=0, steps=steps)
    best = STEP_SIZES[int(tuned.sort(dim=1).values[:, 3 * SEEDS // 4].argmin())]
    found = losses(surface, contender, [best], seed=1, steps=steps)[0]
    middle, low, high = median(found)
    edge = " (the grid's end)" if best in (STEP_SIZES[0], STEP_SIZES[-1]) else ""
    print(
        f"  {contender:22s} median {middle:9.2e}  [{low:.2e}, {high:.2e}]"
        f"  above the start {int((found > 1).sum()):2d} of {SEEDS}  step size {best:.2g}{edge}",
        flush=True,
    )


if __name__ == "__main__":
    main()
