"""Passwords in addresses are in no output of any command, whatever goes wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anon_tune.cli import main
from anon_tune.doctor import examine
from anon_tune.errors import AnonTuneError
from anon_tune.jobs.service import ServiceJobs
from anon_tune.ledger import Ledger
from anon_tune.reachable import mlflow_page
from anon_tune.settings import Settings
from tests import builders
from tests.sources import ROOT

SECRETS = {
    "plain": "s3cretzq9x",
    "escaped": "s3cret%2Fzq9x%40",
    "with a slash": "s3cret/zq9x",
    "with an at sign": "s3cret@zq9x",
    "with a colon": "s3cret:zq9x",
    "with a space": "s3cret zq9x",
    "with a hash": "s3cret#zq9x",
}
ADDRESSES = {
    "MLFLOW_TRACKING_URI": ("http://ann:{}@127.0.0.1:9", "foo://ann:{}@127.0.0.1:9"),
    "ANON_TUNE_DATABASE_URL": (
        "postgresql+psycopg://ann:{}@127.0.0.1:9/x?connect_timeout=1",
        "nonsense://ann:{}@h/x",
    ),
}
SERVERS = ("http://ann:{}@127.0.0.1:9", "foo://ann:{}@127.0.0.1:9")
COMMANDS = (
    *(
        ("show", "JOB"),
        ("show", "JOB", "--json"),
        ("jobs",),
        ("logs", "JOB"),
        ("trials", "JOB"),
        ("pause", "JOB"),
    ),
    *(("mlflow", "sync", "JOB"), ("db", "upgrade")),
    ("run", str(ROOT / "examples" / "digits_cnn.yaml"), "--json"),
)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job in a home of this test's own, which has a run in MLflow."""
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path))
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    lease = ledger.leases.acquire(
        ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id, "tests", 60.0
    )
    ledger.projections.set(lease.job, lease.job, "r" * 32)
    ledger.close()
    return lease.job


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], job: str
) -> str:
    """Everything that a command prints; an error that no one expected has a traceback."""
    monkeypatch.setattr("sys.argv", ["anon-tune", *(word.replace("JOB", job) for word in command)])
    with pytest.raises(SystemExit):
        main()
    written = capsys.readouterr()
    return written.out + written.err


@pytest.mark.parametrize("variable", ADDRESSES)
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_no_command_prints_a_password(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, secret: str
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for address in ADDRESSES[variable]:
        monkeypatch.setenv(variable, address.format(secret))
        for command in COMMANDS:
            if command[0] == "run" and address.startswith("http:"):
                continue  # a job trains while MLflow is away
            printed = said(monkeypatch, capsys, command, job)
            assert printed, command
            assert not re.search("s3cret|zq9x", printed), (command, address, printed)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_service_that_cannot_be_reached_is_named_without_its_password(server: str, secret: str):
    with pytest.raises((AnonTuneError, ValueError)) as caught:
        ServiceJobs(server.format(secret), patience=0.0).jobs()
    assert not re.search("s3cret|zq9x", str(caught.value))


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_the_doctor_prints_no_password(tmp_path: Path, secret: str):
    for uri in ADDRESSES["MLFLOW_TRACKING_URI"]:
        settings = Settings(
            home=tmp_path, mlflow_tracking_uri=uri.format(secret), server=SERVERS[0].format(secret)
        )
        findings = "\n".join(f"{finding.found} {finding.advice}" for finding in examine(settings))
        assert not re.search("s3cret|zq9x", findings), findings


def test_settings_are_shown_without_addresses():
    settings = Settings(mlflow_tracking_uri="http://a:s3cret@h", database_url="postgresql://a:s3cret@h/x")
    assert "s3cret" not in repr(settings)


def test_a_page_of_a_run_is_given_where_mlflow_is_a_server():
    assert mlflow_page("http://ann:s3cret@host:5000/", "abc") == "http://ann:***@host:5000/#/runs/abc"
    assert mlflow_page("postgresql://ann:s3cret@host/db", "abc") is None
