"""Comparison of candidates for V(gamma): `python -m benchmarks.search.coordinates --out docs/img`.

For each recorded surface: the best step size at each gamma in the units of each candidate, how far it moves, and a
picture of the surface in raw and in search coordinates.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.search.record import COORDINATES, FOLDER, GAMMAS
from benchmarks.search.surfaces import Recorded

mpl.use("Agg")
from matplotlib import pyplot as plt

_GAMMAS = np.linspace(-0.5, 1.5, 41)
_STEPS = np.linspace(0.0, 1.0, 81)
_OTHERS = 64
_QUANTILE = 0.25
"""At each (gamma, step size) a good quarter of the other coordinates stands for all."""

_DIVERGED = 2.0


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    # Not capped: at the ends of gamma even good points may be at the cap, where all step sizes are as good.
    surfaces = [Recorded(path, cap=math.inf) for path in sorted(FOLDER.glob("*.npz"))]
    losses = {surface.name: loss_map(surface) for surface in surfaces}
    table = Table(
        "surface", "raw lr", *surfaces[0].multipliers, title="factor by which the best step size moves"
    )
    logs: dict[str, list[float]] = {name: [] for name in surfaces[0].multipliers}
    for surface in surfaces:
        best = best_log_lr(surface, losses[surface.name])
        cells = [f"{math.exp(best.max() - best.min()):.0f}"]
        for name, log_v in surface.multipliers.items():
            moved = best + np.interp(_GAMMAS, GAMMAS, log_v)
            cells.append(f"{math.exp(moved.max() - moved.min()):.1f}")
            logs[name].append(float(moved.max() - moved.min()))
        table.add_row(surface.name, *cells)
    table.add_row("geometric mean", "", *(f"{math.exp(np.mean(values)):.1f}" for values in logs.values()))
    Console(width=140).print(table)
    draw(surfaces, losses, parser.parse_args().out / "search_coordinates.png")


def loss_map(surface: Recorded) -> NDArray[np.float64]:
    """Return the log of the final loss over (step size, gamma), in the units of the recording."""
    others = np.random.default_rng(0).random((_OTHERS, len(COORDINATES)))
    found = np.empty((len(_STEPS), len(_GAMMAS)))
    points = np.tile(others, (len(_STEPS), 1))
    points[:, 1] = np.repeat(_STEPS, _OTHERS)
    for column, gamma in enumerate(_GAMMAS):
        points[:, 0] = (gamma + 0.5) / 2
        losses = surface.log_finals(points, _DIVERGED).reshape(len(_STEPS), _OTHERS)
        found[:, column] = np.quantile(losses, _QUANTILE, axis=1)
    return found


def recorded_log_step() -> NDArray[np.float64]:
    """Return the log of the step sizes of the map's rows."""
    low, high, _ = COORDINATES["step_size"]
    return math.log(low) + _STEPS * math.log(high / low)


def best_log_lr(surface: Recorded, losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of the best learning rate at each gamma."""
    best = recorded_log_step()[losses.argmin(axis=0)]
    return best - np.interp(_GAMMAS, GAMMAS, surface.multipliers["median"])


def draw(surfaces: list[Recorded], losses: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Both views of every surface, with the best step size at each gamma."""
    figure, axes = plt.subplots(2, len(surfaces), figsize=(4 * len(surfaces), 6.5), sharex=True)
    for column, surface in enumerate(surfaces):
        shown = np.exp(losses[surface.name])
        best = best_log_lr(surface, losses[surface.name])
        log_lr = recorded_log_step()[:, None] - np.interp(_GAMMAS, GAMMAS, surface.multipliers["median"])
        scale = np.interp(_GAMMAS, GAMMAS, surface.multipliers["gradient RMS"])
        views = (("learning rate", log_lr, best), ("step size", log_lr + scale, best + scale))
        for axis, (name, logs, line) in zip(axes[:, column], views, strict=True):
            gammas = np.broadcast_to(_GAMMAS, logs.shape)
            image = axis.pcolormesh(
                gammas, np.exp(logs), shown, shading="nearest", norm="log", cmap="viridis_r"
            )
            axis.plot(_GAMMAS, np.exp(line), color="white", linewidth=1.5)
            axis.set_yscale("log")
            axis.set_ylabel(name)
        axes[0, column].set_title(surface.name)
        axes[1, column].set_xlabel("gamma")
        bar = figure.colorbar(image, ax=axes[:, column], label="validation loss", location="bottom", pad=0.12)
        bar.ax.xaxis.set_minor_formatter("")
    figure.subplots_adjust(wspace=0.4)
    figure.savefig(path, dpi=75, bbox_inches="tight")


if __name__ == "__main__":
    main()
