"""Add runs to a recording where its interpolation is best: `python -m benchmarks.search.refine NAME --data FOLDER`.

An interpolation looks best where it errs in that direction, and every regret is measured from its best. So each round
trains at the best point of each bin of gamma, adds the runs to the recording, and prints the prediction and the
result. Repeat until the two agree within the noise.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from benchmarks.search.problems import TRAININGS
from benchmarks.search.record import FOLDER, from_unit, train
from benchmarks.search.referee import BINS
from benchmarks.search.surfaces import Recorded


def main() -> None:
    """Refine one recording."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TRAININGS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recording", type=Path, help="in place of the benchmark's own file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = TRAININGS[arguments.name]
    problem = training.make(arguments.data)
    path = arguments.recording or FOLDER / f"{arguments.name}.npz"
    for _ in range(arguments.rounds):
        surface = Recorded(path)
        points = best_points(surface)
        first = int(surface.index.max()) + 1
        predicted = surface.log_finals(points, math.inf)
        curves = []
        for index, point in enumerate(points, first):
            curve = train(problem, training, point, index, surface.multipliers["median"])
            curves.append([math.nan if value is None else math.log(value) for value in curve])
            print(f"gamma {from_unit(point)['gamma']:.2f}: predicted {predicted[index - first]:.4f}, "
                  f"found {curves[-1][-1]:.4f}", flush=True)  # fmt: skip
        add(path, points, np.arange(first, first + len(points)), np.array(curves))


def best_points(surface: Recorded) -> np.ndarray:
    """Return the interpolation's best point of each bin of gamma, in the recording's unit cube."""

    def loss(points: np.ndarray) -> np.ndarray:
        return surface.log_finals(points, math.inf)

    return np.array([surface.lowest(loss, gammas)[1] for gammas in BINS])


def add(path: Path, units: np.ndarray, indices: np.ndarray, log_losses: np.ndarray) -> None:
    """Add runs to a recording."""
    stored = dict(np.load(path))
    for name, rows in {"unit": units, "index": indices, "log_loss": log_losses.round(4)}.items():
        stored[name] = np.concatenate([stored[name], rows.astype(stored[name].dtype)])
    np.savez_compressed(path, **stored)


if __name__ == "__main__":
    main()
