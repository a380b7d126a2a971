"""Error rates of answers: `python -m benchmarks.calibration [--quick] [--only PART ...]`.

- `configurations`: verdicts on two configurations, on drawn runs (`configurations.py`).
- `response`: whole jobs on surfaces of six shapes: whether the interval holds the best gamma, its width, whether a
  flat surface is called flat, and whether two searches recommend the same gamma.
- `importance`: whole jobs on surfaces on which beta3, delay and decay have no effect, or matter: whether the costs of
  their customary values, and of gammas outside [0, 1], are right (`importance.py`).
- `optimizers`: the same arm searched three times on one surface, as anon, adamw and sgd. Every verdict of better or
  worse is wrong.
- `repeats`: the same with several searches of each arm (`search.repeats`), and how often a difference between
  optimizers is detected (`repeats.py`). It uses the searches of `optimizers`.
- `stop`: the jobs of `response`, with a lag of 4, with `search.stop: decided` and without: the saved trials, and the
  gain that these would have brought (`stopping.py`). Each search is as long as the largest of `--trials`.

Searches are stored, so an interrupted run resumes; remove the folder after a change of the search.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import argparse
import itertools
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from anon_tune.advice.summary import summarize
from anon_tune.answer import Answer, Outcome
from anon_tune.records import Trial
from benchmarks.calibration.configurations import LAWS, Cell, simulate
from benchmarks.calibration.importance import CASES, Judged, judge
from benchmarks.calibration.jobs import plan_of, relabelled, run, searched
from benchmarks.calibration.repeats import Tuned, deviations, tuned
from benchmarks.calibration.repeats import simulate as simulate_repeats
from benchmarks.calibration.stopping import endings, table_of
from benchmarks.calibration.surfaces import SHAPES, surface
from benchmarks.search.surfaces import Surface, load_surfaces

PARTS = ("configurations", "response", "importance", "optimizers", "repeats", "stop")
ARMS = ("anon", "adamw", "sgd")
DEVIATIONS = (0.05, 0.15)

SEARCHED = ("mild", "sharp", "cliff", "two valleys", "flat", "shakespeare-gpt")
"""Surfaces on which one arm is searched again and again; the last is a recorded training with quiet seeds."""

REPEATS = (3, 5, 10)
_JOBS = 2000

_NEAR = 0.25
"""Two searches agree where what they recommend is so near."""


@dataclass(frozen=True)
class Found:
    """A job's answer about gamma.

    Attributes:
        holds: Whether the 90% interval holds the best gamma, to half the distance of two that are looked at.
        width: Width of that interval.
        alike: Share of the range that is called indistinguishable.
        off: The recommended gamma less the best.
        bias: The reported loss of the winner on the confirm seeds over the true one, in seed deviations.
    """

    holds: bool
    width: float
    alike: float
    off: float
    bias: float


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer jobs: under half an hour")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--trials", type=int, nargs="*", default=[20])
    parser.add_argument("--jobs", type=int, help="of each cell; default 100, or 8")
    parser.add_argument("--folder", type=Path, default=Path("build/calibration"))
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    jobs = arguments.jobs or (8 if arguments.quick else 100)
    console = Console(width=140, highlight=False)
    console.print(f"Python {platform.python_version()}, BoTorch {version('botorch')}")
    with ProcessPoolExecutor(arguments.processes) as pool:
        if "configurations" in arguments.only:
            console.print(_configurations(pool, 500 if arguments.quick else 4000))
        for trials in arguments.trials:
            if "response" in arguments.only:
                console.print(_response(pool, trials, jobs, arguments.folder))
            if "importance" in arguments.only:
                console.print(_importance(pool, trials, jobs, arguments.folder))
            if "optimizers" in arguments.only:
                console.print(_optimizers(pool, trials, max(6, jobs // 2), arguments.folder))
            if "repeats" in arguments.only:
                console.print(_repeats(pool, trials, max(15, jobs // 2), arguments.folder))
        if "stop" in arguments.only:
            for table in _stopped(pool, tuple(arguments.trials), jobs, arguments.folder):
                console.print(table)


def _configurations(pool: ProcessPoolExecutor, jobs: int) -> Table:
    cells = {
        **{f"equal, {law}": Cell(law=law) for law in LAWS},
        **{f"equal, variance of confirm runs x {ratio:.2g}": Cell(ratio=ratio) for ratio in (1 / 3, 3)},
        **{f"equal, {rate:.0%} diverge": Cell(divergence=rate) for rate in (0.05, 0.2)},
        **{f"Anon better by {shift:g} deviations": Cell(shift=shift) for shift in (1.0, 2.0, 3.0)},
        "Anon better by 3 deviations, 5% diverge": Cell(shift=3.0, divergence=0.05),
        "different by exactly what matters, 1 deviation": Cell(shift=1.0, practical=1.0),
        "equal, what matters is 2 deviations": Cell(practical=2.0),
    }
    table = Table(
        title=f"verdicts on configurations, {jobs} jobs a row, two baselines, 3 / 5 / 10 seeds at most"
    )
    for title in ("", "any better", "any worse", "one better", "one equal", "mean seeds of 10"):
        table.add_column(title)
    asked = [(name, seeds) for name in cells for seeds in (3, 5, 10)]
    drawn = pool.map(
        partial(simulate, jobs=jobs), (replace(cells[name], seeds=seeds) for name, seeds in asked)
    )
    found = dict(zip(asked, drawn, strict=True))
    for name in cells:
        three = [found[name, seeds] for seeds in (3, 5, 10)]
        shares = [[getattr(each, part) for each in three] for part in ("better", "worse", "first", "equal")]
        table.add_row(
            name, *(" / ".join(f"{s:.1%}" for s in row) for row in shares), f"{three[-1].seeds:.1f}"
        )
    return table


def _response(pool: ProcessPoolExecutor, trials: int, jobs: int, folder: Path) -> Table:
    table = Table(title=f"the response after {trials} trials, {jobs} jobs a row")
    for title in (
        "surface",
        "90% interval holds it",
        "median width",
        "80% of the range indistinguishable",
        "two searches agree to 0.25",
        "winner's confirm loss, deviations off",
    ):
        table.add_column(title)
    keys = [(shape, deviation) for shape in SHAPES for deviation in DEVIATIONS]
    asked = [(shape, deviation, trials, seed, folder) for shape, deviation in keys for seed in range(jobs)]
    found = dict(zip(asked, pool.map(_respond, asked), strict=True))
    for shape, deviation in keys:
        rows = [found[shape, deviation, trials, seed, folder] for seed in range(jobs)]
        pairs = itertools.combinations([row.off for row in rows], 2)
        agree = float(np.mean([abs(a - b) <= _NEAR for a, b in pairs]))
        has_optimum = shape != "flat"
        table.add_row(
            f"{shape}, {deviation:g}",
            f"{np.mean([row.holds for row in rows]):.0%}" if has_optimum else "-",
            f"{np.median([row.width for row in rows]):.2f}",
            f"{np.mean([row.alike >= 0.8 for row in rows]):.0%}",
            f"{agree:.0%}" if has_optimum else "-",
            f"{np.mean([row.bias for row in rows]):+.2f}",
        )
    return table


def _respond(key: tuple[str, float, int, int, Path]) -> Found:
    shape, deviation, trials, seed, folder = key
    warnings.simplefilter("ignore")
    known = surface(shape, deviation, seed)
    plan = plan_of(known, trials, seed)
    answer = summarize(plan, run(plan, known, seed, searched(known, trials, seed, folder / shape)))
    gamma, winner = answer.gamma, answer.winners["anon"]
    if gamma.low is None or gamma.high is None or winner.confirm.mean is None or gamma.best is None:
        return Found(False, np.nan, 0.0, np.nan, np.nan)
    step = 2.0 / 48 / 2
    alike = sum(high - low for low, high in gamma.indistinguishable) / 2.0
    true = known.final(winner.hyperparameters)
    return Found(
        gamma.low - step <= known.best_gamma <= gamma.high + step,
        gamma.high - gamma.low,
        alike,
        gamma.best - known.best_gamma,
        float(np.log(winner.confirm.mean / true) / deviation),
    )


def _importance(pool: ProcessPoolExecutor, trials: int, jobs: int, folder: Path) -> Table:
    table = Table(title=f"importance after {trials} trials, {jobs} jobs a row")
    for title in (
        "surface",
        "intervals that hold the truth: customary, outside",
        "customary values that cost nothing, said to cost",
        "outside falsely called better",
        "outside truly called worse",
        "mean CPU seconds",
    ):
        table.add_column(title)
    keys = [(case, deviation) for case in CASES for deviation in DEVIATIONS]
    asked = [(case, deviation, trials, seed, folder) for case, deviation in keys for seed in range(jobs)]
    found = dict(zip(asked, pool.map(judge, asked), strict=True))
    for case, deviation in keys:
        said = [each for seed in range(jobs) for each in found[case, deviation, trials, seed, folder]]
        outside = [each for each in said if each.about == "outside"]
        customary = [each for each in said if each.about != "outside"]
        table.add_row(
            f"{case}, {deviation:g}",
            ", ".join(_share(part, lambda e: e.low <= e.true <= e.high) for part in (customary, outside)),
            _share([each for each in customary if each.true == 0], lambda e: e.low > 0),
            _share([each for each in outside if each.true >= 0], lambda e: e.high < 0),
            _share([each for each in outside if each.true > 0], lambda e: e.low > 0),
            f"{np.mean([each.seconds for each in said]):.2f}",
        )
    return table


def _share(statements: Sequence[Judged], holds: Callable[[Judged], bool]) -> str:
    return f"{np.mean([holds(each) for each in statements]):.0%} of {len(statements)}" if statements else "-"


def _optimizers(pool: ProcessPoolExecutor, trials: int, searches: int, folder: Path) -> Table:
    table = Table(title=f"one arm searched three times with {trials} trials, {searches} searches a surface")
    for title in ("surface", "jobs", "wrong verdict on optimizers", "verdict on configurations"):
        table.add_column(title)
    asked = [(name, trials, seed, folder) for name in SEARCHED for seed in range(searches)]
    for _ in pool.map(_search, asked):
        pass
    shares = []
    for name in SEARCHED:
        triples = list(itertools.islice(_triples(searches), 2 * searches))
        answers = list(pool.map(partial(_judge, name, trials, folder), triples))
        wrong = [np.mean([_is_wrong(each, of) for each in answers]) for of in ("optimizer", "configuration")]
        shares.append(wrong)
        table.add_row(name, str(len(triples)), *(f"{share:.0%}" for share in wrong))
    table.add_row("mean", "", *(f"{share:.1%}" for share in np.mean(shares, axis=0)))
    return table


def _repeats(pool: ProcessPoolExecutor, trials: int, searches: int, folder: Path) -> Table:
    counts = ", ".join(map(str, REPEATS))
    table = Table(
        title=f"{counts} searches of each of three arms with {trials} trials, {_JOBS} jobs a cell, drawn from "
        f"{searches} searches a surface"
    )
    for title in (
        "surface",
        "deviation between searches",
        "with the noise of their tests",
        "wrong where equal",
        "found: 3 deviations",
        "found: 3 with the noise",
        "called equal at 1%",
    ):
        table.add_column(title)
    asked = [(name, trials, seed, folder) for name in SEARCHED for seed in range(searches)]
    found = dict(zip(asked, pool.map(_tuned, asked), strict=True))
    for name in SEARCHED:
        of_surface = [found[name, trials, seed, folder] for seed in range(searches)]
        bare, noisy = deviations(of_surface)
        cells = {
            shift: [simulate_repeats(of_surface, repeats, shift, _JOBS) for repeats in REPEATS]
            for shift in (0.0, 3 * bare, 3 * noisy, np.log(1.01))
        }
        rows = zip(cells.values(), ("wrong", "first", "first", "equal"), strict=True)
        shares = (", ".join(f"{getattr(each, part):.1%}" for each in cell) for cell, part in rows)
        table.add_row(name, f"{bare:.4f}", f"{noisy:.4f}", *shares)
    return table


def _tuned(key: tuple[str, int, int, Path]) -> Tuned:
    name, trials, seed, folder = key
    return tuned(_known(name), trials, seed, folder / f"{name}, the same")


def _stopped(pool: ProcessPoolExecutor, budgets: tuple[int, ...], jobs: int, folder: Path) -> Iterator[Table]:
    keys = [(shape, deviation, seed) for seed in range(jobs) for deviation in DEVIATIONS for shape in SHAPES]
    asked = ((shape, deviation, budgets, seed, folder) for shape, deviation, seed in keys)
    found = dict(zip(keys, pool.map(endings, asked), strict=True))
    for budget in budgets:
        yield table_of(found, budget)


def _triples(searches: int) -> Iterator[tuple[int, ...]]:
    """Three different searches each; every search is in about as many."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(searches)
        for first in range(0, searches - 2, 3):
            yield tuple(int(i) for i in order[first : first + 3])


def _search(key: tuple[str, int, int, Path]) -> None:
    name, trials, seed, folder = key
    warnings.simplefilter("ignore")
    searched(_known(name), trials, seed, folder / f"{name}, the same")


@cache
def _known(name: str) -> Surface:
    """Return a surface that is the same for all searches."""
    return surface(name, DEVIATIONS[0], 0) if name in SHAPES else load_surfaces()[name]


def _judge(name: str, trials: int, folder: Path, seeds: Sequence[int]) -> Answer:
    """One job of three arms, which are three searches of one."""
    warnings.simplefilter("ignore")
    known = _known(name)
    made: list[Trial] = []
    for arm, seed in zip(ARMS, seeds, strict=True):
        made += relabelled(searched(known, trials, seed, folder / f"{name}, the same"), arm)
    plan = plan_of(known, trials, seed=0, arms=ARMS)
    return summarize(plan, run(plan, known, seed=sum(s * 31**i for i, s in enumerate(seeds)), trials=made))


def _is_wrong(answer: Answer, of: str) -> bool:
    return any(each.of == of and each.outcome in {Outcome.BETTER, Outcome.WORSE} for each in answer.verdict)


if __name__ == "__main__":
    main()
