"""How many epochs a search needs: `python -m benchmarks.search`.

Each run searches a surface until the configuration it would recommend is as good as the best known one (within the
larger of 1% and one seed standard deviation, judged without noise), or until 60 trials have been made. The figure is
the expected running time of the literature on optimizers (Hansen et al., COCO): the epochs that all runs spent, over
the number of runs that got there, which is what it takes if one that does not is begun again. Ratios have 95%
bootstrap intervals, paired by seed. Results are kept, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from anon_tune.records import TrialState
from anon_tune.search.recommend import ranked
from benchmarks.search.policies import POLICIES
from benchmarks.search.simulator import simulate
from benchmarks.search.surfaces import Surface, load_surfaces

TRIALS = 60
_RESAMPLES = 2_000

Key = tuple[str, str, int, int]
"""Surface, policy, workers, seed."""

Outcome = tuple[int, bool, float]
"""Epochs spent until the recommended configuration was good enough, whether it ever was, seconds of a core."""


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="stop after so long, and show what there is"
    )
    parser.add_argument("--results", type=Path, default=Path("build/search-benchmark.jsonl"))
    parser.add_argument("--surfaces", nargs="*", help="only those whose names contain one of these")
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    done = _read(arguments.results)
    names = [
        name
        for name in load_surfaces()
        if not arguments.surfaces or any(part in name for part in arguments.surfaces)
    ]
    missing = [key for key in _plan(names, arguments.seeds) if key not in done]
    until = time.monotonic() + 60 * arguments.minutes
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores) as pool, arguments.results.open("a") as kept:
        for key, outcome in _limited(pool, missing, until, 2 * cores):
            done[key] = outcome
            kept.write(json.dumps([*key, *outcome]) + "\n")
            kept.flush()
    console = Console(width=160)
    minutes = sum(seconds for _, _, seconds in done.values()) / 60
    console.print(f"Python {platform.python_version()}, Optuna {optuna.__version__}; at most {TRIALS} trials a run; "
                  f"{len(done)} runs, {minutes:.0f} minutes of one core", highlight=False)  # fmt: skip
    for workers in sorted({key[2] for key in done}):
        console.print(_table(done, names, workers))


def _plan(names: list[str], seeds: int) -> Iterator[Key]:
    """All runs, seed by seed, so that an interrupted benchmark has as many of each."""
    for seed in range(seeds):
        for workers in (1, 8):
            for policy, (_, ablation) in POLICIES.items():
                if ablation and workers != 1:
                    continue
                yield from ((name, policy, workers, seed) for name in names)


def _limited(
    pool: ProcessPoolExecutor, missing: Iterable[Key], until: float, ahead: int
) -> Iterator[tuple[Key, Outcome]]:
    """Outcomes of runs as they come, a few in flight, until the time is up."""
    flying: dict[Future[Outcome], Key] = {}
    for key in missing:
        if time.monotonic() > until:
            break
        flying[pool.submit(run, key)] = key
        if len(flying) >= ahead:
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                yield flying.pop(future), future.result()
    for future in as_completed(flying):
        yield flying[future], future.result()


@cache
def _surface(name: str) -> Surface:
    return load_surfaces()[name]


def run(key: Key) -> Outcome:
    """One run; see Outcome."""
    began = time.process_time()
    name, policy_name, workers, seed = key
    warnings.simplefilter("ignore")  # stock tools warn
    surface = _surface(name)
    make: Callable[[Surface, int], Any] = POLICIES[policy_name][0]
    policy = make(surface, seed)
    good: set[str] = set()
    spent = 0
    for trials, ended, spent in simulate(surface, policy, trials=TRIALS, workers=workers, seed=seed):
        limit = surface.best + surface.tolerance
        if ended.state is TrialState.COMPLETE and surface.final(ended.hyperparameters) <= limit:
            good.add(ended.id)
        # The recommended one is among the completed, so before a good one is there is nothing to look at.
        if good and ranked(policy.space, trials, "min")[0].id in good:
            return spent, True, time.process_time() - began
    return spent, False, time.process_time() - began


def _read(path: Path) -> dict[Key, Outcome]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        (surface, policy, workers, seed): (spent, reached, seconds)
        for surface, policy, workers, seed, spent, reached, seconds in rows
    }


def _table(done: dict[Key, Outcome], names: list[str], workers: int) -> Table:
    table = Table(
        title=f"workers: {workers}. Epochs expected (runs that got there); ours / policy, 95% interval"
    )
    for title in ("policy", "seeds", *names, "all surfaces"):
        table.add_column(title)
    for policy in POLICIES:
        cells, found = [], []
        for name in names:
            pairs = _pairs(done, name, policy, workers)
            if len(pairs) == 0:
                cells.append("-")
                continue
            _, theirs = pairs[:, 0], pairs[:, 1]
            cell = f"{_expected(theirs):.0f} ({theirs[:, 1].mean():.0%})"
            cells.append(cell if policy == "ours" else f"{cell}\n{_shown(*_ratio([pairs]))}")
            found.append(pairs)
        if found:
            total = "" if policy == "ours" else _shown(*_ratio(found))
            table.add_row(policy, str(min(map(len, found))), *cells, total)
    return table


def _pairs(done: dict[Key, Outcome], name: str, policy: str, workers: int) -> NDArray[np.float64]:
    """(seeds, 2, 2): for each seed ours and the policy's epochs, and whether they got there."""
    found = [
        (done[name, "ours", workers, seed][:2], outcome[:2])
        for (surface, other, count, seed), outcome in done.items()
        if (surface, other, count) == (name, policy, workers) and (name, "ours", workers, seed) in done
    ]
    return np.array(found, dtype=float)


def _expected(outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected running time of outcomes (..., seeds, 2); where none got there, as if one more had."""
    return outcomes[..., 0].sum(axis=-1) / np.maximum(outcomes[..., 1].sum(axis=-1), 1.0)


def _ratio(surfaces: list[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Geometric mean over surfaces of ours / theirs, with an interval from drawing seeds anew."""
    rng = np.random.default_rng(0)
    point, draws = 0.0, np.zeros(_RESAMPLES)
    for pairs in surfaces:
        drawn = pairs[rng.integers(0, len(pairs), (_RESAMPLES, len(pairs)))]  # (resamples, seeds, 2, 2)
        point += float(np.log(_expected(pairs[:, 0]) / _expected(pairs[:, 1]))) / len(surfaces)
        draws += np.log(_expected(drawn[:, :, 0]) / _expected(drawn[:, :, 1])) / len(surfaces)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.exp(point)), float(np.exp(low)), float(np.exp(high))


def _shown(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
