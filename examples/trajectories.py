"""Draws the pictures of docs/algorithm.md: paths over two surfaces, and regret on Adam's counter-examples.

    python examples/trajectories.py --out docs/img

Every optimizer has the learning rate, of a grid of four per decade, that ends lowest after the same number of
steps without leaving the picture, and the script prints it. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from anon_tune.optim import Anon
from anon_tune.workers.problems.data.functions import rastrigin, rosenbrock

mpl.use("Agg")
from matplotlib import pyplot as plt

GAMMAS = (-0.5, 0.0, 0.5, 1.0, 1.5)
LEARNING_RATES = [10 ** (k / 4) for k in range(-24, 9)]
STEPS = 300

Box = tuple[float, float, float, float]
Surface = Callable[[Tensor], Tensor]
Make = Callable[[list[Tensor], float], torch.optim.Optimizer]
CONTENDERS: dict[str, Make] = {
    "SGD, momentum 0.9": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    **{f"Anon, gamma {gamma:g}": lambda p, lr, gamma=gamma: Anon(p, lr=lr, gamma=gamma) for gamma in GAMMAS},
}
COLOURS = dict(
    zip(CONTENDERS, ["black", "grey", *plt.get_cmap("plasma")([0.05, 0.25, 0.45, 0.65, 0.85])], strict=True)
)


def walk(surface: Surface, start: tuple[float, float], box: Box, make: Make, lr: float) -> Tensor:
    """Return the points of a run, (STEPS + 1, 2); fewer where it leaves the box."""
    point = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([point], lr)
    points = [point.detach().clone()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        surface(point).backward()
        optimizer.step()
        x, y = point.tolist()
        if not (box[0] <= x <= box[1] and box[2] <= y <= box[3]):
            break
        points.append(point.detach().clone())
    return torch.stack(points)


def best_walk(
    surface: Surface, start: tuple[float, float], box: Box, make: Make
) -> tuple[float, Tensor, float]:
    """Return learning rate, points and last value of the run that stays in the box and ends lowest."""
    walks = ((lr, walk(surface, start, box, make, lr)) for lr in LEARNING_RATES)
    runs = [(lr, points, surface(points[-1]).item()) for lr, points in walks if len(points) > STEPS]
    # Of runs that end in the same place, the one with the largest steps.
    return min(runs, key=lambda run: (float(f"{run[2]:.3g}"), -run[0]))


def draw_surface(surface: Surface, start: tuple[float, float], box: Box, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(12, 5.2), width_ratios=[1.25, 1])
    xs, ys = torch.linspace(box[0], box[1], 400), torch.linspace(box[2], box[3], 400)
    heights = surface(torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1))
    axes[0].contourf(xs, ys, (heights + 1e-2).log(), levels=24, cmap="Greys_r", alpha=0.55)
    print(f"{path.stem}: {STEPS} steps from {start}")
    for name, make in CONTENDERS.items():
        lr, points, last = best_walk(surface, start, box, make)
        print(f"  {name:20s} lr {lr:8.2g}   last value {last:.3g}")
        style = {"color": COLOURS[name], "lw": 1.4, "ls": "-" if name.startswith("Anon") else "--"}
        axes[0].plot(points[:, 0], points[:, 1], **style)
        axes[0].plot(*points[-1], "o", color=COLOURS[name], ms=5)
        axes[1].semilogy(surface(points).clamp_min(1e-16), label=f"{name} (lr {lr:.2g})", **style)
    axes[0].plot(*start, "k+", ms=12)
    axes[0].set(xlim=box[:2], ylim=box[2:], title=f"{surface.__name__}: paths", xlabel="x", ylabel="y")
    axes[1].set(title="value", xlabel="step")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def regret(make: Make, slopes: Tensor, lr: float) -> Tensor:
    """Average regret after each step, mean over the runs; slopes is (steps, runs), x stays in [-1, 1]."""
    x = torch.zeros(slopes.shape[1])
    optimizer = make([x], lr)
    paid = torch.zeros(slopes.shape, dtype=torch.float64)
    for t, slope in enumerate(slopes):
        paid[t] = slope * x
        x.grad = slope.clone()
        optimizer.param_groups[0]["lr"] = lr / math.sqrt(t + 1)
        optimizer.step()
        x.clamp_(-1.0, 1.0)
    best = -slopes.double().cumsum(0).abs()
    steps = torch.arange(1, len(slopes) + 1)[:, None]
    return ((paid.cumsum(0) - best) / steps).mean(1)


def draw_counter_examples(path: Path) -> None:
    """Reddi, Kale and Kumar (2018): slope 4 now and then, else -1; Adam walks to the wrong end."""
    steps, runs, beta2 = 20_000, 64, 1 / 17
    online = torch.where(torch.arange(steps) % 3 == 0, 4.0, -1.0)[:, None]
    rare = torch.rand(steps, runs, generator=torch.Generator().manual_seed(0)) < 0.25
    stochastic = torch.where(rare, 4.0, -1.0)
    contenders: dict[str, Make] = {
        "Adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.0, beta2)),
        **{
            f"Anon, gamma {gamma:g}": lambda p, lr, gamma=gamma: Anon(
                p, lr=lr, gamma=gamma, betas=(0.0, beta2, 0.5)
            )
            for gamma in GAMMAS
        },
    }
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), sharey=True)
    for axis, (title, slopes) in zip(axes, {"online": online, "stochastic": stochastic}.items(), strict=True):
        print(f"counter_examples, {title}: {steps} steps, lr 0.5 / sqrt(t)")
        for name, make in contenders.items():
            curve = regret(make, slopes, 0.5)
            print(f"  {name:20s} average regret {curve[-1].item():.4f}")
            style = {"color": COLOURS[name], "lw": 1.4, "ls": "-" if name.startswith("Anon") else "--"}
            axis.loglog(range(1, steps + 1), curve.clamp_min(1e-4), label=name, **style)
        axis.set(title=title, xlabel="step")
    axes[0].set_ylabel("average regret")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/img"), help="folder for the pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    draw_surface(rosenbrock, (-1.5, 2.0), (-2.0, 2.0, -1.0, 3.0), out / "rosenbrock.png")
    draw_surface(rastrigin, (-2.2, 2.7), (-5.12, 5.12, -5.12, 5.12), out / "rastrigin.png")
    draw_counter_examples(out / "counter_examples.png")


if __name__ == "__main__":
    main()
