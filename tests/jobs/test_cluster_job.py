"""A job on a Ray cluster on this machine: GPUs that Ray takes for real, code that travels, and a lost node."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from anon_tune.records import TrialState
from tests.jobs.conftest import Home

TRAIN = """
import os, time
import torch
import anon_tune, beside

trial = anon_tune.trial()
model = torch.nn.Linear(3, 1)
optimizer = trial.optimizer(model)
done = trial.resume(model=model, optimizer=optimizer)
for epoch in range(done + 1, trial.epochs + 1):
    for _ in range(4):
        optimizer.zero_grad()
        inputs = torch.randn(16, 3)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
    trial.report(
        epoch,
        loss=loss,
        gpus=len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")),
        travelled=int("working_dir_files" in os.getcwd()),
        node=int(os.environ["TEST_NODE"]),
    )
    while epoch == 2 and os.path.exists(beside.WAIT):
        time.sleep(0.05)
"""

JOB = """
name: cluster
command: python train.py
objective: {metric: loss, mode: min}
budget: {trials: 1, epochs: 3}
confirm: {finalists: 1, seeds: 1, verdict_seeds: 2}
arms: [anon]
training: {checkpoint_seconds: 0}
resources: {cpu: 1, gpu: GPUS}
"""
_PATIENCE_SECONDS = 120.0


class Cluster:
    """A head without CPUs, and nodes with a CPU and two GPUs each."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ar"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str) -> None:
        """Start a node, and wait until the cluster has it; on a busy machine Ray may give up, so try again."""
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        command += ["--object-store-memory=100000000", "--node-ip-address=127.0.0.1", *options]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = {**kept, **self.variables, "TEST_NODE": str(len(self.nodes))}
        path = self.folder / f"{len(self.nodes)}.log"

        def begin() -> subprocess.Popen[bytes]:
            with path.open("ab") as log:
                return subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )

        self.nodes.append(begin())
        limit = time.monotonic() + _PATIENCE_SECONDS
        while b"block forever" not in path.read_bytes():
            if self.nodes[-1].poll() is not None:
                self.nodes[-1] = begin()
            assert time.monotonic() < limit, path.read_text()
            time.sleep(0.1)

    def lose(self, number: int) -> None:
        """Kill a node at once, with all that runs on it, as when its machine goes away."""
        node = self.nodes[number]
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        node.wait()

    def stop(self) -> None:
        for number in reversed(range(len(self.nodes))):
            self.lose(number)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    try:
        port = found.address.partition(":")[2]
        found.start(
            "--head",
            f"--port={port}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--temp-dir={found.folder}/r",
        )
        for _ in range(2):
            found.start(f"--address={found.address}", "--num-cpus=1", "--num-gpus=2")
        yield found
    finally:
        found.stop()


@pytest.mark.slow
def test_a_job_with_several_gpus_a_trial_outlives_the_node_that_trains_it(
    home: Home, cluster: Cluster
) -> None:
    code = home.folder / "code"
    code.mkdir()
    wait = home.folder / "wait"
    wait.touch()
    (code / "train.py").write_text(TRAIN)
    (code / "beside.py").write_text(f"WAIT = {str(wait)!r}\n")
    (code / "large.yaml").write_text(JOB.replace("GPUS", "4"))
    (code / "job.yaml").write_text(JOB.replace("GPUS", "2"))
    variables = {**cluster.variables, "RAY_ADDRESS": cluster.address}
    refused = home.call("run", str(code / "large.yaml"), **variables)
    assert refused.returncode == 1
    assert "the largest of 2 nodes has 1 CPUs and 2 GPUs" in refused.stdout

    process = subprocess.Popen(
        home.command("run", str(code / "job.yaml")),
        env={**home.environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    limit = time.monotonic() + 2 * _PATIENCE_SECONDS
    while True:
        job = home.newest()
        if job is not None and job.name == "cluster" and any(len(trial.reports) == 2 for trial in job.trials):
            break
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.1)
    (lost,) = {int(trial.reports[-1].metrics["node"]) for trial in job.trials if trial.reports}
    cluster.lose(lost)
    wait.unlink()
    shown = process.communicate()[0]
    assert process.returncode == 0, shown
    job = home.newest()
    assert job is not None
    assert all(trial.state is TrialState.COMPLETE for trial in job.trials)
    first = next(trial for trial in job.trials if trial.attempts > 1)
    assert [report.step for report in first.reports] == [1, 2, 3]
    metrics = [report.metrics for trial in job.trials for report in trial.reports]
    assert {each["gpus"] for each in metrics} == {2.0}
    assert {each["travelled"] for each in metrics} == {1.0}
    assert {int(report.metrics["node"]) for report in first.reports} == {1, 2}
    log = (home.folder / "jobs" / job.id / "job.log").read_text()
    assert "continues after epoch 2" in log or "continues after epoch 1" in log
