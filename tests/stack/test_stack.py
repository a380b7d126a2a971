"""docker-compose.yml's services as processes, with a job that loses all kinds of its parts and nothing else."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import torch

from anon_tune import load_optimizer
from anon_tune.ledger import Ledger, open_database
from anon_tune.records import ENDED, JobRecord, JobState
from benchmarks.faults import history
from benchmarks.faults.checker import check
from tests.stack.composed import Composed, alive, until

pytestmark = pytest.mark.slow

JOB = """
name: over-http
task: train:train
arguments: {{gate: "{gate}"}}
space: mlp
arms: [anon, adamw]
objective: {{metric: loss, mode: min}}
budget: {{trials: 5, epochs: 60}}
search: {{sampler: random, pruner: none}}
confirm: {{finalists: 1, seeds: 1, verdict_seeds: 2, race: false}}
training: {{checkpoint_seconds: 0}}
"""
CODE = '''
"""A training function that takes next to no processor time. It is slow until the gate, a file, exists."""

import time
from pathlib import Path

import torch


def train(context, gate="/"):
    gate = Path(gate)
    model = torch.nn.Linear(4, 1)
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    targets = inputs.sum(1, keepdim=True)
    optimizer = context.optimizer(model)
    done = context.resume(model=model, optimizer=optimizer)
    for epoch in range(done + 1, context.epochs + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if not gate.exists():
            time.sleep(1.0)
        context.report(epoch, loss=loss.item())
    if context.tests:
        while not gate.exists():  # so the job does not end before
            time.sleep(0.4)
        context.test(loss=loss.item())
'''
NODES = ("ray-worker", "ray-worker-2")
WORKERS = ("worker", "worker-2")


@pytest.fixture(scope="module")
def stack() -> Iterator[Composed]:
    with Composed(ANON_TUNE_ALLOW_CODE="true") as composed:
        composed.start("ray-head")
        composed.run("migrate")
        composed.run("migrate")  # as after `docker compose up` once more
        composed.start("mlflow")
        composed.start("service")
        composed.until_healthy("ray-head", "mlflow", "service")
        for node in NODES:
            start_node(composed, node)
        for worker in WORKERS:
            start_worker(composed, worker)
        yield composed


def start_node(stack: Composed, name: str) -> None:
    """A node with one processor; one after another, as they share a machine."""
    stack.start(name, "--num-cpus=1")
    stack.until_logs(name, "Ray runtime started")


def start_worker(stack: Composed, name: str) -> None:
    stack.start(name)
    stack.until_logs(name, "Waiting for jobs")


class Team:
    """People who reach the service alone, and what they were told."""

    def __init__(self, stack: Composed, home: Path) -> None:
        self._stack = stack
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_"))}
        self._environment = {
            **kept,
            "ANON_TUNE_SERVER": stack.address("service"),
            "ANON_TUNE_HOME": str(home),
        }
        admin = stack.secrets["ANON_TUNE_ADMIN_TOKEN"]
        self.token = self.call("token", "create", "me", "--code", token=admin).strip()

    def call(self, *arguments: str, token: str | None = None, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anon_tune", *arguments],
            env={**self._environment, "ANON_TUNE_TOKEN": token or self.token},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr + self._stack.logs()
        return done.stdout if code == 0 else done.stderr

    def submit(self, ledger: Ledger, *arguments: str) -> str:
        job = self.call("submit", *arguments).strip()
        spec = ledger.jobs.get(job).spec
        self._note(history.Submitted(job, tuple(spec["arms"]), history.trials_of(spec)))
        return job

    def extend(self, job: str, trials: int) -> None:
        self.call("extend", job, "--trials", str(trials))
        self._note(history.Extended(job, trials))

    def cancel(self, job: str) -> None:
        self.call("cancel", job)
        self._note(history.Requested(job, "cancel", datetime.datetime.now(datetime.UTC)))

    def _note(self, event: history.Event) -> None:
        history.append(self._stack.history, event)


class Observed:
    """A job as the ledger has it."""

    def __init__(self, stack: Composed, ledger: Ledger, job: str) -> None:
        self._stack, self._ledger, self.id = stack, ledger, job

    def record(self, *, trials: bool = False) -> JobRecord:
        return self._ledger.jobs.get(self.id, trials=trials)

    def reports(self) -> int:
        return sum(len(trial.reports) for trial in self.record(trials=True).trials)

    def gets_on(self) -> None:
        """Wait for two more reports."""
        before = self.reports()
        until(lambda: self.reports() >= before + 2, f"reports of {self.record()}", self._stack.logs)
        assert self.record().state is JobState.RUNNING

    def holder(self) -> str | None:
        """The worker that has the job, if one has it now."""
        lease = self.record().lease
        if lease is None:
            return None
        process = int(re.findall(r"\d+", lease.holder)[-1])  # the last word of a holder's name
        return next((w for w in WORKERS if process in {p.pid for p in self._stack.processes(w)}), None)

    def taken_by_another(self, worker: str) -> None:
        until(lambda: self.holder() not in {None, worker}, f"another worker than {worker}", self._stack.logs)


@pytest.fixture(scope="module")
def ledger(stack: Composed) -> Iterator[Ledger]:
    opened = Ledger.open(stack.database_url)
    yield opened
    opened.close()


def test_a_job_survives_what_its_stack_loses(stack: Composed, ledger: Ledger, tmp_path: Path) -> None:
    team = Team(stack, tmp_path / "nothing")
    assert "Missing or unknown token" in team.call("jobs", token="at_forged", code=2)
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(CODE)
    gate = tmp_path / "gate"
    (code / "job.yaml").write_text(JOB.format(gate=gate))
    sent = (str(code / "job.yaml"), "--with-code", str(code))
    job = Observed(stack, ledger, team.submit(ledger, *sent, "--priority", "1"))
    job.gets_on()
    team.extend(job.id, 6)
    timed = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - timed:6.1f} s: {what}")

    lose_node(stack, job)
    told("node")
    lose_database(stack, job)
    told("database")
    part_worker(stack, job)
    told("partition")
    kill_worker(stack, job)
    told("worker")
    restart_mlflow(stack, job)
    told("MLflow")
    gate.touch()
    ends(stack, job)
    told("end")

    cancelled = team.submit(ledger, *sent, "--set", "name=cancelled")
    team.cancel(cancelled)
    until(lambda: ledger.jobs.get(cancelled).state in ENDED, "the end of the cancelled job", stack.logs)
    assert_whole(stack)
    exports(team, job.id, tmp_path)
    assert not (tmp_path / "nothing").exists()  # all of it went over the network


def lose_node(stack: Composed, job: Observed) -> None:
    """The second node dies in the middle of a trial, which goes on at the other one; the node comes back."""
    second = NODES[1]

    def trains() -> list[object]:
        return [p for p in alive(stack.processes(second)) if "TrialTrainable" in " ".join(p.cmdline())]

    until(trains, "a trial on the second node", stack.logs)
    attempts = sum(trial.attempts for trial in job.record(trials=True).trials)
    stack.kill(second)
    until(
        lambda: sum(trial.attempts for trial in job.record(trials=True).trials) > attempts,
        "another attempt",
        stack.logs,
    )
    job.gets_on()
    start_node(stack, second)


def lose_database(stack: Composed, job: Observed) -> None:
    """PostgreSQL restarts within a second, and later stands still for longer than a lease."""
    stack.postgres.bounce(1.0)
    job.gets_on()
    stack.postgres.freeze(30.0)
    job.gets_on()


def part_worker(stack: Composed, job: Observed) -> None:
    """A worker loses its connection to the database; the other one takes its job, and it serves again afterwards."""
    until(job.holder, "a worker that has the job", stack.logs)
    worker = str(job.holder())
    stack.proxy(worker).partition()
    job.taken_by_another(worker)
    job.gets_on()
    stack.proxy(worker).heal()


def kill_worker(stack: Composed, job: Observed) -> None:
    """A worker dies with its driver, and the other one takes its job."""
    until(job.holder, "a worker that has the job", stack.logs)
    worker = str(job.holder())
    stack.kill(worker)
    job.taken_by_another(worker)
    job.gets_on()
    start_worker(stack, worker)


def restart_mlflow(stack: Composed, job: Observed) -> None:
    """MLflow is away for a while; the job goes on."""
    stack.kill("mlflow")
    job.gets_on()
    stack.start("mlflow")
    stack.until_healthy("mlflow")


def ends(stack: Composed, job: Observed) -> None:
    """The job SUCCEEDS, and MLflow has caught up by itself."""
    until(lambda: job.record().state in ENDED, "the job's end", stack.logs)
    assert job.record().state is JobState.SUCCEEDED, stack.logs()
    until(lambda: job.record().mlflow_run, "its run in MLflow", stack.logs)
    run = job.record().mlflow_run

    def status() -> str:
        answer = httpx2.get(
            f"{stack.address('mlflow')}/api/2.0/mlflow/runs/get",
            params={"run_id": run},
            auth=("admin", stack.secrets["MLFLOW_ADMIN_PASSWORD"]),
        )
        return str(answer.json()["run"]["info"]["status"])

    until(lambda: status() == "FINISHED", "MLflow's run", stack.logs)


def assert_whole(stack: Composed) -> None:
    engine = open_database(stack.database_url)
    try:
        assert check(history.read_history(stack.history), history.read_rows(engine)) == []
    finally:
        engine.dispose()


def exports(team: Team, job: str, folder: Path) -> None:
    assert set(json.loads(team.call("best", job, "--json"))) == {"anon", "adamw"}
    team.call("export", job, "-o", str(folder / "best.yaml"))
    model = torch.nn.Linear(3, 1)
    optimizer = load_optimizer(folder / "best.yaml", model.parameters())
    before = model.weight.detach().clone()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.weight)
