"""Every command: the same on the ledger here and on a service."""

from __future__ import annotations

import html
import json
import re
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from anon_tune import documents
from anon_tune.cli import app
from anon_tune.errors import InputError
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, Role
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from tests.ledger.test_workers import NEW
from tests.service.conftest import SPEC, Serve

ROOT = Path(__file__).parents[2]
HERE = {"run", "worker", "job-process", "serve", "up", "doctor", "mlflow", "db", "spaces", "tasks"}
"""Commands that work on this machine alone; they have tests of their own."""

Call = Callable[..., str]


@pytest.fixture(params=["here", "service"])
def call(request: pytest.FixtureRequest, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command, on the ledger or on a service that has it."""
    before = ["--server", serve()] if request.param == "service" else []

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*before, *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def commands(group: Any, before: str = "") -> set[str]:
    found = set()
    for name, command in group.commands.items():
        inside = commands(command, f"{name} ") if hasattr(command, "commands") else {name}
        found |= {f"{before}{each}" for each in inside}
    return found


def test_every_command_is_tested_here():
    text = Path(__file__).read_text()
    for name in commands(typer.main.get_command(app)):
        quoted = ", ".join(f'"{word}"' for word in name.split()[-1:])
        assert name.split()[0] in HERE or quoted in text, name


READING = [
    ("jobs",),
    ("jobs", "--json"),
    ("workers",),
    ("workers", "--json"),
    ("show", "JOB", "--json"),
    ("trials", "JOB"),
    ("trials", "JOB", "--json"),
    ("trials", "JOB", "--reports"),
    ("trials", "JOB", "--reports", "--json"),
    ("best", "JOB"),
    ("best", "JOB", "--json"),
    ("watch", "JOB", "--json"),
    ("logs", "JOB"),
    ("logs", "JOB", "--json"),
    ("logs", "JOB", "--follow"),
    ("export", "JOB"),
    ("export", "JOB", "--format", "python", "--arm", "sgd"),
    ("suggest", "--family", "mlp"),
    ("suggest", "--family", "cnn", "--json"),
    ("token", "list", "--json"),
    ("audit",),
    ("audit", "--json", "--since", "1h"),
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_read_commands_give_the_same_here_and_at_a_service(
    serve: Serve, done: str, settings: Settings, command: tuple[str, ...]
):
    log = settings.job_folder(done) / "job.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line\n")
    arguments = [done if word == "JOB" else word for word in command]
    here, there = (
        CliRunner().invoke(app, [*before, *arguments], catch_exceptions=False)
        for before in ([], ["--server", serve()])
    )
    assert here.exit_code == there.exit_code == 0, there.output
    assert here.stdout == there.stdout
    assert here.stdout.strip()
    if "--json" in command:
        json.loads(here.stdout)


@pytest.mark.parametrize("command", ["show", "watch"])
def test_a_job_is_shown_with_its_answer(call: Call, done: str, command: str):
    shown = call(command, done)
    assert f"done ({done}): SUCCEEDED" in shown
    assert "recommended: gamma 0.4" in shown
    assert "Anon against  compared" in shown
    assert "4 COMPLETE 1 FAILED" in shown


def test_workers_are_listed_and_a_queued_job_says_why_it_waits(call: Call, ledger: Ledger):
    job = ledger.jobs.create("x", parse_spec(SPEC).model_dump(mode="json"), {}).id
    assert "No worker is running. Start one: anon-tune worker" in call("workers")
    assert "waiting: no worker is running: start one with `anon-tune worker`" in call("show", job)
    ledger.workers.heartbeat(NEW)
    assert "waiting: starts now" in call("show", job)
    busy = ledger.leases.claim(NEW.holder, 60.0)
    assert busy is not None
    assert "waiting" not in call("show", job)
    (line,) = [line for line in call("workers").splitlines() if NEW.holder in line]
    assert re.search(rf"{re.escape(NEW.holder)} +busy +1/2  {job} +8 +2 H200 +python 3.11.9", line)
    (found,) = json.loads(call("workers", "--json"))
    assert (found["state"], found["jobs"], found["gpus"]) == ("busy", [job], ["H200", "H200"])


def test_a_job_is_shown_with_a_plot_as_plain_text(call: Call, done: str):
    lines = call("show", done, "--plot").splitlines()
    assert (
        "validation loss over gamma, search trials of anon" in lines
    )  # a loss of 0 has no place on a log axis
    assert any(line.startswith("● 4 complete") for line in lines)
    assert sum(line.count("●") for line in lines if "│" in line) == 4
    assert not any("\x1b" in line for line in lines)
    refused = CliRunner().invoke(app, ["show", done, "--plot", "--json"])
    assert "Give only one of --plot and --json" in str(refused.exception)


def test_a_report_is_written_to_a_file(call: Call, done: str, tmp_path: Path):
    path = tmp_path / "job.html"
    assert call("report", done, "-o", str(path)) == ""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert f"{done}-anon-s002" in text
    refused = CliRunner().invoke(app, ["report", done, "-o", str(tmp_path / "none" / "job.html")])
    assert "cannot be written (No such file or directory)" in str(refused.exception)
    assert list(tmp_path.glob("*.html*")) == [path]


def test_a_device_is_written_to_and_stays(call: Call, done: str):
    call("report", done, "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_job_is_submitted_paused_resumed_extended_and_cancelled(call: Call, ledger: Ledger, tmp_path: Path):
    example = str(ROOT / "examples" / "digits_cnn.yaml")
    job = call("submit", example, "--set", "budget.trials=5", "--priority", "2").strip()
    stored = ledger.jobs.get(job)
    assert (stored.state, stored.priority, stored.spec["budget"]["trials"]) == (JobState.QUEUED, 2, 5)
    assert f"Job {job} is PAUSED." in call("pause", job)
    assert json.loads(call("resume", job, "--json")) == {"id": job, "state": "QUEUED", "requested": None}
    assert "QUEUED" in call("extend", job, "--trials", "8")
    assert ledger.jobs.get(job).spec["budget"]["trials"] == 8
    assert f"Job {job} is CANCELLED." in call("cancel", job)


def test_jobs_are_deleted_by_id_and_by_age(call: Call, ledger: Ledger, done: str):
    example = str(ROOT / "examples" / "digits_cnn.yaml")
    one, waiting = (call("submit", example).strip() for _ in range(2))
    refused = CliRunner().invoke(app, ["delete", one])
    assert isinstance(refused.exception, InputError)
    assert "Add --yes" in str(refused.exception)
    assert f"Job {one} is deleted, with 0 trials." in call("delete", one, "--yes")
    assert call("delete", "--ended-before", "90d", "--dry-run") == "No job ended more than 90d ago.\n"
    assert call("delete", "--ended-before", "90d", "--yes") == "No job was deleted.\n"
    old = ["delete", "--ended-before", "0.001s"]
    assert [job["id"] for job in json.loads(call(*old, "--dry-run", "--json"))] == [done]
    assert [job.id for job in ledger.overviews.jobs()] == [waiting, done]
    assert [job["id"] for job in json.loads(call(*old, "--yes", "--json"))] == [done]
    assert [job.id for job in ledger.overviews.jobs()] == [waiting]


@pytest.mark.parametrize(
    "given", [[], ["x", "--ended-before", "1d"], ["x", "--dry-run"], ["--ended-before", "old"]]
)
def test_a_deletion_that_is_not_clear_is_refused(given: list[str], settings: Settings):
    assert isinstance(CliRunner().invoke(app, ["delete", *given]).exception, InputError)


def test_a_space_beside_the_job_file_goes_along(call: Call, ledger: Ledger, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text((ROOT / "search_spaces" / "mlp.yaml").read_text())
    (tmp_path / "job.yaml").write_text(json.dumps({**SPEC, "space": "mine.yaml"}))
    job = call("submit", str(tmp_path / "job.yaml")).strip()
    assert "gamma" in ledger.jobs.spaces(job)["anon"]["parameters"]


def test_tokens_are_made_listed_and_revoked(ledger: Ledger, serve: Serve, monkeypatch: pytest.MonkeyPatch):
    def run(*arguments: str, code: int = 0, given: str | None = None) -> str:
        result = CliRunner().invoke(app, list(arguments), input=given)
        assert result.exit_code == code, result.output
        return result.stdout

    admin = run("token", "create", "root", "--role", "admin").strip()
    assert ledger.tokens.find(admin).role is Role.ADMIN  # type: ignore[union-attr]
    monkeypatch.setenv("ANON_TUNE_TOKEN", admin)
    monkeypatch.setenv("ANON_TUNE_SERVER", serve())
    made = json.loads(run("token", "create", "ann", "--json"))
    assert made["secret"] not in run("token", "list")
    assert "ann" in run("token", "list")
    assert f"Token {made['id']} of ann is revoked." in run("token", "revoke", made["id"])
    monkeypatch.delenv("ANON_TUNE_SERVER")
    secret = "s" * 40
    for _ in range(2):
        run("token", "create", "given", "--role", "read", "--stdin", given=secret + "\n")
    found = ledger.tokens.find(secret)
    assert found is not None
    assert [token.owner for token in ledger.tokens.all()].count("given") == 1


def test_open_leads_a_browser_to_the_page_signed_in(
    ledger: Ledger, serve: Serve, settings: Settings, done: str, monkeypatch: pytest.MonkeyPatch
):
    _, secret = ledger.tokens.create("ann", Role.READ)
    address = serve()
    monkeypatch.setenv("ANON_TUNE_TOKEN", secret)
    monkeypatch.setenv("ANON_TUNE_SERVER", address)
    opened: list[str] = []

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["open", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    link = run(done, "--print").strip()
    assert opened == []
    assert httpx2.get(link).headers["location"] == f"/jobs/{done}"
    assert run(done) == ""
    file = settings.home / "open.html"
    assert opened == [file.as_uri()], "no secret among the arguments of the browser's process"
    assert file.stat().st_mode & 0o777 == 0o600
    link = html.unescape(re.findall(r"url=([^\"]+)", file.read_text())[0])
    assert httpx2.get(link).headers["location"] == f"/jobs/{done}"
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert httpx2.get(run().strip()).headers["location"] == "/"
    assert CliRunner().invoke(app, ["open", "nojob"]).exception is not None
    monkeypatch.delenv("ANON_TUNE_SERVER")
    assert "anon-tune up" in str(CliRunner().invoke(app, ["open"]).exception)


def test_local_commands_refuse_a_server(serve: Serve):
    for command in (
        ["run", "x.yaml"],
        ["worker"],
        ["serve"],
        ["doctor"],
        ["up"],
        ["db", "upgrade"],
        ["mlflow", "sync", "x"],
    ):
        result = CliRunner().invoke(app, ["--server", "http://127.0.0.1:9", *command])
        assert result.exception is not None
        assert "only works on this machine" in str(result.exception)


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """The first arguments of all calls of a function, which goes on doing what it does."""
    real, calls = getattr(owner, name), []

    def call(*arguments: Any, **keys: Any) -> Any:
        calls.append(arguments[0] if arguments else None)
        return real(*arguments, **keys)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize(
    "command", [*READING, ("show", "JOB"), ("pause", "JOB"), ("watch", "JOB")], ids=" ".join
)
def test_settings_are_read_once_for_a_command(
    call: Call, ledger: Ledger, done: str, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
):
    job = ledger.jobs.create("waiting", ledger.jobs.get(done).spec, {}).id if command[0] == "pause" else done
    reads = counted(monkeypatch, Settings, "from_environment")
    call(*(job if word == "JOB" else word for word in command))
    assert len(reads) == 1


def test_a_submission_reads_settings_and_each_space_once(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("mlp", "sgd"):
        text = (ROOT / "search_spaces" / f"{name}.yaml").read_text()
        (tmp_path / f"my_{name}.yaml").write_text(f"# {tmp_path}\n{text}")  # no other test has parsed it
    (tmp_path / "job.yaml").write_text(
        json.dumps({**SPEC, "space": "my_mlp.yaml", "arms": ["anon", "my_sgd.yaml"]})
    )
    parsed = counted(monkeypatch, documents, "load_yaml")
    reads = counted(monkeypatch, Settings, "from_environment")
    call("submit", str(tmp_path / "job.yaml"))
    assert len(reads) == 1
    assert len([text for text in parsed if str(tmp_path) in text]) == 2
