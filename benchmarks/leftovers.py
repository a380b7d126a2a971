"""Processes of a trial that are left after something was killed.

    python -m benchmarks.leftovers [--rounds 3]

A training function starts a process in a session of its own, as torchrun and daemons do. In each round a job runs for
each target, and SIGKILL ends the target: the trial, its guard, the actors, the driver or the raylet. Seconds are from
then until no process of the trial is left. If the keeper is killed, its trials continue, since their guards answer to
the actor; so the benchmark kills the keeper and then the trial.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.jobs import two_cores, users_environment

_CODE = """
import json, os, subprocess, time
import torch


def train(context):
    model = torch.nn.Linear(4, 1)
    optimizer = context.optimizer(model)
    started = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
        context.report(epoch, loss=1.0 / epoch)
        if epoch == 2:
            with open(f"{os.getpid()}.new", "w") as file:
                json.dump([os.getpid(), started.pid], file)
            os.rename(f"{os.getpid()}.new", f"{os.getpid()}.pids")
        time.sleep(0.2)
"""
_JOB = """
name: leftovers
task: train:train
arms: [anon]
budget: {trials: 4, epochs: 200}
search: {sampler: random, pruner: none}
confirm: {finalists: 1, seeds: 2, verdict_seeds: 2}
"""
GOALS = {"trial": 1.0, "guard": 1.0, "keeper": 1.0, "actor": 1.0, "driver": 5.0, "raylet": 15.0}
_PATIENCE_SECONDS = 60.0


def targets(driver: psutil.Process, trial: psutil.Process) -> dict[str, psutil.Process]:
    """Return what can be killed, by name."""
    guard = psutil.Process(trial.ppid())
    keeper = psutil.Process(guard.ppid())
    below = driver.children(recursive=True)
    (raylet,) = (each for each in below if each.name() == "raylet")
    actors = [each for each in below if "Trainable" in " ".join(each.cmdline())]
    return {
        "trial": trial,
        "guard": guard,
        "keeper": keeper,
        "actor": actors[0],
        "driver": driver,
        "raylet": raylet,
    }


def until(found: Callable[[], bool], seconds: float = _PATIENCE_SECONDS) -> float:
    """Wait for something; return after how many seconds it came, infinity if it did not."""
    began = time.monotonic()
    while not found():
        if time.monotonic() - began > seconds:
            return float("inf")
        time.sleep(0.01)
    return time.monotonic() - began


def ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def measured(target: str) -> float:
    """Return the seconds for one target."""
    with tempfile.TemporaryDirectory(prefix="at", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        (folder / "train.py").write_text(_CODE)
        (folder / "job.yaml").write_text(_JOB)
        environment = {**users_environment(), "ANON_TUNE_HOME": str(folder / "home")}
        command = [sys.executable, "-m", "anon_tune", "run", str(folder / "job.yaml")]
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as started:
            driver = psutil.Process(started.pid)
            until(lambda: len(list(folder.glob("*.pids"))) >= 2)
            noted = [
                [psutil.Process(int(pid)) for pid in path.read_text().strip("[]").split(",")]
                for path in folder.glob("*.pids")
            ]
            for group in noted:
                group.append(psutil.Process(group[0].ppid()))
            victim = targets(driver, noted[0][0])[target]
            # Only the trial of that process must end; all must if the driver or the raylet is killed.
            of_actor = noted if target in ("actor", "driver", "raylet") else noted[:1]
            if target == "actor":
                victims = [
                    each
                    for each in driver.children(recursive=True)
                    if "Trainable" in " ".join(each.cmdline())
                ]
                for each in victims:
                    each.kill()
            else:
                victim.kill()
            if target == "keeper":
                noted[0][0].kill()
            seconds = until(lambda: all(ended(each) for group in of_actor for each in group))
            for process in [driver, *driver.children(recursive=True)] if not ended(driver) else []:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            started.wait()
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(GOALS))
    options = parser.parse_args()
    two_cores()
    print(f"load before: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    print("| killed | seconds: median | longest |\n|---|---|---|")
    for target in options.only:
        found = [measured(target) for _ in range(options.rounds)]
        print(
            f"| {target} | {statistics.median(found):.2f} | {max(found):.2f} (goal {GOALS[target]:g}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
