"""Cost of the sampler: seconds per suggestion, and how long workers wait for it.

    python -m benchmarks.sampler [--quick] [--only ask tell rebuild wait]

- ask: one suggestion in the five coordinates of the space `default`, by sampler and number of trials, with GP beyond
  GP_TRIALS too; `running`: with three RUNNING trials among them. On one core, as in the service, where not said.
- tell: TPE with 5,000 trials. Each suggestion rebuilds the training data, so the time includes both.
- rebuild: reading 5,000 trials of ten epochs from the ledger, and converting them to training data.
- wait: whole Ray Tune through the service's own shims, on two cores with two workers, and an sqlite ledger that
  begins with 280 trials an arm. The trials sleep two seconds. What a worker waits between two trials of its own, as a
  share of the time; beside `random`, which costs nothing, the sampler's part is the difference. Fresh processes.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import math
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sqlalchemy as sa
import torch
from threadpoolctl import threadpool_limits

from anon_tune.ledger import Ledger, open_database, tables
from anon_tune.ledger.database import write
from anon_tune.records import Phase, Report, Trial, TrialState
from anon_tune.search import study
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.policy import Plan
from anon_tune.search.seeds import trial_seed
from anon_tune.search.training_data import as_frozen_trials
from anon_tune.settings import Settings
from anon_tune.spec import Objective, parse_spec, spaces_of
from anon_tune.workers.trial.messages import (
    Completed,
    Measurement,
    StepResult,
    to_tune,
    trial_of,
)
from benchmarks.jobs import two_cores

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ASKS = {
    "botorch": ("botorch", 0, 1),
    "botorch, running": ("botorch", 3, 1),
    "gp, on both cores": ("gp", 0, 2),
    "gp": ("gp", 0, 1),
    "gp, running": ("gp", 3, 1),
    "tpe": ("tpe", 0, 1),
    "tpe, running": ("tpe", 3, 1),
}
"""Sampler, RUNNING trials, threads."""
MANY = 5000
TRIAL_SECONDS = 2.0
WAITS: dict[str, tuple[str, bool]] = {
    "random": ("random", True),
    "gp, asked ahead": ("gp", True),
    "gp, in Tune's loop": ("gp", False),
}
"""Sampler, and whether suggestions are computed ahead as the service does."""


def plan_of(sampler: str, trials: int, epochs: int, arms: Sequence[str] = ("anon",)) -> Plan:
    spec = parse_spec(
        {
            "name": "sampler",
            "task": "image_classification",
            "data": "digits",
            "model": "mlp",
            "arms": list(arms),
            "budget": {"trials": trials, "epochs": epochs},
            "search": {"sampler": sampler, "pruner": "none"},
            "confirm": {"finalists": 1, "seeds": 1, "verdict_seeds": 2},
        }
    )
    return Plan(spec, spaces_of(spec), -9.0)


def loss_of(hyperparameters: dict[str, Any], seed: int) -> float:
    """Return a surface with a best learning rate, a best gamma and noise."""
    far = abs(math.log10(hyperparameters["lr"]) + 2.0) + abs(hyperparameters.get("gamma", 1.0) - 0.7)
    return math.exp(0.3 * far + 0.05 * float(np.random.default_rng(seed).standard_normal()))


def history(plan: Plan, arm: str, count: int, running: int = 0, job: str = "j") -> list[Trial]:
    """Search trials at random points: six of ten COMPLETE, three PRUNED, one DIVERGED, the last ones RUNNING."""
    space, epochs = plan.spaces[arm], plan.spec.budget.length
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        params = space.complete(list(rng.random(len(space.parameters))), {})
        hyperparameters = optimizer_arguments(space, params, plan.log_mean_sigma)
        state, steps = TrialState.COMPLETE, epochs
        if number >= count - running:
            state, steps = TrialState.RUNNING, 0
        elif number % 10 < 4:
            state, steps = (TrialState.PRUNED if number % 10 else TrialState.DIVERGED), min(3, epochs)
        seed = trial_seed(0, Phase.SEARCH, number)
        final = loss_of(hyperparameters, seed)
        when = EPOCH + datetime.timedelta(seconds=number)
        found.append(
            Trial(
                id=f"{job}-{arm}-s{number:03d}",
                job=job,
                arm=arm,
                phase=Phase.SEARCH,
                number=number,
                seed=seed,
                state=state,
                params=params,
                hyperparameters=hyperparameters,
                value=final if state is TrialState.COMPLETE else None,
                attempts=1,
                reports=tuple(
                    Report(step, final * (1 + math.exp(-step)), {"loss": final}, when)
                    for step in range(1, steps + 1)
                ),
                started=when,
                finished=None if state is TrialState.RUNNING else when,
            )
        )
    return found


def store(engine: sa.Engine, trials: Sequence[Trial]) -> None:
    """Write finished trials as the ledger would have, all in one transaction."""
    columns = ("id", "arm", "number", "seed", "params", "hyperparameters", "value", "started", "finished")
    rows = [
        {name: getattr(t, name) for name in columns}
        | {"job_id": t.job, "phase": t.phase, "state": t.state, "configuration": t.id, "created": t.started}
        for t in trials
    ]
    attempts = [
        {"trial_id": t.id, "number": 1, "started": t.started, "finished": t.finished, "outcome": t.state}
        for t in trials
    ]
    reports = [
        {
            "trial_id": t.id,
            "step": r.step,
            "attempt": 1,
            "value": r.value,
            "metrics": r.metrics,
            "time": r.time,
        }
        for t in trials
        for r in t.reports
    ]
    with write(engine) as connection:
        connection.execute(sa.insert(tables.TRIALS), rows)
        connection.execute(sa.insert(tables.ATTEMPTS), attempts)
        connection.execute(sa.insert(tables.REPORTS), reports)


def seconds(work: Callable[[int], object], repeats: int) -> float:
    """Return the median; a first call, which imports and allocates, does not count."""
    times = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        work(repeat)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def suggestion(plan: Plan, trials: Sequence[Trial], seed: int = 0) -> dict[str, Any]:
    search = plan.spec.search.model_copy(update={"seed": seed})
    # Without the limit: it is to be chosen by what is measured here.
    with mock.patch.object(study, "GP_TRIALS", math.inf):
        return study.suggest(plan.spaces["anon"], trials, len(trials), search, "anon", Objective())


def ask(quick: bool) -> None:
    counts = (50, 300) if quick else (50, 100, 200, 300, 500)
    print("\nseconds of a suggestion, by trials\n")
    print(f"| sampler | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}")
    for name, (sampler, running, threads) in ASKS.items():
        times = []
        for count in counts:
            plan = plan_of(sampler, count + 1, 10)
            trials = history(plan, "anon", count, running)
            with threadpool_limits(threads):
                times.append(seconds(functools.partial(suggestion, plan, trials), 1 if quick else 5))
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in times)} |")


def tell(quick: bool) -> None:
    plan = plan_of("tpe", MANY + 1, 10)
    trials = history(plan, "anon", MANY, 3)
    with threadpool_limits(1):
        whole = seconds(lambda seed: suggestion(plan, trials, seed), 3 if quick else 9)
    print(f"\ntpe, {MANY} trials: ask + tell {1e3 * whole:.0f} ms (goal 60)")


def rebuild(quick: bool) -> None:
    plan = plan_of("tpe", MANY + 1, 10)
    space = plan.spaces["anon"]
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{folder}/ledger.db")
        ledger = Ledger(engine)
        job = ledger.jobs.create("sampler", plan.spec.model_dump(mode="json"), {}).id
        store(engine, history(plan, "anon", MANY, job=job))
        repeats = 1 if quick else 3
        reading = seconds(lambda _: ledger.jobs.get(job, trials=True), repeats)
        trials = ledger.jobs.get(job, trials=True).trials
        telling = seconds(
            lambda _: as_frozen_trials(space, trials, study.distributions(space), Objective()), repeats
        )
        ledger.close()
    print(
        f"rebuilding {MANY} trials: {reading + telling:.2f} s (goal 3), of it reading the ledger {reading:.2f} s"
    )


def wait(quick: bool) -> None:
    print(f"\nworkers' waiting, {TRIAL_SECONDS:g}-second trials, {2 if quick else 20} a worker and arm\n")
    print("| sampler | share of time waited | median wait | longest | beyond random |\n|---|---|---|---|---|")
    base = None
    for name in WAITS:
        command = [sys.executable, "-m", "benchmarks.sampler", "--child", name, *["--quick"] * quick]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        base = found["share"] if base is None else base
        print(
            f"| {name} | {found['share']:.1%} | {found['median']:.2f} s | {found['longest']:.2f} s "
            f"| {found['share'] - base:+.1%} |",
            flush=True,
        )


def sleeper(epochs: int) -> type:
    """Return a trainable that sleeps, and tells when and in which process."""
    from ray import tune

    class Sleeper(tune.Trainable):
        def setup(self, config: dict[str, Any], spec: Any = None, functions: Any = None) -> None:
            trial = trial_of(config)
            self._value = loss_of(dict(trial.hyperparameters), trial.seed)
            self._steps, self._began = 0, time.time()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(TRIAL_SECONDS / epochs)
            self._steps += 1
            metrics = {"worker": os.getpid(), "began": self._began, "ended": time.time()}
            measurement = Measurement(self._steps, self._value, metrics)
            outcome = Completed(self._value) if self._steps == epochs else None
            return to_tune(StepResult(measurement=measurement, outcome=outcome))

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

    return Sleeper


def run_for_real(name: str, folder: Path, live: int, arms: Sequence[str] = ("anon", "adamw")) -> list[Trial]:
    """Return the last `live` trials of each arm of a job of 300, as the driver runs them."""
    from anon_tune.workers.driver import cluster
    from anon_tune.workers.driver import job as driver

    sampler, ahead = WAITS[name]
    plan = plan_of(sampler, study.GP_TRIALS, 4, arms)
    settings = Settings(home=folder)
    engine = open_database(settings.ledger_url)
    ledger = Ledger(engine)
    job = ledger.jobs.create("sampler", plan.spec.model_dump(mode="json"), {}).id
    for arm in arms:
        store(engine, history(plan, arm, study.GP_TRIALS - live, job=job))
    lease = ledger.leases.acquire(job, "benchmark", 3600.0)
    cluster.prepare_environment(settings)

    from anon_tune.workers.driver.job_run import JobRun
    from anon_tune.workers.trial import trainable

    patience = driver._PATIENCE_SECONDS if ahead else None
    with (
        cluster.connected(settings),
        mock.patch.object(trainable, "TrialTrainable", sleeper(plan.spec.budget.length)),
        JobRun(ledger, lease, plan, patience) as run,
    ):
        folder, checkpoints = settings.job_folder(job), settings.checkpoints(job)
        checkpoints.mkdir(parents=True, exist_ok=True)
        driver._tune(run, plan.spec, pickle.dumps({}), folder, checkpoints)
        if run.error is not None:
            raise run.error
    trials = ledger.jobs.get(job, trials=True).trials
    ledger.close()
    return [t for t in trials if t.phase is Phase.SEARCH and t.number >= study.GP_TRIALS - live]


def waited(trials: Sequence[Trial]) -> dict[str, float]:
    """Return how long workers wait between two of these trials: the share of the time, the median, the longest."""
    workers: dict[float, list[tuple[float, float]]] = {}
    for trial in trials:
        last = trial.reports[-1].metrics
        workers.setdefault(last["worker"], []).append((last["began"], last["ended"]))
    gaps, busy = [], 0.0
    for spans in workers.values():
        spans.sort()
        gaps += [later[0] - earlier[1] for earlier, later in itertools.pairwise(spans)]
        busy += sum(end - begin for begin, end in spans)
    return {
        "share": sum(gaps) / (sum(gaps) + busy),
        "median": statistics.median(gaps),
        "longest": max(gaps),
        "workers": len(workers),
    }


def main() -> None:
    parts = {"ask": ask, "tell": tell, "rebuild": rebuild, "wait": wait}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, repeats and trials")
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--child", choices=list(WAITS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    two_cores()
    if options.child:
        with tempfile.TemporaryDirectory(prefix="at") as folder:
            print(json.dumps(waited(run_for_real(options.child, Path(folder), 4 if options.quick else 20))))
        return
    warnings.filterwarnings("ignore", category=FutureWarning, module="optuna")
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"two cores, torch {torch.get_num_threads()} threads, OMP_NUM_THREADS {threads}")
    for name in options.only:
        parts[name](options.quick)


if __name__ == "__main__":
    main()
