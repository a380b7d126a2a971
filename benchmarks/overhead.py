"""The service's share of a job's time: trials of 30 seconds on two workers, two cores.

    python -m benchmarks.overhead [--trials 8] [--seconds 30] [--quick]

The job's trials sleep, in ten epochs, so that nothing but the service needs the cores. The whole of `anon-tune run`'s
path is timed from the job's creation until it is at rest in the ledger: taking it, the driver, the ledger, the shims,
Ray Tune. The time that training itself takes is trials x seconds / workers. Ray's start is measured in the same
run (`ray.init`, and the workers' first start: from then until both have begun a trial), and is not counted. All
else is: what lies between two trials, between phases, and after the last.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from anon_tune import api
from anon_tune.jobs.ledger import open_ledger
from anon_tune.records import JobState
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from anon_tune.workers.trial.messages import Completed, Measurement, StepResult, to_tune
from benchmarks.jobs import two_cores

WORKERS, EPOCHS, GOAL = 2, 10, 0.03


def sleeping(seconds: float) -> type:
    """Return a trainable that sleeps through its epochs, and says when it began."""
    from ray import tune

    class Sleeping(tune.Trainable):
        def setup(self, config: dict[str, Any], spec: Any = None, functions: Any = None) -> None:
            self._steps, self._began = 0, time.time()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            self._steps += 1
            time.sleep(max(0.0, self._began + seconds * self._steps / EPOCHS - time.time()))
            metrics = {"began": self._began, "worker": float(os.getpid())}
            outcome = Completed(0.5) if self._steps == EPOCHS else None
            return to_tune(StepResult(measurement=Measurement(self._steps, 0.5, metrics), outcome=outcome))

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

    return Sleeping


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8, help="even, 4 or more")
    parser.add_argument("--seconds", type=float, default=30.0, help="training in each trial")
    parser.add_argument("--quick", action="store_true", help="trials of 3 seconds")
    options = parser.parse_args()
    seconds = 3.0 if options.quick else options.seconds
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    two_cores()
    print(f"load before: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    # The service's own search, confirm and verdict: of the trials four are reruns, in two phases.
    spec = parse_spec(
        {
            "name": "overhead",
            "task": "image_classification",
            "data": "digits",
            "model": "mlp",
            "arms": ["anon"],
            "budget": {"trials": options.trials - 4, "epochs": EPOCHS},
            "search": {"sampler": "random", "pruner": "none"},
            "confirm": {"finalists": 1, "seeds": 2, "verdict_seeds": 2},
        }
    )
    with tempfile.TemporaryDirectory(prefix="at") as made:
        settings = Settings(home=Path(made))
        os.environ["ANON_TUNE_HOME"] = made  # for the projector
        from anon_tune.workers.driver import cluster

        cluster.prepare_environment(settings)
        from anon_tune.workers.trial import trainable

        starts: list[float] = []
        inner = cluster.connected

        @contextlib.contextmanager
        def timed(*arguments: Any) -> Iterator[Callable[[], bool]]:
            begin = time.time()
            with inner(*arguments) as runs:
                starts.extend((begin, time.time()))
                yield runs

        ledger = open_ledger(settings)
        began = time.time()
        lease = api.start_job(ledger, spec)
        ledger.jobs.update(lease, probe={"log_mean_sigma": -9.0}, architecture={"family": "mlp"})
        with (
            mock.patch.object(trainable, "TrialTrainable", sleeping(seconds)),
            mock.patch.object(cluster, "connected", timed),
        ):
            api.run_job(ledger, settings, lease)
            found = ledger.jobs.get(lease.job, trials=True)
        ledger.close()
    if found.state is not JobState.SUCCEEDED or found.finished is None or len(found.trials) != options.trials:
        raise SystemExit(f"the job is {found.state} with {len(found.trials)} trials: {found.reason}")
    first: dict[float, float] = {}
    for trial in found.trials:
        last = trial.reports[-1].metrics
        first[last["worker"]] = min(last["began"], first.get(last["worker"], last["began"]))
    if len(first) != WORKERS:
        raise SystemExit(f"{len(first)} workers ran, not {WORKERS}")
    ray_init, worker_start = starts[1] - starts[0], max(first.values()) - starts[1]
    wall = found.finished.timestamp() - began
    training = options.trials * seconds / WORKERS
    lost = wall - training - ray_init - worker_start
    print(
        f"{options.trials} trials of {seconds:g} s on {WORKERS} workers: {wall:.2f} s, "
        f"of it training {training:.2f}, ray.init {ray_init:.2f}, workers' start {worker_start:.2f}; "
        f"the service {lost:.2f} s, {lost / (wall - ray_init - worker_start):.2%} (goal {GOAL:.0%})"
    )


if __name__ == "__main__":
    main()
