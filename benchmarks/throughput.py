"""Trivial trials per second: the service and stock Ray Tune, on two cores.

    python -m benchmarks.throughput [--quick] [--rounds N] [--trials N] [--only NAME ...]
    python -m benchmarks.throughput --long [--trials 10000]

A trial reports once and ends; its point is drawn at random. Each line is measured in a fresh process with a fresh
Ray, the lines taking turns in rounds whose order is turned each time. The rate is that of trials that ended after the
first tenth of them, so that the start of Ray and of the workers does not count. Lines are compared within a round.

- ours: `anon-tune run`'s own path: the driver, the shims, an sqlite ledger, and the projection to MLflow (sqlite) in
  its process beside. The projection may drain behind; its own rate and the time until it is done are given too.
- stock: `ray.tune.Tuner` with a class trainable and its default loggers, without and with `reuse_actors`; with its
  MLflowLoggerCallback, on sqlite and on a real `mlflow server`; bare: reuse, and no loggers at all.

`--long` runs ours and bare Tune once each with many trials, and gives the memory of the processes, the driver's
processor time and the rate of the last tenth.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from anon_tune import api
from anon_tune.jobs.ledger import open_ledger
from anon_tune.records import JobState, TrialState
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from anon_tune.workers.trial.messages import (
    Completed,
    Measurement,
    StepResult,
    to_tune,
    trial_of,
)
from benchmarks.jobs import two_cores
from benchmarks.mlflow_server import MlflowServer

OURS = "ours, ledger and MLflow (sqlite)"
REUSE = "stock, reuse"
BARE = "stock, reuse, no loggers"
NEW = "stock, new actors"
SQLITE = "stock, reuse, MLflow (sqlite)"
HTTP = "stock, reuse, MLflow (server)"
SHARE: dict[str, float] = {OURS: 1.0, REUSE: 1.0, BARE: 1.0, SQLITE: 0.3, HTTP: 0.05, NEW: 0.03}
"""Share of the trials that each line runs: slow lines run few."""
FLOORS = {REUSE: 0.95, SQLITE: 2.5}
RATE_FLOOR = 25.0
LONG_TRIALS, LONG_MEMORY_KB, LONG_RATE = 10_000, 60.0, 0.9
_SAMPLE_SECONDS = 0.5
_SKIPPED = 0.1


class Memory:
    """Resident memory and processor time of this process, and memory of the projector that it started, over time."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, float, float]] = []
        """Time, bytes of this process, bytes of the projector (0: it is not there), seconds of processor time."""
        self._done = threading.Event()

    @contextmanager
    def sampled(self) -> Iterator[None]:
        thread = threading.Thread(target=self._sample)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._done.wait(_SAMPLE_SECONDS):
            projector = 0.0
            for child in own.children():
                try:
                    if "mlflow" in child.cmdline():
                        projector = float(child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            self.samples.append((time.time(), float(own.memory_info().rss), projector, time.process_time()))

    def by_trial(
        self, ended: Sequence[float], column: int, skipped: float = _SKIPPED
    ) -> list[tuple[int, float]]:
        """(trials that had ended, value) after the first of them, while trials end, at samples that have any."""
        pairs = [(bisect.bisect(ended, sample[0]), sample[column]) for sample in self.samples]
        return [pair for pair in pairs if skipped * len(ended) <= pair[0] < len(ended) and pair[1]]

    def slope(self, ended: Sequence[float], column: int, skipped: float = _SKIPPED) -> float:
        """Growth with each trial after the first of them, by least squares; 0 for too few samples."""
        pairs = self.by_trial(ended, column, skipped)
        if len({count for count, _ in pairs}) < 2:
            return 0.0
        return statistics.linear_regression(*zip(*pairs, strict=True)).slope


def run_ours(folder: Path, trials: int) -> dict[str, Any]:
    """Return a job as `anon-tune run` works on it, with the trainable alone replaced."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    settings = Settings(home=folder)
    os.environ["ANON_TUNE_HOME"] = str(folder)  # for the projector
    spec = parse_spec(
        {
            "name": "throughput",
            "task": "image_classification",
            "data": "digits",
            "model": "mlp",
            "arms": ["anon"],
            "budget": {"trials": trials, "epochs": 1},
            "search": {"sampler": "random", "pruner": "none"},
            "confirm": {"finalists": 1, "seeds": 1, "verdict_seeds": 2},
        }
    )
    ledger = open_ledger(settings)
    lease = api.start_job(ledger, spec)
    ledger.jobs.update(lease, probe={"log_mean_sigma": -9.0}, architecture={"family": "mlp"})
    from anon_tune.workers.driver import cluster

    cluster.prepare_environment(settings)
    from anon_tune.workers.trial import trainable

    memory = Memory()
    with memory.sampled(), mock.patch.object(trainable, "TrialTrainable", trivial_of_ours()):
        api.run_job(ledger, settings, lease)
        found = ledger.jobs.get(lease.job, trials=True)
    if found.state is not JobState.SUCCEEDED or found.finished is None:
        raise SystemExit(f"the job is {found.state}: {found.reason}")
    api.project(ledger, settings).sync(lease.job)  # if the projection was left behind
    drained = time.time()
    ended = sorted(trial.finished.timestamp() for trial in found.trials if trial.finished)
    if not len(ended) == len(found.trials) == trials + 3:
        raise SystemExit(f"{len(ended)} of {len(found.trials)} trials ended, for a budget of {trials}")
    ledger.close()
    behind = drained - found.finished.timestamp()
    return {**rates(ended), **memory_of(memory, ended), "drained": drained - ended[0], "behind": behind}


def run_stock(
    folder: Path, trials: int, *, reuse: bool, loggers: bool = True, mlflow: str | None = None
) -> dict[str, Any]:
    """Stock Tune with what its users write."""
    from anon_tune.workers.driver import cluster

    settings = Settings(home=folder)
    cluster.prepare_environment(settings)  # the same Ray, but for its loggers
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "0" if loggers else "1"
    from ray import tune

    ended: list[float] = []

    class Clock(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ended.append(time.time())

    callbacks: list[Any] = [Clock()]
    if mlflow is not None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        callbacks.append(MLflowLoggerCallback(tracking_uri=mlflow, experiment_name="throughput"))
    memory = Memory()
    with cluster.connected(settings), memory.sampled():
        results = tune.Tuner(
            tune.with_resources(trivial(), {"cpu": 1}),
            param_space={
                "hyperparameters": {"lr": tune.loguniform(1e-4, 1.0), "gamma": tune.uniform(0.0, 1.5)},
                "seed": 0,
            },
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=reuse),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder / "results"),
                verbose=0,
                callbacks=callbacks,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    if results.num_errors or len(ended) != trials:
        raise SystemExit(f"{len(ended)} of {trials} trials ended, {results.num_errors} with an error")
    return {**rates(ended), **memory_of(memory, ended)}


def trivial() -> type:
    """Return a trainable that reports once and ends."""
    from ray import tune

    class Trivial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._value = abs(math.log10(config["hyperparameters"]["lr"]) + 2.0)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            return {
                "step": 1,
                "value": self._value,
                "metrics": {"val_loss": self._value},
                "done": True,
                "outcome": TrialState.COMPLETE.value,
                "final": self._value,
            }

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

    return Trivial


def trivial_of_ours() -> type:
    """The same, with the messages between our driver and its trials."""

    class Ours(trivial()):  # type: ignore[misc]
        def setup(self, config: dict[str, Any], spec: Any = None, functions: Any = None) -> None:
            super().setup({"hyperparameters": trial_of(config).hyperparameters})

        def step(self) -> dict[str, Any]:
            measurement = Measurement(1, self._value, {"val_loss": self._value})
            return to_tune(StepResult(measurement=measurement, outcome=Completed(self._value)))

    return Ours


def rates(ended: Sequence[float]) -> dict[str, Any]:
    """Trials a second after the first tenth, and in the last tenth."""

    def rate(first: int) -> float:
        return (len(ended) - 1 - first) / (ended[-1] - ended[first])

    skipped = int(_SKIPPED * len(ended))
    return {"trials": len(ended), "rate": rate(skipped), "last": rate(len(ended) - 1 - max(1, skipped))}


def memory_of(memory: Memory, ended: Sequence[float]) -> dict[str, Any]:
    """Return the driver's kB and CPU milliseconds per trial and its megabytes, and the projector's megabytes."""
    own, beside = memory.by_trial(ended, 1), [size for _, size in memory.by_trial(ended, 2)]
    return {
        "kb_per_trial": memory.slope(ended, 1) / 1e3,
        "cpu_ms": memory.slope(ended, 3) * 1e3,
        "last_cpu_ms": memory.slope(ended, 3, 1.0 - _SKIPPED) * 1e3,
        "driver_mb": own[-1][1] / 1e6 if own else 0.0,
        "projector_mb": [beside[0] / 1e6, max(beside) / 1e6, beside[-1] / 1e6] if beside else None,
    }


def child(name: str, trials: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="at") as made:
        folder = Path(made)
        if name == OURS:
            return run_ours(folder, trials)
        with MlflowServer(folder) if name == HTTP else nullcontext() as server:
            store = f"sqlite:///{folder / 'mlflow.db'}" if name == SQLITE else None
            uri = server.url if server is not None else store
            return run_stock(folder, trials, reuse=name != NEW, loggers=name != BARE, mlflow=uri)


def measured(name: str, trials: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.throughput", "--child", name, "--trials", str(trials)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}:\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"# {name}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return found


def compare(names: Sequence[str], trials: int, rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in [*names[start:], *names[:start]]:
            found[name].append(measured(name, max(4, round(SHARE[name] * trials))))
    print("| | trials | trials/s | lowest .. highest | ours / this, same round | floor |")
    print("|---|---|---|---|---|---|")
    for name in names:
        own = [one["rate"] for one in found[name]]
        ratio = floor = ""
        if name != OURS and OURS in names:
            ratio = f"{statistics.median(a['rate'] / b for a, b in zip(found[OURS], own, strict=True)):.2f}"
            floor = f"{FLOORS[name]:g}" if name in FLOORS else ""
        if name == OURS:
            floor = f"{RATE_FLOOR:g}/s"
        print(
            f"| {name} | {found[name][0]['trials']} | {statistics.median(own):.1f} "
            f"| {min(own):.1f} .. {max(own):.1f} | {ratio} | {floor} |"
        )
    if OURS in names:
        whole = [one["trials"] / one["drained"] for one in found[OURS]]
        behind = [one["behind"] for one in found[OURS]]
        print(
            f"\nWith the projection to its end {statistics.median(whole):.1f} trials/s: "
            f"it was done {statistics.median(behind):.1f} s after the job."
        )


def long(trials: int) -> None:
    bare, ours = measured(BARE, trials), measured(OURS, trials)
    print(
        "| | trials | trials/s | last tenth | driver, CPU ms a trial | in the last tenth "
        "| driver, kB a trial | at the end, MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, one in ((BARE, bare), (OURS, ours)):
        print(
            f"| {name} | {one['trials']} | {one['rate']:.1f} | {one['last']:.1f} | {one['cpu_ms']:.1f} "
            f"| {one['last_cpu_ms']:.1f} | {one['kb_per_trial']:.1f} | {one['driver_mb']:.0f} |"
        )
    first, most, last = ours["projector_mb"]
    print(
        f"\nours / bare in the last tenth: {ours['last'] / bare['last']:.2f} (floor {LONG_RATE}); at most "
        f"{LONG_MEMORY_KB:g} kB a trial. The projector had {first:.0f} MB after a tenth of the trials, "
        f"{most:.0f} MB at most and {last:.0f} MB at the end; it was done {ours['behind']:.0f} s after the job."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--long", action="store_true", help=f"{LONG_TRIALS} trials: memory and the last rate")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--trials", type=int, default=None)
    parser.add_argument("--only", nargs="+", choices=list(SHARE), default=list(SHARE))
    parser.add_argument("--child", choices=list(SHARE), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    two_cores()
    if options.child:
        print(json.dumps(child(options.child, options.trials)))
        return
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"two cores; load before (1, 5, 15 minutes): {load}\n")
    if options.long:
        long(options.trials or (300 if options.quick else LONG_TRIALS))
        return
    compare(
        options.only,
        options.trials or (100 if options.quick else 1000),
        options.rounds or (1 if options.quick else 3),
    )


if __name__ == "__main__":
    main()
