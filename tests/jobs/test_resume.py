"""A whole job whose driver is killed in the middle of a trial goes on from the trial's checkpoint."""

from __future__ import annotations

import re
import signal

import psutil
import pytest
import torch

from anon_tune.records import JobState, Phase, TrialState
from anon_tune.workers.problems.tasks import load_problem
from anon_tune.workers.trial.checkpoints import step_of
from anon_tune.workers.trial.training import Training
from tests.jobs.conftest import Home, descendants, until
from tests.trials import untimed

pytestmark = pytest.mark.slow

EPOCHS = 20

SPEC = f"""
name: digits-resume
task: image_classification
data: digits
model: {{name: cnn, width: 4}}
budget: {{trials: 1, epochs: {EPOCHS}}}
search: {{sampler: random, pruner: none, seed: 5}}
confirm: {{finalists: 1, seeds: 1, verdict_seeds: 2}}
training: {{checkpoint_seconds: 0}}
arms: [anon]
keep: best
"""


def test_a_trial_goes_on_from_its_checkpoint_with_the_same_reports(home: Home) -> None:
    process = home.start("run", home.spec(SPEC))

    def in_the_middle() -> bool:
        job = home.newest()
        return job is not None and any(
            t.state is TrialState.RUNNING and t.checkpoints and len(t.reports) > EPOCHS // 4
            for t in job.trials
        )

    until(in_the_middle, process)
    process.send_signal(signal.SIGSTOP)
    while not in_the_middle():  # the trial had just ended
        process.send_signal(signal.SIGCONT)
        until(in_the_middle, process)
        process.send_signal(signal.SIGSTOP)
    processes = descendants(process)
    process.kill()
    process.communicate()
    psutil.wait_procs(processes, timeout=300)
    cut = home.newest()
    assert cut is not None
    trial = next(t for t in cut.trials if not t.is_finished and t.checkpoints)
    assert len(trial.reports) < EPOCHS
    done = step_of(trial.checkpoints[0])
    folder = home.folder / "jobs" / cut.id
    # One more than two where it was killed between writing and deleting.
    assert 1 <= len(list(folder.glob(f"checkpoints/{trial.id}/*/*.pt"))) <= 3

    resumed = home.call("run", "--resume", cut.id)
    assert resumed.returncode == 0, resumed.stderr
    ended = home.newest()
    assert ended is not None
    assert ended.state is JobState.SUCCEEDED
    again = next(t for t in ended.trials if t.id == trial.id)
    assert again.attempts == 2
    assert f"trial {trial.id}: attempt 2 continues after epoch {done}" in (folder / "job.log").read_text()

    # Nothing is left but what the user asked for.
    assert not (folder / "checkpoints").exists()
    assert not list((home.folder / "ray").glob(f"{ended.id}*"))
    weights = torch.load(folder / "best.pt")
    problem = load_problem("image_classification", "digits", "cnn", {"width": 4})
    model = problem.build_model()
    model.load_state_dict(weights)
    model.eval()
    loss = problem.measure(model, problem.test)["loss"]
    verdict = [t for t in ended.trials if t.phase is Phase.VERDICT]
    best = min(verdict, key=lambda t: t.reports[-1].value)
    assert loss == pytest.approx(best.value, rel=1e-5)
    assert re.search(rf"wrote the best weights, of trial {best.id}", (folder / "job.log").read_text())

    # Every trial has, bit for bit, the reports of an uninterrupted training.
    for one in ended.trials:
        training = Training(problem, one.arm, one.hyperparameters, seed=one.seed, epochs=EPOCHS)
        expected = [training.run_epoch() for _ in range(EPOCHS)]
        if one.phase is Phase.VERDICT:
            expected[-1] |= training.test()
        assert [untimed(report.metrics) for report in one.reports] == expected
        assert [report.step for report in one.reports] == list(range(1, EPOCHS + 1))
        assert [report.value for report in one.reports] == [metrics["val_loss"] for metrics in expected]
