"""Training scripts: run by a job as commands of their own, and alone."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from anon_tune.errors import SpecError
from anon_tune.records import Phase
from anon_tune.spec import JobSpec, load_spec, parse_spec
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial.checkpoints import ask, checkpoint_name
from anon_tune.workers.trial.messages import Completed, Diverged, Failed, Lost, ProbeResult, StepResult
from tests import trials
from tests.trials import TRIAL, Isolated, final, learned, measured, results, steps

EPOCHS = 4

SCRIPT = """
import argparse, os, signal, sys
import torch
from torch import nn
import anon_tune

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=4)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--seed")
parser.add_argument("--folder")
parser.add_argument("--then", default="")
arguments = parser.parse_args()
signal.signal(signal.SIGUSR1, lambda *_: None)  # as only a main thread may
trial = anon_tune.trial(epochs=arguments.epochs)
assert anon_tune.trial() is trial
model = nn.Sequential(nn.Linear(4, arguments.width), nn.Tanh(), nn.Linear(arguments.width, 1))
optimizer = trial.optimizer(model)
done = trial.resume(model=model, optimizer=optimizer)
for epoch in range(done + 1, trial.epochs + 1):
    for _ in range(4):
        inputs = torch.randn(16, 4)
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
    exec(arguments.then if epoch == 2 else "")
    trial.report(epoch, loss=loss)
    print("epoch", epoch, type(optimizer).__name__, flush=True)
if trial.tests:
    trial.test(loss=2 * loss)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    user = tmp_path / "user"
    user.mkdir()
    (user / "train.py").write_text(SCRIPT)
    return user


def job(folder: Path, command: str = "python train.py", then: str | None = None) -> JobSpec:
    """A job whose script does something in its second epoch."""
    if then is not None:
        command = f"{command} --then {shlex.quote(then)}"
    given = {
        "name": "script",
        "command": command,
        "budget": {"trials": 1, "epochs": EPOCHS},
        "arms": ["anon", "adamw"],
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(given))
    return load_spec(path)


def trial(keeper: Keeper, spec: JobSpec, attempt: int = 1, *names: str, **keys: Any) -> Isolated:
    checkpoints = Path(str(spec.folder)).parent / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    ask(checkpoints)
    return Isolated(keeper, trials.config(spec, checkpoints, attempt, *names, **keys))


def last(keeper: Keeper, spec: JobSpec) -> StepResult:
    return results(trial(keeper, spec))[-1]


def failed(keeper: Keeper, spec: JobSpec) -> Failed:
    outcome = last(keeper, spec).outcome
    assert isinstance(outcome, Failed)
    return outcome


def test_a_script_trains_as_its_own_command(keeper: Keeper, folder: Path):
    command = "python train.py --width 8 --seed {seed} --folder '{folder}' --epochs {epochs}"
    found = results(trial(keeper, job(folder, command), hyperparameters={"lr": 0.01, "gamma": 0.5}))
    assert steps(found) == [*range(1, EPOCHS + 1), None]
    assert final(found[-1]) == measured(found[-2]).value
    assert "group0/floor_share" in measured(found[0]).metrics, "Anon's monitor"
    assert isinstance(found[-1].outcome, Completed)
    assert str(found[-1].outcome.log).endswith(f"epoch {EPOCHS} Anon")


@pytest.mark.slow
def test_a_verdict_counts_the_test_and_another_attempt_goes_on_with_the_same_results(
    keeper: Keeper, folder: Path
):
    spec = job(folder)
    first = results(trial(keeper, spec, phase=Phase.VERDICT))
    assert final(first[-1]) == measured(first[-2]).metrics["test_loss"] == 2 * measured(first[-2]).value
    second = results(trial(keeper, spec, 2, checkpoint_name(TRIAL, 1, 2), phase=Phase.VERDICT))
    assert second[0].resumed == 2
    assert [learned(result) for result in second] == [learned(result) for result in first[2:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("sys.exit(3)", "its process ended with exit code 3: epoch 1 Anon"),
        ("sys.exit('no data here')", "its process ended with exit code 1: no data here"),
        ("raise KeyError('lost')", "its process ended with exit code 1: KeyError: 'lost'"),
        ("os.abort()", "its process ended with SIGABRT (Aborted)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process ended with SIGSEGV (Segmentation fault)"),
        ("trial.report(1, loss=1.0)", "report: expected a step after 1 and up to budget.epochs 4, found 1"),
    ],
)
def test_a_script_that_fails_says_how(keeper: Keeper, folder: Path, then: str, reason: str):
    found = failed(keeper, job(folder, then=then))
    assert found.reason.startswith(reason)
    assert "epoch 1 Anon" in str(found.log)


def test_arguments_that_are_wrong_are_told_in_the_scripts_own_words(keeper: Keeper, folder: Path):
    found = failed(keeper, job(folder, "python train.py --witdh 3"))
    assert found.reason == (
        "its process ended with exit code 2: train.py: error: unrecognized arguments: --witdh 3"
    )


@pytest.mark.slow
def test_a_script_that_exits_early_has_come_to_its_end(keeper: Keeper, folder: Path):
    found = last(keeper, job(folder, then="sys.exit(0)"))
    assert isinstance(found.outcome, Completed)
    unsaid = last(keeper, job(folder, then="os._exit(0)"))
    assert isinstance(unsaid.outcome, Completed)
    assert unsaid.outcome.final == found.outcome.final


@pytest.mark.slow
def test_a_script_that_was_killed_gets_another_attempt(keeper: Keeper, folder: Path):
    outcome = last(keeper, job(folder, then="os.kill(os.getpid(), signal.SIGKILL)")).outcome
    assert isinstance(outcome, Lost)
    assert "was killed (SIGKILL)" in outcome.reason


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_a_divergence(keeper: Keeper, folder: Path):
    found = last(keeper, job(folder, then="loss = loss * float('nan')"))
    assert isinstance(found.outcome, Diverged)
    assert measured(found).step == 2


@pytest.mark.slow
def test_without_a_report_a_script_has_no_result(keeper: Keeper, folder: Path):
    (folder / "train.py").write_text("import anon_tune\nanon_tune.trial()\n")
    assert "ended without a report" in failed(keeper, job(folder)).reason
    assert "ended without a report" in failed(keeper, job(folder, "true")).reason


def test_a_program_that_does_not_exist_is_named(keeper: Keeper, folder: Path):
    assert "no-such-program" in failed(keeper, job(folder, "no-such-program train.py")).reason


@pytest.mark.slow
def test_a_stopped_script_ends(keeper: Keeper, folder: Path):
    one = trial(keeper, job(folder))
    assert measured(one.advance()).step == 1
    process = one._process
    one.close()
    assert process is not None
    assert process.finish(0.0).left == 0


SPAWNS = """
import torch.multiprocessing as mp
import anon_tune, train

def each(number):
    train.main()

if __name__ == "__main__":
    mp.spawn(each, nprocs=1)
"""


@pytest.mark.slow
def test_a_process_that_the_script_spawns_may_be_the_one_that_reports(keeper: Keeper, folder: Path):
    main = "\n".join(f"    {line}" for line in SCRIPT.splitlines() if not line.startswith("import"))
    imports = "\n".join(line for line in SCRIPT.splitlines() if line.startswith("import"))
    nn = "from torch import nn"
    (folder / "train.py").write_text(f"{imports}\n{nn}\ndef main():\n{main.replace(nn, 'pass')}\n")
    (folder / "spawn.py").write_text(SPAWNS)
    found = results(trial(keeper, job(folder, "python spawn.py")))
    assert steps(found) == [*range(1, EPOCHS + 1), None], found[-1]


@pytest.mark.slow
def test_a_second_program_that_asks_for_the_trial_is_told(keeper: Keeper, folder: Path):
    second = "import subprocess; subprocess.run([sys.executable, 'train.py'], check=True)"
    found = failed(keeper, job(folder, then=second))
    assert "another process of this trial, or its training function, reports already" in str(found.log)


@pytest.mark.slow
def test_a_scripts_process_loads_neither_ray_nor_optuna(keeper: Keeper, folder: Path):
    check = "assert not {'ray', 'optuna', 'mlflow', 'sqlalchemy', 'pandas'} & set(sys.modules)"
    assert isinstance(last(keeper, job(folder, then=check)).outcome, Completed)


# Before the first trial


@pytest.mark.slow
def test_a_script_is_checked_up_in_two_runs(folder: Path, tmp_path: Path):
    found = trials.checked_up(job(folder, "python train.py --width 8"), tmp_path)
    assert isinstance(found, ProbeResult), found
    assert (found.batches, found.notes) == (4, ())
    assert found.cost is not None
    assert found.cost.steps_per_epoch == 4
    assert found.architecture["parameters"] == 4 * 8 + 8 + 8 + 1
    again = trials.checked_up(job(folder, "python train.py --width 8"), tmp_path)
    assert isinstance(again, ProbeResult)
    assert again.log_mean_sigma == found.log_mean_sigma


@pytest.mark.slow
def test_a_script_that_fails_is_told_before_the_first_trial(folder: Path, tmp_path: Path):
    found = trials.checked_up(job(folder, "python train.py --witdh 3"), tmp_path)
    assert isinstance(found, Failed)
    assert found.reason.endswith("train.py: error: unrecognized arguments: --witdh 3")


# Alone


def alone(folder: Path, *arguments: str, **variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANON_TUNE_")}
    command = [sys.executable, "train.py", *arguments]
    found = subprocess.run(
        command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_a_script_runs_alone_with_adamw_or_with_an_exported_configuration(folder: Path):
    assert alone(folder, "--epochs", "3") == [f"epoch {epoch} AdamW" for epoch in (1, 2, 3)]
    repeated = "trial.report(9, loss=loss), trial.report(1), trial.test(loss=loss)"
    assert len(alone(folder, "--then", repeated)) == EPOCHS - 2, "reports have no effect"
    (folder / "best.yaml").write_text(
        "version: 1\noptimizer: anon\nhyperparameters: {lr: 0.01, gamma: 0.5}\n"
    )
    assert alone(folder, ANON_TUNE_CONFIG="best.yaml") == ["epoch 1 Anon", "epoch 2 Anon"]


# The job file


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"task": "image_classification"}, "either `task` or `command`"),
        ({"command": ""}, "is empty; write the command"),
        ({"command": "python 'train.py"}, "cannot be split into words: No closing quotation"),
        ({"arguments": {"width": 3}}, "arguments: are for a training function; write it into `command`"),
        ({"data": "digits"}, "data: your command brings its own"),
        ({"training": {"batch_size": 3}}, "training.batch_size: has no effect with your own command"),
    ],
)
def test_keys_that_do_not_go_with_a_command_are_refused(tmp_path: Path, keys: dict[str, Any], problem: str):
    given = {
        "name": "x",
        "command": "python train.py",
        "budget": {"trials": 1, "epochs": 1},
        "folder": str(tmp_path),
    }
    with pytest.raises(SpecError, match=problem):
        parse_spec({**given, **keys})


def test_a_job_needs_a_task_or_a_command():
    with pytest.raises(SpecError, match="either `task` or `command`"):
        parse_spec({"name": "x", "budget": {"trials": 1, "epochs": 1}})
