"""A job whose budget is in steps, from its check-up to its answer: with reports at any steps, pruned and extended."""

from __future__ import annotations

import pytest
import yaml

from anon_tune.records import Phase, TrialState
from anon_tune.spec import stored_spec
from tests.jobs.conftest import Home

pytestmark = pytest.mark.slow

CODE = """
import random
import torch
from torch import nn


def train(context):
    model = nn.Linear(3, 1)
    optimizer = context.optimizer(model)
    schedule = context.schedule(optimizer)
    done = context.resume(model=model, optimizer=optimizer, schedule=schedule)
    every = random.Random(context.seed).choice([7, 10, 13])
    for step in range(done + 1, context.steps + 1):
        x = torch.randn(8, 3)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == context.steps:
            context.report(step, loss=loss)
    if context.tests:
        context.test(loss=loss)
"""

SPEC = """
name: in steps
task: 'in_steps:train'
space: default
arms: [anon, adamw]
budget: {trials: 12, steps: 60}
objective: {of: last 2}
search: {sampler: random, pruner: median, grace: 20}
confirm: {finalists: 1, seeds: 1, verdict_seeds: 2}
"""


def test_a_job_in_steps_comes_to_its_answer_and_is_extended(home: Home) -> None:
    (home.folder / "in_steps.py").write_text(CODE)
    done = home.call("run", home.spec(SPEC))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of this holds for 60 steps; longer training was not tested." in done.stdout
    assert "epoch" not in done.stdout
    job = home.only_job()
    assert job.answer is not None
    for arm, total in job.answer.totals().items():
        trained = [t for t in job.trials if t.arm == arm and t.reports]
        assert (total.epochs, total.steps) == (None, sum(t.reports[-1].step for t in trained)), arm
        assert total.seconds > 0
    complete = [t for t in job.trials if t.state is TrialState.COMPLETE]
    assert {t.steps for t in complete} == {60}
    assert len({t.reports[0].step for t in complete}) > 1, "trials report at different steps"
    pruned = [t for t in job.trials if t.state is TrialState.PRUNED]
    assert all(t.reason == f"pruned after step {t.steps}" and t.steps >= 20 for t in pruned)
    exported = yaml.safe_load((home.folder / "jobs" / job.id / "best.yaml").read_text())
    assert exported["schedule"] == {"name": "cosine", "warmup": 0.0, "steps": 60}
    more = home.call("extend", job.id, "--trials", "13")
    assert more.returncode == 0, more.stderr
    again = home.call("run", "--resume", job.id)
    assert again.returncode == 0, again.stdout + again.stderr
    extended = home.only_job()
    assert stored_spec(extended.spec).budget.steps == 60
    searched = [t for t in extended.trials if t.arm == "anon" and t.phase is Phase.SEARCH]
    assert len(searched) == 13
