"""The paper's premise, tested for real: `python -m benchmarks.premise --data FOLDER`.

Do CNNs do better with gamma <= 0, and transformers with gamma >= 1? Anon over gamma, its floor and a warm-up, and its
baselines, on the two recorded trainings whose seeds are quiet enough. Every cell has the same effort: step sizes are
scanned on one seed, the two best run on three more, and the chosen one on fresh seeds, whose test loss counts. The
comparisons that count are fixed beforehand (`plan.CONTRASTS`); all the rest is description.

Runs are kept, so an interrupted benchmark goes on; `runs.jsonl.gz` beside this file has those that were made so far.
With `--minutes 0` it only prints the tables.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import argparse
import dataclasses
import gzip
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TextIO

import torch
from rich.console import Console

from anon_tune.workers.problems.tasks import Problem
from anon_tune.workers.trial.probe import probe
from anon_tune.workers.trial.training import Training
from benchmarks.premise.plan import (
    FULL,
    QUICK,
    Cell,
    Effort,
    Result,
    Run,
    Stage,
    cells,
    chosen,
    quick_cells,
    runs,
)
from benchmarks.premise.tables import ablation, contrasts, losses
from benchmarks.search.problems import TRAININGS
from benchmarks.search.record import FLOOR

__all__ = ["RECORDED", "read", "remaining", "train", "write"]

RECORDED = Path(__file__).with_name("runs.jsonl.gz")
"""Runs that were made before, on several machines."""


def main() -> None:
    """Make the runs that are missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=240.0, help="start nothing after so long")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="two contrasts with little effort: a minute")
    parser.add_argument(
        "--results", type=Path, help="default build/premise.jsonl, or build/premise-quick.jsonl"
    )
    arguments = parser.parse_args()
    path = arguments.results or Path(
        "build/premise-quick.jsonl" if arguments.quick else "build/premise.jsonl"
    )
    plan, effort = (quick_cells(), QUICK) if arguments.quick else (cells(), FULL)
    done = {} if arguments.quick else read(RECORDED)
    done |= read(path)
    if arguments.minutes > 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + 60 * arguments.minutes
        with path.open("a+") as kept:
            _make(plan, effort, done, kept, arguments, until)
    _print(plan, effort, done)


def _make(
    plan: Sequence[Cell],
    effort: Effort,
    done: dict[Run, Result],
    kept: TextIO,
    arguments: argparse.Namespace,
    until: float,
) -> None:
    flying: dict[Future[Result], Run] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        while True:
            started = set(flying.values())
            ready = (run for cell in plan for run in runs(cell, done, effort) if run not in started)
            while (
                len(flying) < arguments.processes and time.monotonic() < until and (run := next(ready, None))
            ):
                flying[pool.submit(train, arguments.data, run)] = run
            if not flying:
                return
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                run = flying.pop(future)
                done[run] = future.result()
                write(kept, run, done[run])


@cache
def _problem(name: str, data: Path) -> tuple[Problem, float]:
    """Return a training, and what the probe measures of it."""
    torch.set_num_threads(1)
    training = TRAININGS[name]
    problem = training.make(data)
    measured = probe(problem, seed=0, batch_size=training.batch_size, floor=FLOOR, device="cpu")
    return problem, measured.log_mean_sigma


def train(data: Path, run: Run) -> Result:
    """Make one run."""
    cell, recorded = run.cell, TRAININGS[run.cell.training]
    problem, log_mean_sigma = _problem(cell.training, data)
    started = time.process_time()
    training = Training(
        problem,
        cell.factory,
        cell.hyperparameters(run.step_size, log_mean_sigma),
        seed=run.seed,
        epochs=recorded.epochs,
        batch_size=recorded.batch_size,
        warmup=cell.warmup,
    )
    validation = math.nan
    for _ in range(recorded.epochs):
        validation = training.run_epoch()["val_loss"]
        if training.diverged:
            return Result(None, None, None, time.process_time() - started)
    tested = training.test()
    seconds = time.process_time() - started
    return Result(validation, tested["test_loss"], tested.get("test_accuracy"), seconds)


def read(path: Path) -> dict[Run, Result]:
    """Return the runs of a file, perhaps compressed; a line that was cut off by a kill does not count."""
    done: dict[Run, Result] = {}
    if not path.exists():
        return done
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    for line in text.splitlines():
        try:
            cell, step_size, stage, index, result = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[Run(Cell(**cell), step_size, Stage(stage), index)] = Result(**result)
    return done


def write(kept: TextIO, run: Run, result: Result) -> None:
    """Append a run to a file opened by "a+", on a line of its own even after one that was cut off."""
    line = [
        dataclasses.asdict(run.cell),
        run.step_size,
        run.stage.value,
        run.index,
        dataclasses.asdict(result),
    ]
    kept.seek(max(0, kept.seek(0, os.SEEK_END) - 1))
    kept.write(("" if kept.read() in ("", "\n") else "\n") + json.dumps(line) + "\n")
    kept.flush()


def remaining(plan: Sequence[Cell], effort: Effort, done: Mapping[Run, Result]) -> Iterator[tuple[str, int]]:
    """Yield the training of each cell, and at most how many runs it still needs."""
    made: dict[Cell, int] = defaultdict(int)
    for run in done:
        made[run.cell] += 1
    for cell in plan:
        whole = len(effort.step_sizes) + 2 * effort.confirm + effort.fresh[cell.training]
        diverged = not any(runs(cell, done, effort))
        yield cell.training, 0 if diverged else whole - made[cell]


def _print(plan: Sequence[Cell], effort: Effort, done: Mapping[Run, Result]) -> None:
    console = Console(width=200, highlight=False)
    left: dict[str, int] = defaultdict(int)
    for training, count in remaining(plan, effort, done):
        left[training] += count
    for training, count in left.items():
        seconds = [result.seconds for run, result in done.items() if run.cell.training == training]
        took = f", {fmean(seconds):.1f} s of a core each" if seconds else ""
        console.print(f"{training}: {len(seconds)} runs made{took}; {count} left")
    finished = sum(chosen(cell, done, effort) is not None for cell in plan)
    console.print(f"a step size is chosen in {finished} of {len(plan)} cells\n")
    tables = chain(
        [contrasts(done, effort)],
        (losses(training, done, effort) for training in left),
        (ablation(training, done, effort, accuracy=False) for training in left),
        [ablation("fashion-cnn", done, effort, accuracy=True)],
    )
    for table in tables:
        if table.row_count:
            console.print(table)
    console.print(
        "* an end of the step sizes tried. Beside the step size: fresh runs that diverged, if any did."
    )
    console.print("Differences have a 95% interval for all contrasts together; elsewhere: (warm-up, floor).")


if __name__ == "__main__":
    main()
