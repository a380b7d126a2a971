"""Cost of the training loop, relative to a handwritten loop with the same model, data, optimizer and schedule.

    python -m benchmarks.loop_overhead [--quick] [--only gpt] [--processes 3] [--rounds 25] [--device cuda]

Fresh processes, one after the other; in each, the two loops take turns epoch by epoch, so that a busy machine slows
them alike. A figure is the median over the processes of the median over the rounds of (ours) / (by hand) in the same
round: of the process's own processor time on a CPU, of the time that passes on a GPU. The loop by hand makes no
checks, reports nothing but its losses, and holds its data on the device as ours does. An epoch takes the data
once, or as often over as makes 160 steps or a second, whichever comes first: what is measured once an epoch is meant
for epochs that are not over in 10 ms, and in turns of 20 seconds the speed of a shared machine changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from anon_tune.optim import make_optimizer
from anon_tune.workers.problems.data import Split
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.schedules import schedule_factor
from anon_tune.workers.trial.training import Training

FLOOR = 1.03
BATCH = 64
EPOCH_STEPS, EPOCH_SECONDS = 160, 1.0  # whichever is over first, in whole passes over the data
EPOCHS = 1000  # of the schedule: nothing of it is reached
PROBLEMS: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any]]] = {
    "mlp on digits": ("image_classification", "digits", "mlp", {}, {}),
    "cnn on digits": ("image_classification", "digits", "cnn", {"width": 16}, {}),
    "resnet20 on digits": ("image_classification", "digits", "resnet20", {"width": 8}, {}),
    "gpt on Python's sources": ("language_model", "python_source", "gpt", {}, {"train": 640}),
}
ARMS = {"adamw": {"lr": 1e-3}, "anon": {"lr": 1e-3, "gamma": 0.5, "floor": 0.03}}


def by_hand(problem: Problem, arm: str, device: str) -> Callable[[], float]:
    """Return a function that trains and validates one epoch."""
    torch.manual_seed(0)
    model = problem.build_model().to(device)
    optimizer = make_optimizer(arm, model.parameters(), ARMS[arm])
    train, validation = cast(Split, problem.train), problem.validation
    steps = len(train) // BATCH
    schedule = LambdaLR(optimizer, lambda step: schedule_factor("cosine", step, EPOCHS * steps, 0.0))
    text = not train.inputs.is_floating_point() and train.inputs.dim() == 2

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if text:
            return F.cross_entropy(model(inputs.long()).flatten(0, 1), targets.long().flatten())
        return F.cross_entropy(model(inputs), targets)

    def epoch() -> float:
        model.train()
        total = torch.zeros((), device=device)
        order = torch.randperm(len(train)).to(device)
        for batch in order.split(BATCH)[:steps]:
            optimizer.zero_grad()
            loss = loss_of(train.inputs[batch], train.targets[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        model.eval()
        problem.measure(model, validation)
        return total.item() / steps

    return epoch


def seconds(work: Callable[[], object], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def with_a_longer_epoch(problem: Problem, arm: str, device: str) -> Problem:
    train = cast(Split, problem.train)
    once = by_hand(problem, arm, device)
    once()
    times = math.ceil(min(EPOCH_SECONDS / seconds(once, device), EPOCH_STEPS * BATCH / len(train)))
    longer = Split(
        train.inputs.repeat(times, *[1] * (train.inputs.dim() - 1)),
        train.targets.repeat(times, *[1] * (train.targets.dim() - 1)),
    )
    return dataclasses.replace(problem, train=longer)


def child(name: str, arm: str, device: str, rounds: int) -> float:
    torch.set_num_threads(1)
    task, data, model, options, data_options = PROBLEMS[name]
    problem = load_problem(task, data, model, options, data_options).to(torch.device(device))
    problem = with_a_longer_epoch(problem, arm, device)
    ours = Training(problem, arm, ARMS[arm], seed=0, epochs=EPOCHS, batch_size=BATCH, device=device)
    bare = by_hand(problem, arm, device)
    ours.run_epoch()
    bare()
    ratios = []
    for turn in range(rounds):
        works = [ours.run_epoch, bare]
        took = {work: seconds(work, device) for work in (works if turn % 2 else reversed(works))}
        ratios.append(took[works[0]] / took[works[1]])
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one process of five rounds")
    parser.add_argument("--only", default="", help="those problems whose name holds this")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = options.rounds or (5 if options.quick else 25)
    if options.child:
        name, arm = options.child
        print(json.dumps(child(name, arm, options.device, rounds)))
        return
    chosen = [name for name in PROBLEMS if options.only in name]
    if not chosen:
        parser.error(f"--only: none of {', '.join(PROBLEMS)}")
    print(f"load before: {os.getloadavg()[0]:.1f}; one thread; floor {FLOOR:g}\n")
    print("| | arm | ours / by hand | lowest .. highest process |")
    print("|---|---|---|---|")
    for name in chosen:
        for arm in ARMS:
            command = [sys.executable, "-m", "benchmarks.loop_overhead", "--child", name, arm]
            command += ["--device", options.device, "--rounds", str(rounds)]
            found = [
                float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                for _ in range(options.processes or (1 if options.quick else 3))
            ]
            print(
                f"| {name} | {arm} | {statistics.median(found):.3f} | {min(found):.3f} .. {max(found):.3f} |"
            )


if __name__ == "__main__":
    main()
