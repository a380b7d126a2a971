"""Quality of a search after 10 and 20 trials: `python -m benchmarks.search`.

Each run is one search of a surface by a policy with a seed. The regret is the log of the final loss of the
configuration that the policy recommends, judged without noise, over the surface's best. It is 3 at most, and 3 where
that configuration diverges. Policies are compared in pairs: with the same seed, the n-th trials have the same noise.
The figure is the geometric mean of the ratios of (regret + 0.02), with a 95% bootstrap interval over seeds.

The epochs to the target are the expected running time of the literature on optimizers (Hansen et al., COCO): the
epochs that all runs spent until the recommended configuration was good enough, over the number of runs that got
there. Good enough is within the larger of 1% and one seed standard deviation of the best. Results are kept, so an
interrupted benchmark goes on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import argparse
import dataclasses
import json
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from anon_tune.records import Trial, TrialState
from benchmarks.search.policies import POLICIES
from benchmarks.search.simulator import Policy, simulate
from benchmarks.search.surfaces import Surface, load_surfaces

LOOKS = (10, 20)
"""Trials after which the regret is taken."""

WORST = 3.0
OFFSET = 0.02
"""Added to regrets before a ratio is taken: smaller ones are of no interest."""

ABLATED = ("digits-transformer", "shakespeare-gpt", "simulated, gamma* 1.1", "asym")
"""Surfaces of the ablations."""

OUTSIDE = ("far",)
"""Surfaces whose best point is outside the ranges of the spaces."""

_EDGE = 1e-6
_RESAMPLES = 2_000

Key = tuple[str, str, int]
"""Surface, policy, seed."""


@dataclass(frozen=True)
class Row:
    """The outcome of one search.

    Attributes:
        regrets: After LOOKS.
        epochs: Until the recommended configuration was within the target, or all of them.
        reached: Whether it ever was.
        bound: Share of the model's suggestions with a coordinate at a bound.
        diverged: Trials that diverged, of the first 20.
        seconds: Seconds of a core.
    """

    regrets: tuple[float, ...]
    epochs: int
    reached: bool
    bound: float
    diverged: int
    seconds: float


Array = NDArray[np.float64]


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="stop after so long, and show what there is"
    )
    parser.add_argument("--results", type=Path, default=Path("build/search-benchmark.jsonl"))
    parser.add_argument("--surfaces", nargs="*", help="only those whose names contain one of these")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=list(POLICIES), metavar="NAME")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    done = read(arguments.results)
    names = [
        name
        for name in load_surfaces()
        if not arguments.surfaces or any(part in name for part in arguments.surfaces)
    ]
    missing = [key for key in plan(names, arguments.policies, arguments.seeds) if key not in done]
    for name in {name for name, _, _ in missing}:
        _ = _surface(name).best  # the processes below get the fitted interpolation
    until = time.monotonic() + 60 * arguments.minutes
    with ProcessPoolExecutor(arguments.processes) as pool, arguments.results.open("a") as kept:
        for key, row in _limited(pool, missing, until, 2 * arguments.processes):
            done[key] = row
            kept.write(json.dumps([*key, dataclasses.asdict(row)]) + "\n")
            kept.flush()
    console = Console(width=160)
    minutes = sum(row.seconds for row in done.values()) / 60
    console.print(f"Python {platform.python_version()}, Optuna {version('optuna')}, BoTorch {version('botorch')}; "
                  f"{len(done)} runs, {minutes:.0f} minutes of one core", highlight=False)  # fmt: skip
    for table in (regrets(done, names), ablations(done, names), behaviour(done), to_target(done, names)):
        console.print(table)


def plan(names: Sequence[str], policies: Sequence[str], seeds: int) -> Iterator[Key]:
    """All runs, seed by seed, so that an interrupted benchmark has as many of each."""
    for seed in range(seeds):
        for policy, entry in POLICIES.items():
            if policy in policies and seed < entry.share * seeds:
                yield from ((name, policy, seed) for name in names if not entry.ablation or name in ABLATED)


def _limited(
    pool: ProcessPoolExecutor, missing: Iterable[Key], until: float, ahead: int
) -> Iterator[tuple[Key, Row]]:
    """Outcomes of runs as they come, a few in flight, until the time is up."""
    flying: dict[Future[Row], Key] = {}
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


def run(key: Key) -> Row:
    """Search once."""
    began = time.process_time()
    name, policy_name, seed = key
    warnings.simplefilter("ignore")  # stock tools warn
    surface = _surface(name).instance(seed)
    entry = POLICIES[policy_name]
    policy = entry.make(surface, seed)
    target = surface.best * (1 + max(0.01, math.expm1(surface.deviation)))
    found: list[float] = []
    epochs, reached = 0, False
    trials: list[Trial] = []
    for trials, spent in simulate(surface, policy, trials=entry.trials, seed=seed):
        final = _final(surface, policy, trials) if len(trials) in LOOKS or not reached else math.nan
        if len(trials) in LOOKS:
            found.append(min(math.log(final / surface.best), WORST))
        if not reached:
            epochs, reached = spent, final <= target
        if reached and len(trials) >= LOOKS[-1]:
            break
    asked = trials[policy.starts : LOOKS[-1]]
    bound = float(np.mean([_at_bound(policy, trial) for trial in asked]))
    diverged = sum(trial.state is TrialState.DIVERGED for trial in trials[: LOOKS[-1]])
    return Row(tuple(found), epochs, reached, bound, diverged, time.process_time() - began)


def _final(surface: Surface, policy: Policy, trials: list[Trial]) -> float:
    """Return the loss of what the policy recommends, without noise; infinite where it recommends nothing."""
    arguments = policy.recommended(trials)
    return math.inf if arguments is None else surface.final(arguments)


def _at_bound(policy: Policy, trial: Trial) -> bool:
    return any(min(u, 1 - u) < _EDGE for u in policy.space.unit(trial.params))


def read(path: Path) -> dict[Key, Row]:
    """Return the runs that were made before."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(surface, policy, seed): Row(**row) for surface, policy, seed, row in rows}


def regrets(done: dict[Key, Row], names: Sequence[str]) -> Table:
    """Return the regrets of ours and of the former search, by surface."""
    table = Table(title="regret, mean and standard error; ratio of (regret + 0.02), ours / former")
    for title in ("surface", "seeds", *(f"{who}, {n}" for n in LOOKS for who in ("ours", "former", "ratio"))):
        table.add_column(title)
    found: dict[str, dict[int, Array]] = {}
    for name in names:
        pairs = {look: _pairs(done, name, "ours", "former", _regret_at(look)) for look in LOOKS}
        if not len(pairs[LOOKS[0]]):
            continue
        found[name] = pairs
        cells = []
        for look in LOOKS:
            cells += [_mean(pairs[look][:, 0]), _mean(pairs[look][:, 1]), _shown(*_ratio([pairs[look]]))]
        table.add_row(name, str(len(pairs[LOOKS[0]])), *cells)
    for title, chosen in (
        ("within the ranges", [n for n in found if n not in OUTSIDE]),
        ("all", list(found)),
    ):
        if chosen:
            ratios = (_shown(*_ratio([found[name][look] for name in chosen])) for look in LOOKS)
            table.add_row(title, "", *(cell for ratio in ratios for cell in ("", "", ratio)))
    return table


def ablations(done: dict[Key, Row], names: Sequence[str]) -> Table:
    """Return the ratio of ours without each ingredient to ours."""
    shown = [name for name in ABLATED if name in names]
    table = Table("ours with", "seeds", title="ratio of (regret + 0.02), ours with the change / ours")
    for look in LOOKS:
        for name in (*shown, "all"):
            table.add_column(f"{name}, {look}")
    table.add_column("epochs to the target, all")
    for policy, entry in POLICIES.items():
        if not entry.ablation:
            continue
        cells, seeds = [], 0
        for look in LOOKS:
            found = [_pairs(done, name, policy, "ours", _regret_at(look)) for name in shown]
            seeds = min(map(len, found), default=0)
            if seeds:
                cells += [*(_shown(*_ratio([pairs])) for pairs in found), _shown(*_ratio(found))]
        if seeds:
            runs = [
                _pairs(done, name, policy, "ours", lambda row: [row.epochs, row.reached]) for name in shown
            ]
            table.add_row(policy, str(seeds), *cells, _shown(*_ratio(runs, _log_expected)))
    return table


def behaviour(done: dict[Key, Row]) -> Table:
    """Return the share of each policy's suggestions at a bound, and the cost."""
    title = f"first {LOOKS[-1]} trials: suggestions at a bound, trials that diverged"
    table = Table("policy", "runs", "at a bound", "diverged", "CPU seconds a run", title=title)
    for policy in POLICIES:
        rows = [row for (_, other, _), row in done.items() if other == policy]
        if rows:
            bound, diverged, seconds = np.mean(
                [(row.bound, row.diverged, row.seconds) for row in rows], axis=0
            )
            share = diverged / LOOKS[-1]
            table.add_row(policy, str(len(rows)), f"{bound:.0%}", f"{share:.0%}", f"{seconds:.1f}")
    return table


def to_target(done: dict[Key, Row], names: Sequence[str]) -> Table:
    """Return the epochs until the recommended configuration was within the target."""
    table = Table(title="epochs to the target (runs that got there); ours / policy, 95% interval")
    for heading in ("policy", "trials", "seeds", *names, "all"):
        table.add_column(heading)
    for policy, entry in POLICIES.items():
        if entry.ablation:
            continue
        cells, found = [], []
        for name in names:
            pairs = _pairs(done, name, "ours", policy, lambda row: [row.epochs, row.reached])
            if len(pairs) == 0:
                cells.append("-")
                continue
            theirs = pairs[:, 1]
            cell = f"{_expected(theirs):.0f} ({theirs[:, 1].mean():.0%})"
            cells.append(cell if policy == "ours" else f"{cell}\n{_shown(*_ratio([pairs], _log_expected))}")
            found.append(pairs)
        if found:
            total = "" if policy == "ours" else _shown(*_ratio(found, _log_expected))
            table.add_row(policy, str(entry.trials), str(min(map(len, found))), *cells, total)
    return table


def _regret_at(look: int) -> Callable[[Row], float]:
    return lambda row: row.regrets[LOOKS.index(look)]


def _pairs(done: dict[Key, Row], name: str, first: str, second: str, value: Callable[[Row], Any]) -> Array:
    """Values (seeds, 2, ...) of two policies on a surface, for the seeds that both have."""
    seeds = sorted({seed for _, _, seed in done})
    return np.array(
        [
            [value(done[name, first, seed]), value(done[name, second, seed])]
            for seed in seeds
            if (name, first, seed) in done and (name, second, seed) in done
        ],
        dtype=float,
    )


def _log_regrets(values: Array) -> Array:
    """Return the mean log of (regret + OFFSET) of regrets (..., seeds)."""
    return np.log(np.maximum(values, 0.0) + OFFSET).mean(axis=-1)


def _expected(outcomes: Array) -> Array:
    """Expected running time of outcomes (..., seeds, 2); where none got there, as if one more had."""
    return outcomes[..., 0].sum(axis=-1) / np.maximum(outcomes[..., 1].sum(axis=-1), 1.0)


def _log_expected(outcomes: Array) -> Array:
    return np.log(_expected(outcomes))


def _ratio(
    surfaces: list[Array], log_figure: Callable[[Array], Array] = _log_regrets
) -> tuple[float, float, float]:
    """Geometric mean over surfaces of a figure's ratio, first / second, with an interval from drawing seeds anew."""
    rng = np.random.default_rng(0)
    point, draws = 0.0, np.zeros(_RESAMPLES)
    for pairs in surfaces:
        drawn = pairs[rng.integers(0, len(pairs), (_RESAMPLES, len(pairs)))]  # (resamples, seeds, 2, ...)
        point += float(log_figure(pairs[:, 0]) - log_figure(pairs[:, 1])) / len(surfaces)
        draws += (log_figure(drawn[:, :, 0]) - log_figure(drawn[:, :, 1])) / len(surfaces)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.exp(point)), float(np.exp(low)), float(np.exp(high))


def _mean(values: Array) -> str:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{values.mean():.3f} ± {error:.3f}"


def _shown(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
