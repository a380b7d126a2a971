"""A GPU that trials share, on a Ray cluster which says that it has one: who runs where is Ray's affair alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anon_tune.records import TrialState
from tests.jobs.conftest import Home

CODE = """
import os
import torch

def train(context):
    model = torch.nn.Linear(300, 300)
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for _ in range(1000):  # a second a trial: shorter ones may be over before a second worker is up
            optimizer.zero_grad()
            loss = model(torch.randn(64, 300)).square().mean()
            loss.backward()
            optimizer.step()
        context.report(epoch, loss=loss, gpu=int(os.environ["CUDA_VISIBLE_DEVICES"]))
"""

JOB = """
name: shared-gpu
task: train:train
budget: {trials: 4, epochs: 3}
confirm: {finalists: 1, seeds: 1, verdict_seeds: 2}
arms: [anon]
resources: {cpu: 1, gpu: 0.5}
"""


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """The variables that lead to a cluster of four CPUs and one GPU, as a person starts one."""
    folder = Path(tempfile.mkdtemp(prefix="ar"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=4", "--num-gpus=1"]
    command += ["--include-dashboard=false", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**{key: value for key, value in os.environ.items() if not key.startswith("RAY_")}, **token}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    limit = time.monotonic() + 120
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "ray start has ended"
            assert time.monotonic() < limit, "ray start does not answer"
            time.sleep(0.1)
        yield {"RAY_ADDRESS": f"127.0.0.1:{port}", **token}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_as_many_trials_share_a_gpu_as_have_room(home: Home, cluster: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(CODE)
    (tmp_path / "job.yaml").write_text(JOB)
    done = home.call("run", str(tmp_path / "job.yaml"), **cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = home.only_job().trials
    assert all(trial.state is TrialState.COMPLETE for trial in trials)
    reports = [report for trial in trials for report in trial.reports]
    assert all(report.metrics["gpu"] == 0 for report in reports)
    spans = [
        (
            trial.reports[0].time.timestamp() - trial.reports[0].metrics["epoch_seconds"],
            trial.reports[-1].time.timestamp(),
        )
        for trial in trials
    ]
    assert max(sum(start <= at < end for start, end in spans) for at, _ in spans) == 2
