"""Anon against its baselines, tuned for real: `python -m benchmarks.search.arms --data FOLDER`.

Each run searches one arm on one of the recorded trainings with one search seed, as the product does with its default
sampler and lag, and ends with the test loss of what was chosen: three finalists, chosen as the product does, are
trained again on three seeds, and the best of them on five fresh ones. Results are kept, so an interrupted benchmark
goes on.

Variants ask what a fair space is: whether Anon should search its beta1 and beta2 as SGD and AdamW search their
momentum and beta2, or whether nobody should.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.landscape import Landscape
from anon_tune.search.recommend import ranked, recommended
from anon_tune.search.seeds import trial_seed
from anon_tune.search.study import suggest
from anon_tune.search_spaces import Space, load_space
from anon_tune.spec import SMALLEST_LAG, Objective, Search
from anon_tune.workers.problems.tasks import Problem
from anon_tune.workers.trial.probe import probe
from anon_tune.workers.trial.training import Training
from benchmarks.search.problems import TRAININGS
from benchmarks.search.record import FLOOR
from benchmarks.search.simulator import new_trial

PROBLEMS = {"fashion-cnn": "cnn", "shakespeare-gpt": "transformer"}
"""Recorded training -> family, whose space Anon searches."""

_FINALISTS, _CONFIRM, _FRESH = 3, 3, 5

Key = tuple[str, str, int, int]
"""Problem, arm, trials, search seed."""


@dataclass(frozen=True)
class Tuned:
    """An arm as its search left it.

    Attributes:
        test: Mean test loss over the fresh seeds that did not diverge; None if all did.
        diverged: How many did.
        validation: Mean validation loss over the confirm seeds; infinite if one diverged.
        params: The chosen search coordinates.
    """

    test: float | None
    diverged: int
    validation: float
    params: Mapping[str, Any]


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, nargs="*", default=[20])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=["anon", "adamw", "sgd"], metavar="ARM")
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=60.0, help="start nothing after so long")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=Path("build/arms-benchmark.jsonl"))
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    done = read(arguments.results)
    keys = [
        (problem, arm, trials, seed)
        for seed in range(arguments.seeds)
        for trials in arguments.trials
        for problem in arguments.problems
        for arm in arguments.arms
    ]
    until = time.monotonic() + 60 * arguments.minutes
    with ProcessPoolExecutor(arguments.processes) as pool, arguments.results.open("a") as kept:
        missing = [key for key in keys if key not in done]
        flying = {pool.submit(_until, until, arguments.data, key): key for key in missing}
        for future in as_completed(flying):
            found = future.result()
            if found is not None:
                done[flying[future]] = found
                kept.write(json.dumps([*flying[future], dataclasses.asdict(found)]) + "\n")
                kept.flush()
    Console(width=140).print(table(done))


def _until(until: float, data: Path, key: Key) -> Tuned | None:
    return search(data, key) if time.monotonic() < until else None


def _fixed(space: Space, **values: float) -> Space:
    """Return the space with some of its parameters held at a value."""
    return Space.model_validate(
        {
            **space.model_dump(),
            "parameters": {n: d for n, d in space.model_dump()["parameters"].items() if n not in values},
            "fixed": {**space.fixed, **values},
            "start": {
                family: [{n: v for n, v in point.items() if n not in values} for point in points]
                for family, points in space.start.items()
            },
        }
    )


def _with_betas(space: Space) -> Space:
    """Anon's space with beta1 over the range of SGD's momentum and beta2 over that of AdamW's.

    It is a factory's, since spaces of Anon have no such coordinates.
    """
    plain = space.model_dump()
    betas = {
        "beta1": {"low": 0.0, "high": 0.98},
        "one_minus_beta2": {"low": 1e-4, "high": 0.1, "log": True},
    }
    usual = {"beta1": 0.9, "one_minus_beta2": 1e-3}
    start = {family: [{**point, **usual} for point in points] for family, points in space.start.items()}
    return Space.model_validate(
        {
            **plain,
            "optimizer": "benchmarks.search.arms:anon",
            "parameters": {**plain["parameters"], **betas},
            "start": start,
        }
    )


def _arguments(space: Space, params: Mapping[str, Any], log_mean_sigma: float, base: Space) -> dict[str, Any]:
    if not space.of_factory:
        return optimizer_arguments(space, params, log_mean_sigma)
    found = optimizer_arguments(
        base, {n: v for n, v in params.items() if n in base.parameters}, log_mean_sigma
    )
    return {**found, "betas": (params["beta1"], 1.0 - params["one_minus_beta2"], found["betas"][2])}


ARMS = {
    "anon": ("anon", lambda space: space),
    "adamw": ("adamw", lambda space: space),
    "sgd": ("sgd", lambda space: space),
    "anon, betas too": ("anon", _with_betas),
    "adamw, beta2 0.999": ("adamw", lambda space: _fixed(space, one_minus_beta2=1e-3)),
    "sgd, momentum 0.9": ("sgd", lambda space: _fixed(space, momentum=0.9)),
}
"""Name -> optimizer, and how its space is changed."""


@cache
def _problem(name: str, data: Path) -> tuple[Problem, float]:
    """Return a training, and what the probe measures of it."""
    torch.set_num_threads(1)
    training = TRAININGS[name]
    problem = training.make(data)
    measured = probe(problem, seed=0, batch_size=training.batch_size, floor=FLOOR, device="cpu")
    return problem, measured.log_mean_sigma


def search(data: Path, key: Key) -> Tuned:
    """Tune one arm, and test its choice."""
    name, arm, count, seed = key
    problem, log_mean_sigma = _problem(name, data)
    optimizer, change = ARMS[arm]
    base = load_space(PROBLEMS[name] if optimizer == "anon" else optimizer).for_family(PROBLEMS[name])
    space = change(base)
    trials: list[Trial] = []
    for number in range(count):
        params = suggest(space, trials, number, Search(seed=seed), optimizer, Objective(), SMALLEST_LAG)
        arguments = _arguments(space, params, log_mean_sigma, base)
        trial = new_trial(number, params, arguments, seed)
        value = _trained(name, problem, optimizer, arguments, trial.seed)[0]
        state = TrialState.DIVERGED if value is None else TrialState.COMPLETE
        trials.append(dataclasses.replace(trial, state=state, value=value))
    landscape = Landscape(space, trials, Objective())
    promising = recommended(landscape)
    finalists = [
        *([] if promising is None else [promising]),
        *(trial.params for trial in ranked(landscape)),
    ][:_FINALISTS]
    arguments_of = [_arguments(space, params, log_mean_sigma, base) for params in finalists]

    def rerun(arguments: Mapping[str, Any], phase: Phase, index: int) -> tuple[float | None, float | None]:
        return _trained(name, problem, optimizer, arguments, trial_seed(seed, phase, index))

    means = []
    for arguments in arguments_of:
        values = [rerun(arguments, Phase.CONFIRM, index)[0] for index in range(_CONFIRM)]
        means.append(math.inf if None in values else fmean(v for v in values if v is not None))
    best = int(np.argmin(means))
    fresh = [rerun(arguments_of[best], Phase.VERDICT, index)[1] for index in range(_FRESH)]
    tested = [value for value in fresh if value is not None]
    test = fmean(tested) if tested else None
    return Tuned(test, len(fresh) - len(tested), means[best], dict(finalists[best]))


def _trained(
    name: str, problem: Problem, optimizer: str, arguments: Mapping[str, Any], seed: int
) -> tuple[float | None, float | None]:
    """Return the validation and test loss at the end; None where it diverged."""
    recorded = TRAININGS[name]
    training = Training(
        problem, optimizer, arguments, seed=seed, epochs=recorded.epochs, batch_size=recorded.batch_size
    )
    value = math.nan
    for _ in range(recorded.epochs):
        value = training.run_epoch()["val_loss"]
        if training.diverged:
            return None, None
    return value, training.test()["test_loss"]


def read(path: Path) -> dict[Key, Tuned]:
    """Return the runs that were made before."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(problem, arm, trials, seed): Tuned(**found) for problem, arm, trials, seed, found in rows}


def table(done: Mapping[Key, Tuned]) -> Table:
    """Return the log of the test loss by problem, number of trials and arm."""
    shown = Table(title="log of the test loss over searches")
    for title in (
        "problem",
        "trials",
        "arm",
        "searches",
        "mean",
        "deviation between searches",
        "anon less it",
    ):
        shown.add_column(title)
    for problem, arm, trials in sorted({key[:3] for key in done}, key=lambda key: (key[0], key[2], key[1])):
        values = dict(_logs(done, problem, arm, trials))
        ours = dict(_logs(done, problem, "anon", trials))
        pairs = [ours[seed] - values[seed] for seed in sorted(ours.keys() & values.keys())]
        less = "-" if arm == "anon" or not pairs else _interval(pairs)
        deviation = f"{np.std(list(values.values()), ddof=1):.4f}" if len(values) > 1 else "-"
        mean = f"{fmean(values.values()):.4f}" if values else "-"
        shown.add_row(problem, str(trials), arm, str(len(values)), mean, deviation, less)
    return shown


def _logs(done: Mapping[Key, Tuned], problem: str, arm: str, trials: int) -> Iterator[tuple[int, float]]:
    for key, found in done.items():
        if key[:3] == (problem, arm, trials) and found.test is not None:
            yield key[3], math.log(found.test)


def _interval(pairs: Sequence[float]) -> str:
    error = np.std(pairs, ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
    return f"{fmean(pairs):+.4f} (standard error {error:.4f})"


if __name__ == "__main__":
    main()
