"""Effect of the search spaces' `floor`: `python -m benchmarks.search.floor [--points N] [--problems ...]`.

Trains Anon at the points of a Sobol sequence over the space `default`, once for each floor, and prints a Markdown
table for each problem. The trainings of a point share their seed, so that floors are compared in pairs. V(gamma) is
the probe's at each floor, as in a job. Two problems begin with tiny gradients, see `TINY`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import nn

from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search_spaces import load_space
from anon_tune.workers.problems.models.transformer import Block
from anon_tune.workers.problems.tasks import Problem
from anon_tune.workers.trial.probe import probe
from anon_tune.workers.trial.training import Training
from benchmarks.search.problems import TRAININGS, RecordedTraining

SPACE = load_space("default")
FLOORS = (0.0, 0.003, 0.03)
DIVERGED = 4.0
"""The log loss that a diverged training counts as, and the largest that any counts as."""

_TINY = 1e-6
_RESAMPLES = 2000

Finals = NDArray[np.float64]
"""Final log validation loss, points x floors."""


def tiny_head(model: nn.Module) -> None:
    """Scale the last layer's weights by 1e-6: the first gradients of all other tensors are tiny as a whole."""
    model.get_submodule("head").get_parameter("weight").mul_(_TINY)


def tiny_units(model: nn.Module) -> None:
    """Scale what every second hidden unit gives by 1e-6: half of the tensor before it has tiny first gradients."""
    for block in model.modules():
        if isinstance(block, Block):
            block.get_submodule("mlp.2").get_parameter("weight")[:, ::2].mul_(_TINY)
            block.out.weight[:, ::2].mul_(_TINY)


TINY: Mapping[str, Callable[[nn.Module], None]] = {"tiny-head": tiny_head, "tiny-units": tiny_units}
"""Name of a problem -> its change to the initial weights of the digits transformer."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*TRAININGS, *TINY]
    digits = ["digits-cnn", "digits-transformer", *TINY]
    parser.add_argument("--problems", nargs="+", choices=names, default=digits)
    parser.add_argument("--points", type=int, default=64, help="of the Sobol sequence; a power of two")
    parser.add_argument("--floors", nargs="+", type=float, default=FLOORS, help="the first is compared with")
    data = Path(os.environ.get("ANON_TUNE_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of the data sets")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.problems:
        points = draw(arguments.points)
        finals = measure(name, points, arguments.floors, arguments.data)
        print(table(name, points, arguments.floors, finals), flush=True)


def draw(count: int) -> list[dict[str, float]]:
    """Return the points of the space."""
    units = qmc.Sobol(len(SPACE.parameters), scramble=True, rng=0).random(count)
    return [{name: float(value) for name, value in SPACE.complete(unit, {}).items()} for unit in units]


def measure(name: str, points: Sequence[dict[str, float]], floors: Sequence[float], data: Path) -> Finals:
    """Train at every point with every floor."""
    training = TRAININGS["digits-transformer" if name in TINY else name]
    problem = training.make(data)
    if name in TINY:
        problem = changed(problem, TINY[name])
    finals = np.empty((len(points), len(floors)))
    for column, floor in enumerate(floors):
        batch_size = training.batch_size
        scale = probe(problem, seed=0, batch_size=batch_size, floor=floor, device="cpu").log_mean_sigma
        space = SPACE.model_copy(update={"fixed": {**SPACE.fixed, "floor": floor}})
        for seed, point in enumerate(points):
            arguments = optimizer_arguments(space, point, scale)
            finals[seed, column] = train(problem, training, arguments, seed)
    return finals


def changed(problem: Problem, change: Callable[[nn.Module], None]) -> Problem:
    """Return the problem with other initial weights."""

    def build() -> nn.Module:
        model = problem.build_model()
        with torch.no_grad():
            change(model)
        return model

    return dataclasses.replace(problem, build_model=build)


def train(problem: Problem, training: RecordedTraining, arguments: Mapping[str, object], seed: int) -> float:
    """Return the final log validation loss; `DIVERGED` where it diverged."""
    epochs, batch_size = training.epochs, training.batch_size
    run = Training(problem, "anon", arguments, seed=seed, epochs=epochs, batch_size=batch_size)
    loss = math.inf
    for _ in range(epochs):
        loss = run.run_epoch()["val_loss"]
        if run.diverged:
            return DIVERGED
    return min(math.log(loss), DIVERGED)


def table(name: str, points: Sequence[dict[str, float]], floors: Sequence[float], finals: Finals) -> str:
    """Return a table with a row for each region of the space: each floor, and the others over the first by point."""
    gamma, delay = (np.array([point[key] for point in points]) for key in ("gamma", "delay"))
    mean = finals.mean(axis=1)
    regions = {
        "all": np.ones(len(points), dtype=bool),
        "gamma < 0": gamma < 0,
        "gamma 0 to 0.75": (gamma >= 0) & (gamma <= 0.75),
        "gamma > 0.75": gamma > 0.75,
        "delay < 3": delay < 3,
        "delay >= 3": delay >= 3,
        "gamma > 0.75, delay < 3": (gamma > 0.75) & (delay < 3),
        "gamma > 0.75, delay >= 3": (gamma > 0.75) & (delay >= 3),
        "best quarter, by the mean over floors": mean <= np.quantile(mean, 0.25),
    }
    shown = " / ".join(f"{floor:g}" for floor in floors)
    over = [f"{floor:g} over {floors[0]:g}" for floor in floors[1:]]
    head = [name, "points", f"diverged, by floor {shown}", "median log loss", "best 10%", *over]
    rows = [head, ["---"] * len(head)]
    for region, inside in regions.items():
        part = finals[inside]
        if not len(part):
            continue
        summaries = (
            [f"{share:.0%}" for share in (part == DIVERGED).mean(axis=0)],
            [f"{value:.2f}" for value in np.median(part, axis=0)],
            [f"{value:.2f}" for value in np.quantile(part, 0.1, axis=0)],
        )
        pairs = [compared(part[:, column] - part[:, 0]) for column in range(1, len(floors))]
        rows.append([region, str(len(part)), *map(" / ".join, summaries), *pairs])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def compared(differences: Finals) -> str:
    """Return the median difference of the log loss, its 95% bootstrap interval, and better:worse without ties."""
    differences = differences[differences != 0]  # Mostly points that diverge with both.
    if not len(differences):
        return "no pair differs"
    drawn = np.random.default_rng(0).choice(differences, (_RESAMPLES, len(differences)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    better, worse = (differences < 0).sum(), (differences > 0).sum()
    return f"{np.median(differences):+.3f} ({low:+.3f} to {high:+.3f}), {better}:{worse}"


if __name__ == "__main__":
    main()
