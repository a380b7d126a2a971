"""The time limit of an attempt: when it is over, and how its process ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from anon_tune.spec import load_spec
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial.messages import Failed, Lost
from anon_tune.workers.trial.watchdog import ask_to_end, overdue, withdraw
from tests.trials import TRIAL, Isolated, config

MINUTE = 60.0


@pytest.mark.parametrize(
    ("seconds", "limit", "completed", "late"),
    [
        (5.0, 5.0, [], False),
        (5.1, 5.0, [], True),
        (3000.0, 3600.0, [1.0], False),  # a limit of the user's counts alone
        (1e9, None, [], False),
        (10 * MINUTE, None, [1.0], False),
        (10 * MINUTE + 1, None, [1.0], True),
        (20 * MINUTE, None, [1.0, 2 * MINUTE, 90 * MINUTE], False),
        (20 * MINUTE + 1, None, [1.0, 2 * MINUTE, 90 * MINUTE], True),
    ],
)
def test_when_an_attempt_is_overdue(
    seconds: float, limit: float | None, completed: Sequence[float], late: bool
):
    assert (overdue(seconds, limit, completed) is not None) is late


def test_the_reason_names_the_limit_and_the_key_and_is_the_same_for_all_trials():
    assert "more than 5 s (budget.trial_time)" in str(overdue(6, 5.0, []))
    by_median = {overdue(1e9, None, [seconds]) for seconds in (1.0, 100.0)}
    (reason,) = by_median
    assert "10 minutes and ten times the median of its arm's trials" in str(reason)
    assert "set budget.trial_time" in str(reason)


def test_an_end_request_is_withdrawn(tmp_path: Path):
    for attempt in (1, 2):
        ask_to_end(tmp_path, "first", attempt)
    ask_to_end(tmp_path, "second", 1)
    ask_to_end(tmp_path, "second", 1)
    (tmp_path / "third").mkdir()
    withdraw(tmp_path, "first", 1)
    assert len(list(tmp_path.iterdir())) == 3
    withdraw(tmp_path)
    withdraw(tmp_path, "second", 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "third"]
    ask_to_end(tmp_path / "gone", "first", 1)  # the job has ended
    withdraw(tmp_path / "gone")


HANGS = """
import subprocess, sys, threading
from pathlib import Path
from anon_tune.workers.trial.watchdog import Watchdog

def hangs():
    print("hangs", flush=True)
    threading.Event().wait()

subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])  # which holds our standard output
watchdog = Watchdog(Path(sys.argv[1]), "j-anon-s000", 2, 0.01)
"""


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    return process


@pytest.mark.parametrize("thread", ["MainThread", "training"])
def test_a_process_that_hangs_ends_with_its_children_and_says_where_it_was(tmp_path: Path, thread: str):
    call = {
        "MainThread": "hangs()",
        "training": "thread = threading.Thread(target=hangs, name='training')\nthread.start(); thread.join()",
    }
    ask_to_end(tmp_path, "j-anon-s000", 1)
    with started(HANGS + call[thread], tmp_path) as process:
        ask_to_end(tmp_path, "j-anon-s001", 2)
        assert process.poll() is None, "others were asked"
        ask_to_end(tmp_path, "j-anon-s000", 2)
        _, errors = process.communicate()  # ends when nobody has its output any more
    assert process.returncode == 1
    lines = errors.splitlines()
    assert lines[0].startswith("The time limit of this trial is over.")
    *_, last = errors.split("Thread ")
    assert last.startswith(f"{thread}:\n")
    assert "<string>:8, in hangs" in last
    assert "in Condition.wait" in lines[-1]


def test_the_watch_ends_with_its_attempt(tmp_path: Path):
    code = HANGS.replace("subprocess.Popen(", "(") + (
        "watchdog.close()\n"
        "assert [thread.name for thread in threading.enumerate()] == ['MainThread']\n"
        "watchdog.close()\n"
        "print('hangs', flush=True)\n"
        "print(sys.stdin.read())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        ask_to_end(tmp_path, "j-anon-s000", 2)
        assert process.communicate("goes on") == ("goes on\n", "")


MINE = """
import sys, threading
import torch
from anon_tune.workers.trial.watchdog import ask_to_end
from pathlib import Path

def hangs():
    ask_to_end(Path({folder!r}), {trial!r}, 1)
    threading.Event().wait()

{early}

def train(context):
    model = torch.nn.Linear(1, 1)
    context.optimizer(model)
    {late}
"""

SCRIPT = """
import sys
sys.path.append({folder!r})
{before}
import anon_tune, mine
mine.train(anon_tune.trial())
"""


@pytest.mark.parametrize("task", ["task: mine:train", "command: python script.py"])
@pytest.mark.parametrize("place", ["early", "late"])
def test_user_code_that_hangs_ends_and_says_where_it_was(
    keeper: Keeper, tmp_path: Path, task: str, place: str
):
    calls = {"early": "", "late": "", place: "hangs()"}
    (tmp_path / "mine.py").write_text(MINE.format(folder=str(tmp_path), trial=TRIAL, **calls))
    before = "import anon_tune; anon_tune.trial()" if place == "early" else ""
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(tmp_path), before=before))
    (tmp_path / "job.yaml").write_text(
        f"name: hangs\n{task}\nbudget: {{trials: 1, epochs: 1}}\narms: [anon]\n"
    )
    trial = Isolated(keeper, config(load_spec(tmp_path / "job.yaml"), tmp_path))
    failed = trial.advance().outcome
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("its process ended with exit code 1")
    last = str(failed.log).split("Thread ")[-1]
    assert last.startswith("MainThread:")
    assert f"{tmp_path / 'mine.py'}:9, in hangs" in last
    trial.close()


def test_a_program_that_hangs_without_a_trial_ends_as_well(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anon_tune.workers.trial.isolated._STACKS_SECONDS", 0.0)
    (tmp_path / "job.yaml").write_text(
        "name: hangs\ncommand: sleep 1000\nbudget: {trials: 1, epochs: 1}\narms: [anon]\n"
    )
    ask_to_end(tmp_path, TRIAL, 1)
    trial = Isolated(keeper, config(load_spec(tmp_path / "job.yaml"), tmp_path))
    assert isinstance(trial.advance().outcome, Lost), "the driver knows why it was killed"
    trial.close()
