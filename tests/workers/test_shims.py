"""What the scheduler's shim gives Tune to run, beside Tune's own scheduler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

from anon_tune.ledger import Ledger
from anon_tune.workers.run import Run
from anon_tune.workers.shims import Drained, JobScheduler
from tests.workers.runs import begin, plan

STATES = (TuneTrial.PENDING, TuneTrial.RUNNING, TuneTrial.TERMINATED, TuneTrial.ERROR)


class Controller:
    """What the scheduler sees of Tune's: all trials that ever were."""

    def __init__(self) -> None:
        self.trials: list[TuneTrial] = []
        self._actor_cache = SimpleNamespace(increase_max=lambda *_, **__: None)
        self._trial_to_actor: dict[TuneTrial, str] = {}
        self._actor_manager = SimpleNamespace(is_actor_started=lambda actor: actor == "being started")

    def get_trials(self) -> list[TuneTrial]:
        return self.trials

    def add(self, scheduler: JobScheduler) -> None:
        self.trials.append(TuneTrial("t", trial_id=str(len(self.trials)), stub=True))
        scheduler.on_trial_add(self, self.trials[-1])


changes = st.lists(st.none() | st.tuples(st.integers(0, 5), st.sampled_from(STATES)), max_size=30)


@pytest.fixture
def run(ledger: Ledger) -> Run:
    _, lease = begin(ledger, plan())
    return Run(ledger, lease, plan())


def test_it_chooses_as_tune_does_without_looking_at_what_has_ended(run: Run):
    @given(changes)
    @settings(deadline=None, max_examples=50)
    def check(steps: list[tuple[int, str] | None]) -> None:
        controller, scheduler = Controller(), JobScheduler(run, 2)
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


def test_a_trial_whose_process_is_being_started_waits_for_it_while_another_can_have_one_that_is_free(
    run: Run,
):
    controller, scheduler = Controller(), JobScheduler(run, 2)
    for _ in range(3):
        controller.add(scheduler)
    first, second, third = controller.trials
    controller._trial_to_actor = {first: "being started", second: "asked for"}
    assert scheduler.choose_trial_to_run(controller) is second
    second.set_status(TuneTrial.RUNNING)
    assert scheduler.choose_trial_to_run(controller) is third
    third.set_status(TuneTrial.RUNNING)
    assert scheduler.choose_trial_to_run(controller) is first, "nobody else needs the process that is free"


def test_a_run_that_stops_is_drained_once_what_ran_then_has_ended(run: Run):
    controller, scheduler = Controller(), JobScheduler(run, 2)
    for state in STATES:
        controller.add(scheduler)
        controller.trials[-1].set_status(state)
    waiting, running = controller.trials[:2]
    assert scheduler.choose_trial_to_run(controller) is waiting
    run.paused = "three failures"
    assert scheduler.choose_trial_to_run(controller) is waiting
    waiting.set_status(TuneTrial.RUNNING)  # given out ahead: it is not waited for
    running.set_status(TuneTrial.TERMINATED)
    with pytest.raises(Drained):
        scheduler.choose_trial_to_run(controller)
