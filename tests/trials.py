"""A trial in a worker's hands, without Ray around it."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.spec import JobSpec
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial import child, isolated
from anon_tune.workers.trial.check_ups import compared, following
from anon_tune.workers.trial.isolated import CheckUp, IsolatedAttempt, UserCode
from anon_tune.workers.trial.messages import (
    CheckUpRun,
    Completed,
    Failed,
    Measurement,
    ProbeAssignment,
    ProbeResult,
    StepResult,
    TrialAssignment,
    from_config,
    from_tune,
    to_config,
)
from anon_tune.workers.trial.trainable import TrialTrainable
from anon_tune.workers.trial.work import Work

TRIAL = "j-anon-s000"
_TIMES = {"epoch_seconds", "samples_per_second", "seconds", "typical"}


NO_FUNCTIONS = pickle.dumps({})


class SharedKeeper(Keeper):
    """The keeper of all tests, which loads torch once."""

    def close(self) -> None:
        """Do nothing: others use it."""

    def __exit__(self, *_: object) -> None:
        super().close()


SHARED = SharedKeeper(isolated.MODULES)


class Local(TrialTrainable):
    """Takes the job from the config, as Tune hands it over to each worker."""

    def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
        with mock.patch.object(isolated, "keeper_for", return_value=SHARED):
            super().setup(config, config["spec"], NO_FUNCTIONS)

    def advance(self) -> StepResult:
        """Return the next message to the driver."""
        found = from_tune(self.step())
        assert isinstance(found, StepResult)
        return found


def config(
    spec: JobSpec,
    checkpoints: Path,
    attempt: int = 1,
    *names: str,
    trial: str = TRIAL,
    arm: str = "anon",
    phase: Phase = Phase.SEARCH,
    seed: int = 3,
    hyperparameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the config that Tune gives a trial's worker; `names` are the checkpoints to continue from."""
    assigned = Trial(
        id=trial,
        job="j",
        arm=arm,
        phase=phase,
        number=0,
        seed=seed,
        state=TrialState.RUNNING,
        params={},
        hyperparameters=hyperparameters or {"lr": 0.01, "gamma": 1.0, "floor": 0.03},
        attempts=attempt,
        checkpoints=names,
    )
    assignment = TrialAssignment(assigned, checkpoints, checkpoints.parent / f"output{attempt}.log")
    return {"spec": spec, **to_config(assignment)}


class Isolated(IsolatedAttempt):
    """An attempt at a trial of user code, by the keeper of the tests."""

    def __init__(self, keeper: Keeper, config: dict[str, Any]) -> None:
        assignment = from_config(config)
        assert isinstance(assignment, TrialAssignment)
        super().__init__(assignment, UserCode(keeper, config["spec"], NO_FUNCTIONS))

    def advance(self) -> StepResult:
        """Return the next message to the driver."""
        return self.step()


def checked_up(
    spec: JobSpec, folder: Path, points: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> ProbeResult | Failed:
    """Return the result of the check-up of a job with user code; `points` as in `ProbeAssignment`."""
    probe = ProbeAssignment(7, 8, 0.03, points or {}, folder / "probe.log")
    run = CheckUp(probe, UserCode(SHARED, spec, NO_FUNCTIONS))
    try:
        return run.step()
    finally:
        run.close()


class Recorder:
    """A supervisor in the same process: it keeps the results, and stops the training after so many."""

    def __init__(self, stops_after: int | None = None) -> None:
        self.results: list[Any] = []
        self._stops_after = stops_after

    def tell(self, result: Any) -> bool:
        """Keep a result; return whether the training goes on."""
        self.results.append(result)
        return self._stops_after is None or len(self.results) < self._stops_after


def trained_here(config: dict[str, Any], stops_after: int | None = None) -> list[StepResult]:
    """Return the results of a trial of user code in this process, which is faster and isolates nothing."""
    recorder = Recorder(stops_after)
    assignment = from_config(config)
    work = Work(assignment, config["spec"], assignment.output.with_suffix(".files"), NO_FUNCTIONS)
    work.files.mkdir(parents=True, exist_ok=True)
    with mock.patch("anon_tune.workers.trial.session.Watchdog"):
        child.run(work, recorder)
    return recorder.results


def checked_up_here(spec: JobSpec, folder: Path) -> ProbeResult | Failed:
    """Return the result of a check-up in this process."""
    probe = ProbeAssignment(7, 8, 0.03, {}, folder / "probe.log")
    first = check_up_run(Work(probe, spec, folder, NO_FUNCTIONS, 0))
    if isinstance(first, Failed):
        return first
    second = check_up_run(Work(following(probe, first), spec, folder, NO_FUNCTIONS, 1))
    return second if isinstance(second, Failed) else compared(first, second, spec)


def check_up_run(work: Work) -> CheckUpRun | Failed:
    """Return the result of one run of a check-up in this process."""
    recorder = Recorder()
    child.run(work, recorder)
    (found,) = recorder.results
    assert isinstance(found, CheckUpRun | Failed)
    return found


def results(trial: Local | Isolated) -> list[StepResult]:
    """Every result until the trial is over."""
    found = [trial.advance()]
    while found[-1].outcome is None:
        found.append(trial.advance())
    if isinstance(trial, Isolated):
        trial.close()
    return found


def measured(result: StepResult) -> Measurement:
    """The measurement of a result that has one."""
    assert result.measurement is not None
    return result.measurement


def steps(found: Sequence[StepResult]) -> list[int | None]:
    """The step of each result; None where it has none."""
    return [None if result.measurement is None else result.measurement.step for result in found]


def final(result: StepResult) -> float:
    """The value of a trial that ends with this result."""
    assert isinstance(result.outcome, Completed)
    return result.outcome.final


def failed(result: StepResult) -> Failed:
    """The failure of a trial that ends with this result."""
    assert isinstance(result.outcome, Failed)
    return result.outcome


def untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    """All but how long it took."""
    return {name: value for name, value in metrics.items() if name not in _TIMES}


def learned(result: StepResult) -> dict[str, Any]:
    """Return the results that must be the same in another attempt: all but durations and file names."""
    found = result.measurement
    own = {} if found is None else {"step": found.step, "value": found.value, **untimed(found.metrics)}
    outcome = result.outcome and dataclasses.replace(result.outcome, log=None)
    return {"outcome": outcome, **own}
