"""Trials that the scheduler chooses for Tune, compared with Tune's own scheduler."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from anon_tune.ledger import Ledger
from anon_tune.records import TrialState
from anon_tune.workers.driver import tune_adapters
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.driver.tune_adapters import Drained, JobScheduler, JobSearcher
from anon_tune.workers.trial.messages import (
    Completed,
    Failed,
    ProbeAssignment,
    ProbeResult,
    TrialAssignment,
    from_config,
    to_config,
    to_tune,
)
from anon_tune.workers.trial.output import own
from tests.workers.runs import begin, plan, result, started, stored

STATES = (TuneTrial.PENDING, TuneTrial.RUNNING, TuneTrial.TERMINATED, TuneTrial.ERROR)


class Controller:
    """Stands for Tune's: all trials that ever were."""

    def __init__(self) -> None:
        self.trials: list[TuneTrial] = []

    def get_trials(self) -> list[TuneTrial]:
        return self.trials

    def stop_trial(self, trial: TuneTrial) -> None:
        assert trial.status == TuneTrial.RUNNING
        trial.set_status(TuneTrial.TERMINATED)

    def add(
        self, scheduler: JobScheduler, status: str = TuneTrial.PENDING, config: dict[str, Any] | None = None
    ) -> TuneTrial:
        self.trials.append(TuneTrial("t", config=config or {}, trial_id=str(len(self.trials)), stub=True))
        scheduler.on_trial_add(self, self.trials[-1])
        self.trials[-1].set_status(status)
        return self.trials[-1]


class Clock:
    """Goes where it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


changes = st.lists(st.none() | st.tuples(st.integers(0, 5), st.sampled_from(STATES)), max_size=30)


@pytest.fixture
def run(ledger: Ledger) -> JobRun:
    _, lease = begin(ledger, plan())
    return JobRun(ledger, lease, plan())


def scheduler_of(run: JobRun, slots: int = 2, clock: Clock | None = None) -> JobScheduler:
    return JobScheduler(run, JobSearcher(run, slots + 1, Path(), Path()), slots, clock or Clock())


def test_it_chooses_as_tune_does_without_looking_at_what_has_ended(run: JobRun):
    @given(changes)
    @settings(max_examples=50)
    def check(steps: list[tuple[int, str] | None]) -> None:
        controller, scheduler = Controller(), scheduler_of(run, slots=0)
        for step in steps:
            alive = [trial for trial in controller.trials if not trial.is_finished()]
            if step is None or not alive:
                controller.add(scheduler)
            else:
                alive[step[0] % len(alive)].set_status(step[1])
            assert scheduler.choose_trial_to_run(controller) is FIFOScheduler().choose_trial_to_run(
                controller
            )

    check()


def ends(controller: Controller, scheduler: JobScheduler, run: JobRun) -> TuneTrial:
    """A trial that is given out and comes to its end."""
    trial = started(run)
    config = to_config(TrialAssignment(trial, Path(), Path()))
    ended = controller.add(scheduler, TuneTrial.RUNNING, config)
    going_on = scheduler.on_trial_result(controller, ended, to_tune(result(1, 0.5)))
    assert going_on == TrialScheduler.CONTINUE
    last = to_tune(result(2, 0.4, Completed(0.4)))
    assert scheduler.on_trial_result(controller, ended, last) == TrialScheduler.NOOP
    return ended


def test_a_trial_that_has_ended_keeps_its_process_until_another_needs_it(run: JobRun):
    controller, scheduler = Controller(), scheduler_of(run)
    first, second = ends(controller, scheduler, run), ends(controller, scheduler, run)
    assert scheduler.choose_trial_to_run(controller) is None
    assert (first.status, second.status) == (TuneTrial.RUNNING, TuneTrial.RUNNING)
    third = controller.add(scheduler)
    for _ in range(3):  # until the process is ready for the third
        scheduler.choose_trial_to_run(controller)
        assert (first.status, second.status) == (TuneTrial.TERMINATED, TuneTrial.RUNNING)
    third.set_status(TuneTrial.RUNNING)
    fourth = controller.add(scheduler)
    assert scheduler.choose_trial_to_run(controller) is fourth
    assert second.status == TuneTrial.TERMINATED


def test_a_trial_that_is_pruned_keeps_its_process_too(run: JobRun, monkeypatch: pytest.MonkeyPatch):
    controller, scheduler = Controller(), scheduler_of(run)
    monkeypatch.setattr(tune_adapters.JobRun, "report", lambda *_: True)
    config = to_config(TrialAssignment(started(run), Path(), Path()))
    pruned = controller.add(scheduler, TuneTrial.RUNNING, config)
    assert scheduler.on_trial_result(controller, pruned, to_tune(result(1, 0.5))) == TrialScheduler.NOOP
    assert pruned.status == TuneTrial.RUNNING


def test_processes_end_once_no_more_trials_come(ledger: Ledger):
    job = plan(trials=1)
    _, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    controller, scheduler = Controller(), scheduler_of(run)
    while isinstance(config := scheduler._searcher.suggest("x"), dict):
        assert scheduler._searcher.is_finished is False
        running = controller.add(scheduler, TuneTrial.RUNNING, config)
        last = to_tune(result(4, 0.4, Completed(0.4)))
        scheduler.on_trial_result(controller, running, last)
    assert config == JobSearcher.FINISHED
    assert {trial.status for trial in controller.trials} == {TuneTrial.RUNNING}
    assert scheduler.choose_trial_to_run(controller) is None
    assert {trial.status for trial in controller.trials} == {TuneTrial.TERMINATED}


def test_a_trial_whose_process_is_being_started_waits_for_it_while_another_can_have_one_that_is_free(
    run: JobRun,
):
    controller, scheduler = Controller(), scheduler_of(run)
    first, second, third = (controller.add(scheduler) for _ in range(3))
    assert scheduler.choose_trial_to_run(controller) is third, "both slots start processes for the others"
    first.set_status(TuneTrial.RUNNING)
    assert scheduler.choose_trial_to_run(controller) is third
    third.set_status(TuneTrial.RUNNING)
    assert scheduler.choose_trial_to_run(controller) is second, "nobody else waits"


def test_a_trial_that_has_waited_for_long_is_first_though_a_process_should_be_coming(
    run: JobRun, tmp_path: Path
):
    """Others may hold the slots of a cluster."""
    clock = Clock()
    controller, scheduler = Controller(), scheduler_of(run, clock=clock)
    configs = [to_config(TrialAssignment(started(run), Path(), tmp_path / "x.log")) for _ in range(3)]
    first, second, third = (controller.add(scheduler, config=config) for config in configs)
    assert scheduler.choose_trial_to_run(controller) is third
    clock.now += 61
    assert scheduler.choose_trial_to_run(controller) is first
    first.set_status(TuneTrial.RUNNING)
    assert scheduler.choose_trial_to_run(controller) is second


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_trial_does_not_pay_for_a_process_that_died_while_it_was_idle(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_begun: bool
):
    monkeypatch.setattr(TuneTrial, "error_file", None)
    job = plan()
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    controller, scheduler = Controller(), scheduler_of(run)
    for _ in range(3):
        ends(controller, scheduler, run)
    for _ in range(3):
        trial = started(run)
        file = tmp_path / f"{trial.id}.{trial.attempts}.log"
        given = controller.add(scheduler, config=to_config(TrialAssignment(trial, Path(), file)))
        assert scheduler.choose_trial_to_run(controller) is given
        if has_begun:
            own(file).touch()
        scheduler.on_trial_error(controller, given)
        given.set_status(TuneTrial.ERROR)
    (state,) = [each.state for each in stored(ledger, job_id) if each.id == trial.id]
    assert state is (TrialState.FAILED if has_begun else TrialState.WAITING)


def test_a_run_that_stops_is_drained_once_what_ran_then_has_ended(run: JobRun):
    controller, scheduler = Controller(), scheduler_of(run)
    for state in STATES:
        controller.add(scheduler, state)
    waiting, running = controller.trials[:2]
    ends(controller, scheduler, run)
    run.paused = "three failures"
    assert scheduler.choose_trial_to_run(controller) is None
    waiting.set_status(TuneTrial.RUNNING)  # given out ahead: it is not waited for
    running.set_status(TuneTrial.TERMINATED)
    with pytest.raises(Drained):
        scheduler.choose_trial_to_run(controller)


class Limited:
    """A job whose trials may run for 5 seconds, its scheduler, and time that goes by turns of Tune's loop."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        job = plan(budget={"trial_time": 5})
        self.job, lease = begin(ledger, job)
        self.ledger, self.folder, self.clock = ledger, folder, Clock()
        (folder / "asked").mkdir()
        self.run = JobRun(ledger, lease, job, folder=folder / "asked")
        self.controller = Controller()
        self.scheduler = scheduler_of(self.run, clock=self.clock)

    def add(self, state: str) -> TuneTrial:
        trial = started(self.run)
        assignment = TrialAssignment(trial, self.folder / "asked", self.folder / f"{trial.id}.1.log")
        return self.controller.add(self.scheduler, state, to_config(assignment))

    def turns(self, *seconds: float) -> list[str]:
        """Let time go by; return who was asked to end."""
        for each in seconds:
            self.clock.now += each
            self.scheduler.choose_trial_to_run(self.controller)
        assert self.run.error is None
        return [path.name for path in (self.folder / "asked").iterdir()]

    def fail(self, trial: TuneTrial, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        """Do as Tune does with a trial whose process has died, or has raised an error."""
        written = self.folder / "error.txt"
        written.write_text(f"Failure # 1\n{error!r}\n")
        monkeypatch.setattr(TuneTrial, "error_file", str(written))
        self.scheduler.on_trial_error(self.controller, trial)
        trial.set_status(TuneTrial.ERROR)

    @property
    def states(self) -> list[TrialState]:
        return [trial.state for trial in stored(self.ledger, self.job)]


def assigned(trial: TuneTrial) -> TrialAssignment:
    found = from_config(trial.config)
    assert isinstance(found, TrialAssignment)
    return found


@pytest.fixture
def limited(ledger: Ledger, tmp_path: Path) -> Limited:
    return Limited(ledger, tmp_path)


def test_a_trial_is_asked_to_end_once_it_has_run_for_longer_than_it_may(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
):
    running = limited.add(TuneTrial.RUNNING)
    assert limited.turns(1, 1, 1, 1, 1, 0.9) == []
    asked = f"{assigned(running).trial.id}.1.end"
    assert limited.turns(1.1) == [asked]
    limited.fail(running, monkeypatch)
    assert limited.states == [TrialState.FAILED]
    assert limited.turns(1, 1) == []


def test_a_trial_that_waits_for_a_process_does_not_run_but_one_in_its_constructor_does(limited: Limited):
    waiting = limited.add(TuneTrial.PENDING)
    assert limited.turns(*[1] * 9) == []
    own(assigned(waiting).output).touch()
    assert limited.turns(*[1] * 6) == []
    assert limited.turns(1) == [f"{assigned(waiting).trial.id}.1.end"]


def test_time_in_which_the_driver_was_stopped_does_not_count(limited: Limited):
    limited.run._plan = plan(budget={"trial_time": 60})
    limited.add(TuneTrial.RUNNING)
    assert limited.turns(1, *[7200] * 5) == []
    assert limited.turns(7200, 7200) != []


def test_a_run_that_stops_does_not_wait_for_a_trial_that_hangs(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
):
    running = limited.add(TuneTrial.RUNNING)
    limited.run.paused = "three failures"
    assert limited.turns(*[1] * 7) != []
    limited.fail(running, monkeypatch)
    with pytest.raises(Drained):
        limited.turns(1)


def test_a_process_that_does_not_end_when_it_is_asked_to_is_killed(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
):
    killed: list[object] = []
    monkeypatch.setattr(tune_adapters.ray, "kill", killed.append)
    limited.add(TuneTrial.RUNNING).temporary_state.ray_actor = "actor"
    assert limited.turns(*[1] * 7) != []
    limited.turns(*[10] * 12)
    assert killed == []
    limited.turns(1)
    assert killed == ["actor"]


PROBE = ProbeAssignment(1, 2, 0.03, {}, Path("probe.log"))
MEASURED = ProbeResult(
    log_mean_sigma=-9.0, quantiles_log_sigma={}, floor=0.03, batches=4, architecture={"family": "mlp"}
)


@pytest.fixture
def unprobed(ledger: Ledger) -> JobRun:
    """A run whose job has not been measured."""
    job = dataclasses.replace(plan(), log_mean_sigma=math.nan)
    _, lease = begin(ledger, job)
    return JobRun(ledger, lease, job, probe=PROBE)


def test_the_first_process_makes_the_probe_and_the_trials_follow_it(unprobed: JobRun, ledger: Ledger):
    controller, scheduler = Controller(), scheduler_of(unprobed)
    config = scheduler._searcher.suggest("x")
    assert isinstance(config, dict)
    assert from_config(config) == PROBE
    assert scheduler._searcher.suggest("x") is None, "it must be measured first"
    probing = controller.add(scheduler, TuneTrial.RUNNING, config)
    assert scheduler.on_trial_result(controller, probing, to_tune(MEASURED)) == TrialScheduler.NOOP
    first = scheduler._searcher.suggest("x")
    assert isinstance(first, dict)
    trial = controller.add(scheduler, config=first)
    assert assigned(trial).trial.hyperparameters["lr"] > 0
    assert scheduler.choose_trial_to_run(controller) is trial, "it gets the process of the probe"
    assert probing.status == TuneTrial.TERMINATED
    assert ledger.jobs.get(assigned(trial).trial.job).probe == MEASURED.as_stored()


def test_what_the_check_up_has_noticed_is_stored_and_in_the_log(
    unprobed: JobRun, ledger: Ledger, caplog: pytest.LogCaptureFixture
):
    assert unprobed.next() == PROBE
    unprobed.store_probe(dataclasses.replace(MEASURED, notes=("no optimizer trains head.weight",)))
    (job,) = ledger.overviews.jobs()
    assert (job.probe or {})["notes"] == ["no optimizer trains head.weight"]
    assert ("WARNING", "check-up: no optimizer trains head.weight") in [
        (record.levelname, record.getMessage()) for record in caplog.records
    ]


def test_without_a_good_probe_there_is_no_trial(unprobed: JobRun):
    controller, scheduler = Controller(), scheduler_of(unprobed)
    config = scheduler._searcher.suggest("x")
    assert isinstance(config, dict)
    probing = controller.add(scheduler, TuneTrial.RUNNING, config)
    scheduler.on_trial_result(controller, probing, to_tune(Failed("no data", "no data")))
    assert unprobed.unfit == Failed("no data", "no data")
    assert scheduler._searcher.suggest("x") == JobSearcher.FINISHED


def test_a_probe_whose_process_dies_stops_the_job_and_says_where_to_look(unprobed: JobRun):
    controller, scheduler = Controller(), scheduler_of(unprobed)
    config = scheduler._searcher.suggest("x")
    assert isinstance(config, dict)
    scheduler.on_trial_error(controller, controller.add(scheduler, TuneTrial.RUNNING, config))
    assert "before the first trial died. See job.log" in str(unprobed.error)
    assert scheduler._searcher.suggest("x") == JobSearcher.FINISHED
