"""Trials that hang, and those that do not leave their process: the job goes on without them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import pytest

from anon_tune.records import JobState, Phase, TrialState
from anon_tune.search.pruning import NEVER_STOPPED
from anon_tune.search.seeds import trial_seed
from tests.jobs.conftest import Home

CODE = """
import os
import threading
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset


class Hangs(Dataset):
    def __init__(self, said):
        self.said = said

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.said.write_text(f"{os.getppid()} {os.getpid()}")
        threading.Event().wait()


def train(context, hangs, said):
    model = torch.nn.Linear(2, 1)
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 2)).square().mean()
            loss.backward()
            optimizer.step()
        context.report(epoch, loss=loss)
        if context.seed == hangs:
            wait_for_data(Path(said))


def wait_for_data(said):
    next(iter(DataLoader(Hangs(said), num_workers=1)))
"""

JOB = """
name: hung
task: train:train
arguments: {{hangs: {hangs}, said: {said}}}
budget: {{trials: 3, epochs: 2, trial_time: 10s}}
search: {{sampler: random, seed: 3}}
confirm: {{finalists: 1, seeds: 1, verdict_seeds: 2}}
arms: [anon]
"""


def is_running(number: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.slow
def test_a_trial_that_hangs_fails_and_the_job_goes_on(home: Home, tmp_path: Path) -> None:
    said = tmp_path / "processes"
    (tmp_path / "train.py").write_text(CODE)
    hangs = trial_seed(3, Phase.SEARCH, 1)
    (tmp_path / "job.yaml").write_text(JOB.format(hangs=hangs, said=said))
    done = home.call("run", str(tmp_path / "job.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    job = home.newest()
    assert job is not None
    assert job.state is JobState.SUCCEEDED
    (failed,) = [trial for trial in job.trials if trial.state is not TrialState.COMPLETE]
    assert (failed.seed, failed.phase, failed.state) == (hangs, Phase.SEARCH, TrialState.FAILED)
    assert failed.attempts == 1
    assert str(failed.reason).startswith("ran for more than 10 s (budget.trial_time)")
    assert len(job.trials) == 3 + 1 + 2

    (attempt,) = home.ledger.attempts.of_job(job.id, failed.id)
    assert attempt.log is not None
    *_, thread = attempt.log.split("Thread ")
    assert thread.startswith("MainThread:")
    assert "in wait_for_data" in thread
    assert "in wait_for_data" in home.call("logs", job.id).stdout

    trained, loaded = map(int, said.read_text().split())
    assert not is_running(trained)
    assert not is_running(loaded)
    assert not list((home.folder / "jobs" / job.id).glob("checkpoints/*"))


STAYS = """
import threading

import torch


def train(context, behind):
    model = torch.nn.Linear(2, 1)
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 2)).square().mean().backward()
            optimizer.step()
        try:
            context.report(epoch, loss=9.0 if context.seed == behind else 1.0)
        except BaseException:
            if context.seed != behind:
                raise
            threading.Event().wait()
"""

PRUNES = """
name: stays
task: train:train
arguments: {{behind: {behind}}}
budget: {{trials: {trials}, epochs: 3}}
search: {{sampler: random, pruner: median, grace: 1, seed: 3}}
confirm: {{finalists: 1, seeds: 1, verdict_seeds: 2}}
arms: [anon]
"""


@pytest.mark.slow
def test_a_pruned_trial_that_does_not_leave_its_process_costs_the_next_one_nothing(
    home: Home, tmp_path: Path
) -> None:
    """Tune drops a trial without a word where its process cannot be prepared for it."""
    (tmp_path / "train.py").write_text(STAYS)
    behind = trial_seed(3, Phase.SEARCH, NEVER_STOPPED + 1)
    (tmp_path / "job.yaml").write_text(PRUNES.format(behind=behind, trials=NEVER_STOPPED + 4))
    done = home.call("run", str(tmp_path / "job.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    job = home.newest()
    assert job is not None
    assert job.state is JobState.SUCCEEDED
    (pruned,) = [trial for trial in job.trials if trial.state is not TrialState.COMPLETE]
    assert (pruned.seed, pruned.state) == (behind, TrialState.PRUNED)
    lost = [attempt for attempt in home.ledger.attempts.of_job(job.id) if attempt.outcome == "LOST"]
    assert {attempt.reason for attempt in lost} <= {
        "the training function of the previous trial did not stop"
    }
