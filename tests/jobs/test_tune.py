"""`anon_tune.tune` on a function that is in no module, as in a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anon_tune.records import JobState, TrialState
from tests.jobs.conftest import Home

pytestmark = pytest.mark.slow

# Entered, not imported: what a notebook's cells do. The interrupt comes as from its stop button.
CELLS = """
import json, os, signal, threading, time
import torch
from anon_tune import Client, tune

SCALE = 3.0

def train(context, start=1.0):
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(weight.weight, start)
    optimizer = context.optimizer(weight)
    for step in range(1, context.epochs + 1):
        optimizer.zero_grad()
        loss = (weight(torch.rand(1, 1) + 0.5) - SCALE).square().sum()
        loss.backward()
        optimizer.step()
        context.report(step, loss=loss.item())
    if context.tests:
        context.test(loss=loss.item())

def stop_when_some_are_done():
    client = Client()
    while not any(job.done >= 3 for job in map(lambda j: client.job(j.id), client.jobs())):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=stop_when_some_are_done, daemon=True).start()
small = {"confirm": {"finalists": 1, "seeds": 1, "verdict_seeds": 2}, "search": {"sampler": "random"}}
try:
    tune(train, trials=12, epochs=2, arguments={"start": 2.0}, show=False, **small)
except KeyboardInterrupt as stop:
    interrupted = str(stop)
(job,) = Client().jobs()
print(job.id, flush=True)
input()
result = tune(train, resume="train")
print(json.dumps({
    "gamma": result.best["gamma"], "verdict": result.verdict, "trials": len(result.trials),
    "columns": sorted(result.trials.columns), "exported": result.export("best.yaml").read_text()[:10],
    "said": repr(result), "interrupted": interrupted,
}))
"""


def test_a_function_of_a_notebook_is_tuned_and_resumed_by_name(home: Home, tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", CELLS],
        env=home.environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    job_id = process.stdout.readline().strip()
    job = home.only_job()
    assert (job.id, job.state) == (job_id, JobState.PAUSED)
    assert job.spec["task"] == "__main__:train"
    kept = {trial.id: trial.value for trial in job.trials if trial.state is TrialState.COMPLETE}
    assert kept

    elsewhere = home.call("run", "--resume", job_id)
    assert elsewhere.returncode == 1
    assert f"resume it there: anon_tune.tune(train, resume='{job_id}')" in elsewhere.stdout

    said, errors = process.communicate("\n")
    assert process.returncode == 0, errors
    found = json.loads(said)
    job = home.only_job()
    assert job.state is JobState.SUCCEEDED
    values = {trial.id: trial.value for trial in job.trials}
    assert {trial_id: values[trial_id] for trial_id in kept} == kept
    assert found["trials"] == len(job.trials)
    assert {"gamma", "lr", "value", "state"} <= set(found["columns"])
    assert set(found["verdict"]) == {"adamw", "sgd"}
    assert found["exported"] == "version: 2"
    assert f"job {job_id} (train): SUCCEEDED" in found["said"]
    again = f"tune(train, resume='{job_id}')"
    assert found["interrupted"] == f"Job {job_id} is PAUSED. Continue with: {again}"


STOPS = """
import json
from anon_tune import ConflictError, tune

small = {"confirm": {"finalists": 1, "seeds": 1, "verdict_seeds": 2}, "search": {"sampler": "random"}}
small["arms"] = ["anon"]
has_data = False

def measure(context):
    import torch
    weight = torch.nn.Linear(1, 1)
    optimizer = context.optimizer(weight)
    for step in range(1, context.epochs + 1):
        weight(torch.ones(1, 1)).square().sum().backward()
        optimizer.step()
        context.report(step, loss=weight.weight.detach().square().item() + 0.1)
        if len(context.hyperparameters) > 1 and not has_data:  # not yet in the check-up
            raise FileNotFoundError("no [data]")

estimated = tune(measure, trials=4, epochs=2, estimate=True, **small)
stopped = tune(measure, resume=estimated.job.id)
try:
    stopped.gamma.best
except ConflictError as error:
    refused = str(error)
has_data = True
result = tune(measure, trials=5, resume=estimated.job.id)
print(json.dumps({
    "estimated": repr(estimated), "stopped": repr(stopped), "refused": refused, "said": repr(result),
    "searched": len(result.study.trials), "reports": len(result.reports), "columns": list(result.reports.columns),
}))
"""


def test_a_job_that_stops_tells_the_reason_and_more_trials_extend_it(home: Home, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", STOPS], env=home.environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    job = home.newest()
    assert job is not None
    assert (
        f"{job.id} (measure): PAUSED: estimate: at most 4 search, 1 confirm and 2 verdict"
        in found["estimated"]
    )
    reason = "three trials in a row failed: FileNotFoundError: no [data]"
    assert found["stopped"] == f"<Result of job {job.id} (measure): PAUSED: {reason}>"
    assert reason in found["refused"]
    assert f"Job {job.id} (measure) is PAUSED: {reason}" in done.stderr
    assert f"Continue with: tune(measure, resume='{job.id}')" in done.stderr
    assert f"{job.id} (measure): SUCCEEDED" in found["said"]
    assert (job.state, job.spec["budget"]["trials"]) == (JobState.SUCCEEDED, 5)
    assert found["searched"] == 5
    assert found["reports"] == sum(len(trial.reports) for trial in job.trials)
    assert {"trial", "step", "metrics.loss"} <= set(found["columns"])
