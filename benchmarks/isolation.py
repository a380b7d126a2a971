"""Cost of a process of its own for each trial of user code.

    python -m benchmarks.isolation [--trials 40] [--quick]

A training function that does hardly anything runs in this process and in processes of its own, in turn, and a script
alone and as the command of a job. The table has the time from the start of a trial to its first report and to its
end, the time of a report, and the memory of an actor with its keeper.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.spec import JobSpec, load_spec
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial import child, isolated
from anon_tune.workers.trial.isolated import IsolatedAttempt, UserCode
from anon_tune.workers.trial.messages import TrialAssignment
from anon_tune.workers.trial.work import Work

_CODE = """
import sys, time
import torch
import anon_tune


def train(context):
    model = torch.nn.Linear(4, 1)
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        optimizer.zero_grad()
        model(torch.ones(8, 4)).square().mean().backward()
        optimizer.step()
        context.report(epoch, loss=1.0)


if __name__ == "__main__":
    train(anon_tune.trial(epochs=int(sys.argv[1])))
"""
_REPORTS = 2000
_MEGABYTE = 2**20


class Here:
    """A supervisor in the same process, which notes when results come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tell(self, result: Any) -> bool:
        self.times.append(time.perf_counter())
        return True


def job(folder: Path, training: str, epochs: int) -> JobSpec:
    path = folder / "job.yaml"
    path.write_text(
        f"name: isolation\n{training}\nbudget: {{trials: 1, epochs: {epochs}}}\narms: [anon]\n"
        "search: {pruner: none}\n"
    )
    return load_spec(path)


def assignment(folder: Path, name: str) -> TrialAssignment:
    trial = Trial(
        id=name, job="j", arm="anon", phase=Phase.SEARCH, number=0, seed=1, state=TrialState.RUNNING,
        params={}, hyperparameters={"lr": 0.001, "gamma": 1.0}, attempts=1,
    )  # fmt: skip
    return TrialAssignment(trial, folder, folder / "output" / f"{name}.log")


def here(folder: Path, spec: JobSpec, name: str) -> list[float]:
    """Return seconds to each result of a trial in this process."""
    supervisor, began = Here(), time.perf_counter()
    child.run(Work(assignment(folder, name), spec, folder, pickle.dumps({})), supervisor)
    return [each - began for each in supervisor.times]


def apart(folder: Path, code: UserCode, name: str) -> list[float]:
    """Return seconds to each result of a trial in a process of its own, and to its end."""
    began, times = time.perf_counter(), []
    attempt = IsolatedAttempt(assignment(folder, name), code)
    while True:
        result = attempt.step()
        times.append(time.perf_counter() - began)
        if result.outcome is not None:
            break
    attempt.close()
    return [*times, time.perf_counter() - began]


def row(name: str, values: Sequence[float], scale: float = 1.0, unit: str = "s") -> None:
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    print(
        f"| {name} | {statistics.median(values) * scale:.3f} {unit} | {high * scale:.3f} {unit} |", flush=True
    )


def memory() -> None:
    """Print the unique memory of an actor's process with its keeper, and of one that trains in the actor."""
    thin = (
        "import sys, gc; from ray import tune; from anon_tune.workers.trial import trainable, isolated\n"
        "from anon_tune.workers.isolation.process import Keeper\n"
        "keeper = Keeper(isolated.MODULES); print(keeper.pid(), flush=True); sys.stdin.read()"
    )
    thick = (
        "import sys; from ray import tune; from anon_tune.workers.trial import trainable, attempt\n"
        "import torch._dynamo; print(0, flush=True); sys.stdin.read()"
    )
    for name, code in (("actor with keeper", thin), ("actor that trains", thick)):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            keeper = int(process.stdout.readline()) if process.stdout is not None else 0
            pids = [process.pid, *([keeper] if keeper else [])]
            used = sum(psutil.Process(pid).memory_full_info().uss for pid in pids) / _MEGABYTE
            print(f"| {name} | {used:.0f} MiB | |", flush=True)
            process.communicate("")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="three trials")
    options = parser.parse_args()
    trials = 3 if options.quick else options.trials
    print(f"load before: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    print("| | median | 95% |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="at") as made, Keeper(isolated.MODULES) as keeper:
        folder = Path(made)
        (folder / "train.py").write_text(_CODE)
        spec = job(folder, "task: train:train", 3)
        code = UserCode(keeper, spec, pickle.dumps({}))
        here(folder, spec, "warm")
        apart(folder, code, "warm")
        inside, outside = [], []
        for number in range(trials):
            inside.append(here(folder, spec, f"here{number}"))
            outside.append(apart(folder, code, f"apart{number}"))
        row("function, first report, in the actor", [each[0] for each in inside])
        row("function, first report, own process", [each[0] for each in outside])
        row("function, end, own process", [each[-1] for each in outside])
        row(
            "more than in the actor, until the end",
            [o[-1] - i[-1] for i, o in zip(inside, outside, strict=True)],
        )
        many = job(folder, "task: train:train", _REPORTS)
        reports = [
            here(folder, many, "many"),
            apart(folder, UserCode(keeper, many, pickle.dumps({})), "many"),
        ]
        for name, times in zip(("in the actor", "own process"), reports, strict=True):
            gaps = [later - earlier for earlier, later in itertools.pairwise(times[:_REPORTS])]
            row(f"step and report, {name}", gaps, 1000.0, "ms")
        script = job(folder, "command: python train.py {epochs}", 3)
        alone, commands = [], []
        for number in range(max(2, trials // 8)):
            began = time.perf_counter()
            with contextlib.chdir(folder):
                subprocess.run([sys.executable, "train.py", "3"], check=True)
            alone.append(time.perf_counter() - began)
            commands.append(apart(folder, UserCode(keeper, script, pickle.dumps({})), f"command{number}")[-1])
        row("script alone", alone)
        row("script as a command of a job", commands)
    memory()


if __name__ == "__main__":
    main()
