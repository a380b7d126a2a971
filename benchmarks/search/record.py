"""Record the surface of a real training: `python -m benchmarks.search.record NAME --data FOLDER`.

Anon is trained at points of a Sobol sequence over its search coordinates, wider than the search spaces in the step
size, and at some of them again with other seeds. `--extra` adds points of large gamma and usual step size. The result
is a compressed file beside this one, a few tens of kilobytes, which the benchmark interpolates. An interrupted
recording goes on where it was. `refine.py` then adds runs where the interpolation is best. The files were made with

    record digits-cnn                               refine digits-cnn --rounds 4
    record digits-transformer                       refine digits-transformer --rounds 4
    record fashion-cnn                              refine fashion-cnn --rounds 5
    record shakespeare-gpt --points 256 --extra 64  refine shakespeare-gpt --rounds 4
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from scipy.stats import qmc

from anon_tune.workers.problems.data import Split
from anon_tune.workers.problems.tasks import Problem
from anon_tune.workers.trial.probe import PROBE_BATCHES
from anon_tune.workers.trial.training import Training
from benchmarks.search.problems import TRAININGS, RecordedTraining

FOLDER = Path(__file__).parent / "surfaces"
COORDINATES = {
    "gamma": (-0.5, 1.5, False),
    "step_size": (2e-3, 50.0, True),
    "beta3": (0.0, 0.95, False),
    "delay": (1.1, 8.0, True),
    "decay": (1e-5, 0.1, True),
}
"""Name -> low, high, logarithmic. `step_size` and `decay` in units of the median multiplier."""

FLOOR = 0.03
GAMMAS = np.linspace(-0.5, 1.5, 41)
EXTRA_GAMMAS, EXTRA_STEPS = (1.2, 1.5), (0.3, 15.0)
"""Ranges of the `--extra` points; step sizes in the search's units."""

_REPEATED, _SEEDS = 20, 4


def main() -> None:
    """Record one surface."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TRAININGS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--partial", type=Path, default=Path("build"), help="where an unfinished one is kept")
    parser.add_argument("--points", type=int, default=512, help="of the Sobol sequence; a power of two")
    parser.add_argument("--extra", type=int, default=0, help="further points, see above; a power of two")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = TRAININGS[arguments.name]
    problem = training.make(arguments.data)
    multipliers = measure_multipliers(problem, training.batch_size)
    arguments.partial.mkdir(exist_ok=True)
    path = arguments.partial / f"{arguments.name}.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    with path.open("a") as partial:
        extra = extra_units(arguments.extra, multipliers)
        for index, unit, seed in runs(done, arguments.points, extra):
            curve = train(problem, training, unit, seed, multipliers["median"])
            done.append({"index": index, "unit": list(unit), "seed": seed, "curve": curve})
            partial.write(json.dumps(done[-1]) + "\n")
            partial.flush()
    write(FOLDER / f"{arguments.name}.npz", done, training.epochs, multipliers)


def runs(done: list[dict], points: int, extra: np.ndarray) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yield the runs still to be made: every point once, good ones again with other seeds, then the extra points."""
    units = qmc.Sobol(len(COORDINATES), scramble=True, rng=0).random(points)
    for index in range(len(done), points):
        yield index, units[index], index
    final = [run["curve"][-1] for run in done[:points]]
    good = sorted(range(points), key=lambda i: math.inf if final[i] is None else final[i])[: points // 4]
    chosen = np.random.default_rng(0).choice(good, _REPEATED, replace=False)
    again = [(int(index), seed) for seed in range(1, _SEEDS + 1) for index in chosen]
    for index, seed in again[len(done) - points :]:
        yield index, units[index], 10_000 * seed + index
    for index in range(len(done) - len(again), points + len(extra)):
        yield index, extra[index - points], index


def extra_units(count: int, multipliers: dict[str, np.ndarray]) -> np.ndarray:
    """Return points of the unit cube with a gamma and a step size in the ranges of the extra ones."""
    units = qmc.Sobol(len(COORDINATES), scramble=True, rng=1).random(count)
    gamma = EXTRA_GAMMAS[0] + units[:, 0] * (EXTRA_GAMMAS[1] - EXTRA_GAMMAS[0])
    steps = EXTRA_STEPS[0] * (EXTRA_STEPS[1] / EXTRA_STEPS[0]) ** units[:, 1]
    units_of_search = np.interp(gamma, GAMMAS, multipliers["gradient RMS"] - multipliers["median"])
    low, high, _ = COORDINATES["gamma"]
    units[:, 0] = (gamma - low) / (high - low)
    low, high, _ = COORDINATES["step_size"]
    units[:, 1] = np.log(steps * np.exp(-units_of_search) / low) / math.log(high / low)
    return units


def train(
    problem: Problem, training: RecordedTraining, unit: np.ndarray, seed: int, log_v: np.ndarray
) -> list[float | None]:
    """Return the validation loss after each epoch; None from where it diverged."""
    point = from_unit(unit)
    multiplier = math.exp(np.interp(point["gamma"], GAMMAS, log_v))
    hyperparameters = {
        "lr": point["step_size"] / multiplier,
        "betas": (0.9, 0.999, point["beta3"]),
        "gamma": point["gamma"],
        "delay": point["delay"],
        "floor": FLOOR,
        "weight_decay": point["decay"] * multiplier,
    }
    run = Training(
        problem, "anon", hyperparameters, seed=seed, epochs=training.epochs, batch_size=training.batch_size
    )
    curve: list[float | None] = []
    for _ in range(training.epochs):
        value = run.run_epoch()["val_loss"]
        if run.diverged:
            break
        curve.append(value)
    return curve + [None] * (training.epochs - len(curve))


def from_unit(unit: np.ndarray) -> dict[str, float]:
    """Return the coordinates of a point of the unit cube."""
    point = {}
    for u, (name, (low, high, log)) in zip(unit, COORDINATES.items(), strict=True):
        point[name] = float(low * (high / low) ** u if log else low + u * (high - low))
    return point


def measure_multipliers(problem: Problem, batch_size: int) -> dict[str, np.ndarray]:
    """Return candidates for log V(gamma) at GAMMAS, from the gradients at the initial weights, as the probe sees
    them.

    s is a coordinate's mean squared gradient, sigma the same with the floor. The candidates: the median and the
    geometric mean of sigma^(-gamma/2) over the coordinates; the RMS of the gradient to the power of -gamma; the RMS
    and the mean size of the update g * sigma^(-gamma/2), in units of that at gamma = 0.
    """
    train = cast(Split, problem.train)
    torch.manual_seed(0)
    model = problem.build_model()
    order = torch.Generator().manual_seed(0)
    squares = [torch.zeros_like(p) for p in model.parameters()]
    sizes = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(PROBE_BATCHES):
        batch = torch.randint(len(train), (batch_size,), generator=order)
        model.zero_grad()
        problem.loss(model, train[batch], 0.0).backward()
        for square, size, parameter in zip(squares, sizes, model.parameters(), strict=True):
            gradient = cast(torch.Tensor, parameter.grad)
            square += gradient.square() / PROBE_BATCHES
            size += gradient.abs() / PROBE_BATCHES
    log_sigma = torch.cat([(s + 1e-16 + FLOOR * s.mean()).log().flatten() for s in squares]).double().numpy()
    s = torch.cat([x.flatten() for x in squares]).double().numpy()
    mean_size = torch.cat([x.flatten() for x in sizes]).double().numpy()
    rms_update = [0.5 * np.log(np.mean(s * np.exp(-g * log_sigma)) / s.mean()) for g in GAMMAS]
    mean_update = [np.log(np.mean(mean_size * np.exp(-g / 2 * log_sigma)) / mean_size.mean()) for g in GAMMAS]
    return {
        "median": -GAMMAS / 2 * np.median(log_sigma),
        "geometric mean": -GAMMAS / 2 * log_sigma.mean(),
        "gradient RMS": -GAMMAS / 2 * math.log(s.mean()),
        "update RMS": np.array(rms_update),
        "update mean size": np.array(mean_update),
        "mean": np.array([np.log(np.mean(np.exp(-g / 2 * log_sigma))) for g in GAMMAS]),
    }


def write(path: Path, done: list[dict], epochs: int, multipliers: dict[str, np.ndarray]) -> None:
    """Store a recording: curves of log loss (NaN where diverged), the runs' points, and the multipliers."""
    curves = np.array([[math.nan if v is None else v for v in run["curve"]] for run in done])
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        unit=np.array([run["unit"] for run in done], dtype=np.float32),
        index=np.array([run["index"] for run in done], dtype=np.int16),
        log_loss=np.log(curves).round(4).astype(np.float32),
        multiplier_names=np.array(list(multipliers)),
        log_multipliers=np.array(list(multipliers.values()), dtype=np.float32),
        epochs=epochs,
    )


if __name__ == "__main__":
    main()
