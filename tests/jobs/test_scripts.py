"""Training scripts of users, as whole jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from anon_tune.records import JobState, Phase, TrialState
from tests.jobs.conftest import Home
from tests.jobs.test_bring_your_own import tuned

SHARED_STATE = """
import os

import torch
from torch import nn

model = nn.Linear(4, 1)
seen = 0


def train(context):
    global seen
    seen += 1
    assert seen == 1, "another trial was here"
    assert "MARK" not in os.environ
    assert not torch.are_deterministic_algorithms_enabled()
    assert open("data.csv").read() == "1,2"
    os.environ["MARK"] = "set"
    torch.use_deterministic_algorithms(True)
    with open("trials.txt", "a") as file:
        file.write(f"{model.weight.sum().item():.6f}\\n")
    os.chdir(context.folder)
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            optimizer.zero_grad()
            inputs = torch.randn(16, 4)
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimizer.step()
        context.report(epoch, loss=loss)
    optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))
"""

DISTRIBUTED = """
import os, sys, time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import anon_tune

trial = anon_tune.trial()
dist.init_process_group("gloo")
rank = dist.get_rank()
values = torch.tensor([trial.hyperparameters["lr"], float(trial.seed % 2**20)])
others = [torch.zeros(2) for _ in range(2)]
dist.all_gather(others, values)
assert torch.equal(*others), "each process has the same trial"
model = DistributedDataParallel(nn.Linear(4, 1))
optimizer = trial.optimizer(model)
done = trial.resume(model=model, optimizer=optimizer)
torch.manual_seed(trial.seed + rank)
for epoch in range(done + 1, trial.epochs + 1):
    for _ in range(4):
        optimizer.zero_grad()
        inputs = torch.randn(16, 4)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
    trial.report(epoch, loss=loss)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_script_of_the_user_is_tuned(home: Home) -> None:
    tuned(home, "script", "python train.py --width 64: mlp, 4,810 parameters")


@pytest.mark.slow
def test_a_trial_finds_nothing_of_another_one(home: Home) -> None:
    folder = home.folder / "mine"
    folder.mkdir()
    (folder / "shared.py").write_text(SHARED_STATE)
    (folder / "data.csv").write_text("1,2")
    job = {
        "name": "shared",
        "task": "shared:train",
        "arms": ["anon", "adamw"],
        "objective": {"metric": "loss"},
        "budget": {"trials": 3, "epochs": 2},
        "search": {"sampler": "random"},
        "confirm": {"finalists": 1, "seeds": 2, "verdict_seeds": 2},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = home.call("run", str(folder / "job.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = home.newest()
    assert found is not None
    assert {trial.state for trial in found.trials} <= {TrialState.COMPLETE, TrialState.DIVERGED}
    weights = (folder / "trials.txt").read_text().split()
    assert len(weights) == len(found.trials) + 2, "each trial, and the two runs of the check-up"
    assert "nan" not in weights


@pytest.mark.slow
def test_a_distributed_script_is_tuned_though_it_is_killed_once(home: Home) -> None:
    folder = home.folder / "distributed"
    folder.mkdir()
    (folder / "train.py").write_text(DISTRIBUTED)
    job = {
        "name": "distributed",
        "command": "torchrun --standalone --nproc-per-node=2 train.py",
        "arms": ["anon", "adamw", "sgd"],
        "objective": {"metric": "loss"},
        "budget": {"trials": 1, "epochs": 3},
        "search": {"sampler": "random"},
        "confirm": {"finalists": 1, "seeds": 1, "verdict_seeds": 2},
        "training": {"checkpoint_seconds": 0},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    with killing_one_launcher(home.folder) as killed:
        done = home.call("run", str(folder / "job.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed
    found = home.newest()
    assert found is not None
    assert found.state is JobState.SUCCEEDED
    ended = {trial.id: (trial.state, trial.reason) for trial in found.trials}
    assert {state for state, _ in ended.values()} <= {TrialState.COMPLETE, TrialState.DIVERGED}, [
        r for _, r in ended.values() if r
    ]
    count = Counter(trial.phase for trial in found.trials)
    assert (count[Phase.SEARCH], count[Phase.CONFIRM]) == (3, 3)
    assert sum(trial.attempts for trial in found.trials) == len(found.trials) + 1


@contextlib.contextmanager
def killing_one_launcher(folder: Path) -> Iterator[list[int]]:
    """Kill torchrun of the first trial below a folder that has started, once."""
    killed: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1) and not killed:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    line = process.cmdline()
                    work = process.environ().get("ANON_TUNE_WORK", "")
                    is_trial = work.startswith(str(folder)) and "probe" not in Path(work).name
                    if is_trial and "torchrun" in " ".join(line[:2]):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
