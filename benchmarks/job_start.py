"""How long a small job takes to start, and between its phases.

    python -m benchmarks.job_start [--rounds 3] [--against CHECKOUT]

`anon-tune run` on a job of 22 trials of about a tenth of a second, in a home of its own each time. Times are those of
the job's log. With another checkout the two take turns.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.jobs import two_cores, users_environment

JOB = """
name: start
task: image_classification
data: digits
model: mlp
arms: [anon, adamw]
budget: {trials: 4, epochs: 3}
search: {sampler: random}
confirm: {finalists: 2, seeds: 2, verdict_seeds: 4}
"""
PARTS = ("Ray's start", "probe", "first trial", "other trials", "to the first trial's end", "whole command")


def moments(lines: Sequence[str], said: str) -> list[float]:
    """When the log says something, in seconds since the epoch."""
    return [
        datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        for line in lines
        if said in line
    ]


def run(checkout: Path) -> list[float]:
    """Seconds of each part of a job that a checkout's code runs."""
    with tempfile.TemporaryDirectory(prefix="at") as home:
        path = Path(home) / "job.yaml"
        path.write_text(JOB, encoding="utf-8")
        environment = {**users_environment(), "ANON_TUNE_HOME": home, "PYTHONPATH": str(checkout)}
        command = [sys.executable, "-m", "anon_tune", "run", str(path)]
        began = time.time()
        subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=True)
        ended = time.time()
        (log,) = Path(home).glob("jobs/*/job.log")
        lines = log.read_text(encoding="utf-8").splitlines()
    (taken,), (ray,), (probe,) = (moments(lines, said) for said in ("taken by", "Ray started", "probe:"))
    trials = moments(lines, ": COMPLETE")
    return [
        ray - taken,
        probe - ray,
        trials[0] - probe,
        trials[-1] - trials[0],
        trials[0] - began,
        ended - began,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    two_cores()
    os.environ.pop("RAY_ADDRESS", None)
    checkouts = [path.resolve() for path in (Path(__file__).parents[1], options.against) if path is not None]
    took: dict[Path, list[list[float]]] = {checkout: [] for checkout in checkouts}
    print(f"load before: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    for number in range(options.rounds):
        for checkout in checkouts if number % 2 == 0 else checkouts[::-1]:
            took[checkout].append(run(checkout))
    for checkout, runs in took.items():
        print(checkout)
        for part, values in zip(PARTS, zip(*runs, strict=True), strict=True):
            print(f"  {part:25} {statistics.median(values):5.1f} s ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
