"""Training on a GPU: speed, memory, number of trials that fit, and the loss over gamma.

    python -m benchmarks.gpu [--only resnet18 ...] [--epochs 3]
    python -m benchmarks.gpu --device cpu --quick     the same at tiny sizes, to see that it runs

ResNet-18 and a DDPM's U-Net on Fashion-MNIST, a GPT on tinyshakespeare, from the folders `fashion-mnist` and
`tinyshakespeare` of ANON_TUNE_DATA; our training loop with Anon fused. Needs torch alone: no Ray, Optuna or MLflow.

Speed is that of training without evaluation, the median over epochs of `--steps` steps after one to warm up; the
variants take turns epoch by epoch. The loss over gamma is the best of a few step sizes at each gamma, in units of
the gradient's RMS as the search's, after `--epochs` epochs of all data, with one seed: a first look, no result.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from anon_tune.optim import Anon
from anon_tune.optim.factory import OPTIMIZERS
from anon_tune.search.coordinates import typical_multiplier
from anon_tune.workers.problems.data import Examples, Split
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.probe import probe
from anon_tune.workers.trial.training import Training
from benchmarks.optimizer_step import describe_machine

NO_DEVICE = 2
FLOOR = 0.03
GAMMAS = (-0.5, 0.0, 0.5, 1.0, 1.25)
STEP_SIZES = (0.1, 0.3, 1.0, 3.0)
IMAGES = {"folder": "fashion-mnist"}
TEXT = {"file": "tinyshakespeare/input.txt", "length": 256}
QUICK_IMAGES = {**IMAGES, "train": 64, "validation": 32, "test": 32}


@dataclass(frozen=True)
class Workload:
    """A model and its data at a useful size, and at one that a CPU trains in a second."""

    task: str
    data: str
    options: dict[str, Any]
    model: str
    size: dict[str, int]
    batch_size: int
    quick_options: dict[str, Any]
    quick_size: dict[str, int]

    def load(self, folder: Path, quick: bool) -> Problem:
        options = dict(self.quick_options if quick else self.options)
        for key in ("folder", "file"):
            if key in options:
                options[key] = str(folder / options[key])
        return load_problem(
            self.task, self.data, self.model, self.quick_size if quick else self.size, options
        )


WORKLOADS = {
    "resnet18": Workload(
        "image_classification", "idx", IMAGES, "resnet18", {"width": 64}, 256, QUICK_IMAGES, {"width": 4}
    ),
    "gpt": Workload(
        "language_model", "text", TEXT, "gpt", {"width": 384, "depth": 6, "heads": 6}, 64,
        {**TEXT, "length": 16, "train": 64}, {"width": 16, "depth": 1, "heads": 2},
    ),
    "unet": Workload("diffusion", "idx", IMAGES, "unet", {"width": 64, "depth": 3}, 128, QUICK_IMAGES, {"width": 8}),
}  # fmt: skip


def variants(convolutional: bool, quick: bool) -> dict[str, dict[str, Any]]:
    """Variants by name, as arguments of Training; the last has all speed-ups together."""
    bf16: dict[str, Any] = {"precision": "bf16"}
    found = {"fp32": {}, "bf16": bf16}
    if convolutional:
        found["bf16, channels_last"] = {**bf16, "channels_last": True}
    if not quick:  # compiling takes a minute on a CPU
        found |= {
            f"{name}, compile": {**how, "compile": True} for name, how in found.items() if name != "fp32"
        }
    return found


def begin(
    problem: Problem,
    workload: Workload,
    computation: dict[str, Any],
    options: argparse.Namespace,
    **keys: Any,
) -> Training:
    hyperparameters = keys.pop("hyperparameters", {"lr": 1e-4, "gamma": 1.0})
    return Training(
        problem,
        "anon",
        {"floor": FLOOR, **hyperparameters},
        seed=0,
        batch_size=16 if options.quick else workload.batch_size,
        device=options.device,
        **computation,
        **keys,
    )


def show_speed(problem: Problem, workload: Workload, options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    batch = 16 if options.quick else workload.batch_size
    train, validation = cast(Split, problem.train), cast(Split, problem.validation)
    some = dataclasses.replace(problem, train=train[: options.steps * batch], validation=validation[:1024])
    made = {
        name: begin(some, workload, computation, options, epochs=options.rounds + 1)
        for name, computation in variants(workload.task != "language_model", options.quick).items()
    }
    speeds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(options.rounds + 1):
        for name, training in made.items():
            training.run_epoch()
            if turn:
                speeds[name].append(training.speed()["samples_per_second"])
    names = list(made)
    computations = variants(workload.task != "language_model", options.quick)
    made.clear()
    print("| | samples/s | / fp32 | peak memory, MiB | trials on the card |\n|---|---|---|---|---|")
    base = statistics.median(speeds["fp32"])
    for name in names:
        speed, peak, fit = statistics.median(speeds[name]), "", ""
        if device.type == "cuda":  # alone on the card, as a trial's process would be
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            took = begin(some, workload, computations[name], options, epochs=1).dry_run()
            peak, fit = f"{(took.peak_memory_bytes or 0) / 2**20:.0f}", str(took.trials_per_device)
        print(f"| {name} | {speed:.0f} | {speed / base:.2f} | {peak} | {fit} |", flush=True)


def show_losses(problem: Problem, workload: Workload, options: argparse.Namespace) -> None:
    """The best of the step sizes at each gamma; a diverged training counts as none."""
    computation = {"precision": "bf16" if options.device == "cuda" else "fp32"}
    found = probe(problem, seed=0, batch_size=workload.batch_size, floor=FLOOR, device=options.device)
    print(f"\nAfter {options.epochs} epochs:\n")
    print("| gamma | best validation loss | at step size | others |\n|---|---|---|---|")
    for gamma in GAMMAS[::2] if options.quick else GAMMAS:
        losses = {}
        for step_size in STEP_SIZES[::3] if options.quick else STEP_SIZES:
            lr = step_size / typical_multiplier(gamma, found.log_mean_sigma)
            training = begin(
                problem, workload, computation, options, epochs=options.epochs,
                hyperparameters={"lr": lr, "gamma": gamma},
            )  # fmt: skip
            losses[step_size] = trained(training, options.epochs)
        best = min(losses, key=losses.__getitem__)
        others = ", ".join(f"{size:g}: {loss:.4g}" for size, loss in losses.items() if size != best)
        print(f"| {gamma:g} | {losses[best]:.4g} | {best:g} | {others} |", flush=True)


def trained(training: Training, epochs: int) -> float:
    loss = math.inf
    for _ in range(epochs):
        loss = training.run_epoch()["val_loss"]
        if training.diverged:
            return math.inf
    return loss


def on(device: torch.device, problem: Problem, quick: bool) -> Problem:
    """Return the problem on a device; at tiny sizes a part of its texts, which have no option for that."""

    def part(split: Examples) -> Examples:
        return cast(Split, split)[:64] if quick else split

    train, validation, test = part(problem.train), part(problem.validation), part(problem.test)
    return dataclasses.replace(problem, train=train, validation=validation, test=test).to(device)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--epochs", type=int, default=None, help="of each training of the loss over gamma")
    parser.add_argument("--rounds", type=int, default=None, help="measured epochs of each variant")
    parser.add_argument("--steps", type=int, default=None, help="steps of these")
    options = parser.parse_args()
    options.epochs = options.epochs or (1 if options.quick else 3)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.steps = options.steps or (2 if options.quick else 50)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device: nothing was measured. --device cpu --quick shows that it runs.")
        return NO_DEVICE
    folder = os.environ.get("ANON_TUNE_DATA")
    if not folder:
        raise SystemExit("set ANON_TUNE_DATA to the folder that has fashion-mnist and tinyshakespeare")
    OPTIMIZERS["anon"] = (functools.partial(Anon, fused=True), OPTIMIZERS["anon"][1])
    print(describe_machine(options.device))
    for name in options.only:
        workload = WORKLOADS[name]
        problem = on(torch.device(options.device), workload.load(Path(folder), options.quick), options.quick)
        print(f"\n## {name}, {'tiny sizes' if options.quick else f'batches of {workload.batch_size}'}\n")
        show_speed(problem, workload, options)
        show_losses(problem, workload, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
