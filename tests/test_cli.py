"""Commands that run nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

import anon_tune
from anon_tune import cli
from anon_tune.cli import app, machine, main
from anon_tune.errors import SpecError
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, NewTrial, Phase, TrialState
from anon_tune.search_spaces import Space, load_space, space_names
from anon_tune.spec import spaces_of
from tests import builders

ROOT = Path(__file__).parents[1]


def output(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_version_is_that_of_the_package():
    assert output("--version") == f"anon-tune {anon_tune.__version__}\n"


@pytest.mark.parametrize("command", [[], ["run"], ["token", "create"]])
def test_h_is_short_for_help(command: list[str]):
    assert output(*command, "-h") == output(*command, "--help")


def test_spaces_lists_all_of_them():
    listed = [line.split()[0] for line in output("spaces").splitlines() if not line.startswith(" ")]
    assert listed[:-1] == space_names()
    found = json.loads(output("spaces", "--json"))
    assert {name: Space.model_validate(space) for name, space in found.items()} == {
        name: load_space(name) for name in space_names()
    }


def test_one_space_by_name_and_by_path():
    path = str(ROOT / "search_spaces" / "delays.yaml")
    assert "only where delay_family is every" in output("spaces", "delays")
    assert output("spaces", path).replace(path, "delays") == output("spaces", "delays")
    (space,) = json.loads(output("spaces", path, "--json")).values()
    assert Space.model_validate(space) == load_space("delays")


def test_an_unknown_space_is_refused():
    with pytest.raises(SpecError, match="did you mean 'delays'"):
        output("spaces", "delay")


def error_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int | str | None, str]:
    """The exit code and the message of a command that fails."""
    monkeypatch.setattr("sys.argv", ["anon-tune", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    written = capsys.readouterr()
    assert not written.out
    return caught.value.code, written.err


def test_a_path_that_looks_like_markup_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "[red]" / "[" / "x]:x:"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text("name: 3")
    code, message = error_of(monkeypatch, capsys, "run", str(folder / "job.yaml"))
    assert code == 2
    assert message.startswith(f"error in {folder / 'job.yaml'}:\n")


def test_a_setting_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("ANON_TUNE_ALLOW_CODE", "perhaps")
    code, message = error_of(monkeypatch, capsys, "jobs")
    assert code == 2
    assert message.startswith("error ANON_TUNE_ALLOW_CODE: ")


def test_an_argument_that_is_no_text_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    code, message = error_of(monkeypatch, capsys, "show", os.fsdecode(b"\xff"))
    assert (code, message.startswith("error An argument is not valid text")) == (2, True)


def test_a_folder_that_is_gone_is_no_place_to_run_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, message = error_of(monkeypatch, capsys, "doctor")
    assert (code, message.startswith("error The current folder no longer exists")) == (6, True)


def ended(home: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A shell's script, with the command line as `anon-tune`, on a home of its own."""
    environment = {**os.environ, "ANON_TUNE_HOME": str(home), "PYTHON": sys.executable}
    environment.pop("PYTHONUNBUFFERED", None)  # with which nothing is left to write at the end
    script = f'anon-tune() {{ "$PYTHON" -m anon_tune "$@"; }}\n{script}'
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["jobs --json", "tasks", "--help"])
def test_an_output_that_is_full_is_an_error_of_one_line(tmp_path: Path, command: str):
    done = ended(tmp_path, f"anon-tune {command} > /dev/full")
    assert done.returncode == 6
    assert done.stderr.startswith("error The output cannot be written (No space left on device).")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("redirected", ["2> /dev/full", "2>&-", "<&- >&- 2>&-", "2> >(exec <&-; sleep 0)"])
def test_the_exit_code_is_right_where_no_error_can_be_written(tmp_path: Path, redirected: str):
    assert ended(tmp_path, f"anon-tune show nope {redirected}").returncode == 3


def test_a_closed_output_does_not_matter(tmp_path: Path):
    done = ended(tmp_path, "anon-tune jobs >&-; anon-tune tasks --json >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["jobs", "show JOB", "trials JOB"])
def test_a_terminal_that_is_not_utf8_shows_what_it_can(tmp_path: Path, ledger: Ledger, command: str):
    spec = builders.spec(name="Größe-学習").model_dump(mode="json")
    job = ledger.jobs.create("Größe-学習", spec, {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)
    ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, 0, 0, {}, {"schlüssel": 1}))
    ascii_only = "LC_ALL=C PYTHONIOENCODING=ascii PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
    done = ended(tmp_path, f"export {ascii_only}; anon-tune {command.replace('JOB', job)}")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("schl\\xfcssel 1" if "trials" in command else "Gr\\xf6\\xdfe-\\u5b66\\u7fd2") in done.stdout


@pytest.mark.parametrize("command", ["tasks --json", "tasks", "spaces --json"])
def test_a_reader_may_close_the_pipe(tmp_path: Path, command: str):
    reader = "import os; os.close(0)"
    done = ended(tmp_path, f"anon-tune {command} | \"$PYTHON\" -c '{reader}'; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_is_told_by_the_exit_code_alone(tmp_path: Path):
    """Also one while the commands load."""
    code = (
        "import sys; from anon_tune import __main__; "
        "sys.meta_path.insert(0, type('Stop', (), {'find_spec': lambda *_: exec('raise KeyboardInterrupt')})); "
        "__main__.main()"
    )
    done = ended(tmp_path, f'"$PYTHON" -c "{code}"')
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger of a home of this test's own."""
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path))
    monkeypatch.delenv("ANON_TUNE_DATABASE_URL", raising=False)
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def test_show_tells_why_a_job_stands_still(ledger: Ledger):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    ledger.leases.release(
        ledger.leases.acquire(job, "me", 60.0), JobState.PAUSED, "three trials in a row failed: no data"
    )
    shown = output("show", job)
    assert "three trials in a row failed: no data" in shown
    assert f"Continue with: anon-tune run --resume {job}" in shown
    assert "adamw" in shown  # what each arm has so far


@pytest.mark.parametrize("uri", ["file:./x", "runs", "foo://x"])
def test_a_tracking_uri_that_cannot_be_used_stops_a_job_before_it_is_made(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, message = error_of(monkeypatch, capsys, "run", str(ROOT / "examples" / "digits_cnn.yaml"))
    assert (code, ledger.overviews.jobs()) == (6, [])
    assert f"MLFLOW_TRACKING_URI='{uri}'" in message


@pytest.mark.parametrize("home", ["file", "file/below"])
@pytest.mark.parametrize(
    "command", [("jobs",), ("show", "x"), ("run", str(ROOT / "examples" / "digits_cnn.yaml"))]
)
def test_a_home_that_cannot_be_used_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: str,
    command: tuple[str, ...],
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path / home))
    monkeypatch.delenv("ANON_TUNE_DATABASE_URL", raising=False)
    code, message = error_of(monkeypatch, capsys, *command)
    assert code == 6
    assert f"ANON_TUNE_HOME='{tmp_path / home}' cannot be used as a folder" in message


SPEC = str(ROOT / "examples" / "digits_cnn.yaml")


def test_submit_prints_an_id_and_nothing_else(ledger: Ledger):
    job = output("submit", SPEC, "--set", "budget.time=2h", "--priority", "3").strip()
    found = ledger.jobs.get(job)
    assert (found.state, found.priority) == (JobState.QUEUED, 3)
    assert found.spec["budget"]["time"] == 7200
    assert ledger.jobs.spaces(job).keys() == {"anon", "adamw", "sgd"}
    made = json.loads(output("submit", SPEC, "--json"))
    assert ledger.jobs.get(made["id"]).priority == made["priority"] == 0


def test_a_job_without_a_holder_changes_at_once_by_command(ledger: Ledger):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    assert output("pause", job) == f"Job {job} is PAUSED. Continue it with: anon-tune resume {job}\n"
    assert "is QUEUED for a worker" in output("resume", job)
    assert json.loads(output("cancel", job, "--json")) == {"id": job, "state": "CANCELLED", "requested": None}
    assert ledger.jobs.get(job).state is JobState.CANCELLED


def test_control_signals_to_a_running_job_are_printed(ledger: Ledger):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    ledger.leases.acquire(job, "me", 60.0)
    assert output("pause", job) == f"Job {job} will be PAUSED once its running trials have ended.\n"
    assert "pause requested" in output("show", job)
    assert "RUNNING (pause requested)" in output("jobs")
    assert json.loads(output("cancel", job, "--json"))["requested"] == "cancel"
    assert json.loads(output("show", job, "--json"))["requested"] == "cancel"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("pause", "JOB"), 4, "is SUCCEEDED: there is nothing to pause"),
        (("cancel", "JOB"), 4, "is SUCCEEDED: there is nothing to cancel"),
        (("resume", "JOB"), 4, "is SUCCEEDED; only a PAUSED job can be resumed"),
        (("resume", "nothere"), 3, "There is no job 'nothere'"),
        (("extend", "JOB", "--trials", "2"), 4, "has a budget.trials of 4. Give --trials a larger"),
        (("extend", "JOB", "--trials", "99999"), 2, "budget.trials"),
        (("extend", "JOB", "--time", "soon"), 2, "--time: expected a duration"),
        (("extend", "JOB"), 2, "--trials, --time or --seeds"),
        (("logs", "nothere"), 3, "There is no job 'nothere'"),
        (("logs", "JOB", "--trial", "x"), 3, "has no trial 'x'"),
        (("submit", "nothere.yaml"), 3, "There is no file nothere.yaml"),
    ],
)
def test_impossible_commands_are_refused(
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
):
    spec = builders.spec()
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    job = ledger.jobs.create("x", spec.model_dump(mode="json"), spaces).id
    ledger.leases.release(ledger.leases.acquire(job, "me", 60.0), JobState.SUCCEEDED)
    before = ledger.jobs.get(job)
    got, message = error_of(monkeypatch, capsys, *(job if part == "JOB" else part for part in arguments))
    assert got == code
    assert said in message
    assert ledger.jobs.get(job) == before


def test_a_job_that_succeeded_is_given_more(ledger: Ledger):
    spec = builders.spec(budget={"trials": 4, "epochs": 9, "time": "1h"})
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    job = ledger.jobs.create("x", spec.model_dump(mode="json"), spaces).id
    ledger.leases.release(ledger.leases.acquire(job, "me", 60.0), JobState.SUCCEEDED)
    assert "is QUEUED" in output("extend", job, "--trials", "9", "--time", "90m")
    budget = spec.budget.model_dump(mode="json")
    assert ledger.jobs.get(job).spec["budget"] == {**budget, "trials": 9, "time": 5400}


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("repeats", [1, 5])
def test_a_job_with_several_searches_says_what_it_costs(repeats: int):
    example = str(ROOT / "examples" / "digits_cnn.yaml")
    result = CliRunner().invoke(app, ["submit", example, "--set", f"search.repeats={repeats}"])
    assert result.exit_code == 0
    assert ("300 search, 135 confirm and 180 verdict trials, 615 in all." in result.stderr) is (repeats == 5)


def test_more_trials_for_a_search_that_ends_when_it_is_decided_may_not_be_made(ledger: Ledger):
    spec = builders.spec(search={"stop": "decided"})
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    job = ledger.jobs.create("x", spec.model_dump(mode="json"), spaces).id
    assert "search.stop is decided" in output("extend", job, "--trials", "9")
    never = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), spaces).id
    assert "search.stop" not in output("extend", never, "--trials", "9")


def test_logs_of_a_job_that_nobody_has_worked_on_say_so(ledger: Ledger):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    result = CliRunner().invoke(app, ["logs", job])
    assert result.stderr.startswith(f"There is no log of job {job} here")


def test_logs_show_why_trials_failed(ledger: Ledger, tmp_path: Path):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)
    ids = [
        ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, number, number, {"x": number}, {})).id
        for number in range(2)
    ]
    for trial in ids:
        ledger.attempts.start(lease, trial)
    ledger.attempts.lose(lease, ids[0], "the worker process died", "[red]Segmentation fault")
    ledger.trials.finish(lease, ids[1], TrialState.COMPLETE, 0.5, log="epoch 1\nepoch 2")
    folder = tmp_path / "jobs" / job
    folder.mkdir(parents=True)
    (folder / "job.log").write_text("".join(f"line {number}\n" for number in range(80)))
    printed = output("logs", job, "--trial", ids[1])
    assert printed == f"{ids[1]}, attempt 1  COMPLETE\n  | epoch 1\n  | epoch 2\n"
    shown = output("logs", job)
    assert f"{ids[0]}, attempt 1  LOST: the worker process died\n  | [red]Segmentation fault\n" in shown
    assert ids[1] not in shown
    assert "line 30\n" in shown
    assert "line 29\n" not in shown
    found = json.loads(output("logs", job, "--trial", ids[1], "--json"))
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["COMPLETE"]
    assert found["job_log"][-1] == "line 79"


TRAINS = {"torch", "ray", "mlflow", "optuna", "pandas", "alembic"}


@pytest.mark.parametrize(
    ("command", "without"),
    [
        (["--help"], TRAINS | {"sqlalchemy", "yaml", "anon_tune.spec", "anon_tune.search_spaces"}),
        (["jobs"], TRAINS | {"yaml", "anon_tune.spec", "anon_tune.search_spaces"}),
        (["show", "x"], TRAINS),
        (["suggest", "--family", "cnn"], TRAINS),
    ],
)
def test_a_command_that_looks_loads_no_more_than_it_needs(
    tmp_path: Path, command: list[str], without: set[str]
):
    code = (
        "import sys\n"
        "from anon_tune.__main__ import main\n"
        f"sys.argv = ['anon-tune', *{command!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print('LOADED', *sorted({without!r} & set(sys.modules)))"
    )
    environment = {**os.environ, "ANON_TUNE_HOME": str(tmp_path)}
    Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}").close()  # making it takes alembic
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "LOADED"


@pytest.mark.parametrize(("command", "collects"), [(["jobs"], False), (["logs", "nope"], True)])
def test_only_commands_that_may_run_for_long_collect_garbage(
    tmp_path: Path, command: list[str], collects: bool
):
    code = (
        "import gc, sys\n"
        "from anon_tune.__main__ import main\n"
        "gc.collect()\n"
        "runs = []\n"
        "gc.callbacks.append(lambda *_: runs.append(1))\n"
        f"sys.argv = ['anon-tune', *{command!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print('COLLECTS', bool(runs), gc.isenabled())"
    )
    environment = {**os.environ, "ANON_TUNE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"COLLECTS {collects} {collects}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_a_worker_also_that_of_a_closed_terminal(number: signal.Signals):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.getsignal(each) for each in numbers}
    try:
        stop = machine._stop_event()
        signal.raise_signal(number)
        assert stop.is_set()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        machine._stop_event()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_commands_that_run_for_long_are_commands():
    commands = get_command(app)
    assert isinstance(commands, TyperGroup)
    assert set(commands.commands) >= cli._LONG_RUNNING


def suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ANON_TUNE_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["suggest", *arguments, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return dict(json.loads(found.stdout))


def test_a_model_of_ones_own_is_looked_at_for_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = (
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Embedding(9, 4), nn.LSTM(4, 32))\n"
    )
    (tmp_path / "nets_to_advise.py").write_text(module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = suggested(tmp_path, monkeypatch, "--model", "nets_to_advise:make")
    assert (found["family"], found["start"]) == ("recurrent", None)
    assert found["low"] <= found["gamma"] <= found["high"]


def test_a_job_files_model_is_measured_for_an_optimizer_to_start_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = suggested(tmp_path, monkeypatch, SPEC, "--set", "model.width=4")
    assert found["family"] == "cnn"
    assert found["start"]["hyperparameters"]["gamma"] == found["gamma"]
    assert found["start"]["hyperparameters"]["lr"] > 0
    assert found["architecture"]["family"] == "cnn"
    assert found["log_mean_sigma"] < 0


@pytest.mark.parametrize(
    "arguments", [(), ("--family", "cnn", "--model", "a:b"), ("--family", "cnn", "--set", "a=1")]
)
def test_advice_is_on_one_thing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
):
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path))
    assert error_of(monkeypatch, capsys, "suggest", *arguments)[0] == 2
