"""The token of `anon-tune up`: who may read it, and which service it is sent to."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from anon_tune.jobs.client import open_service
from anon_tune.ledger import Ledger
from anon_tune.local_service import HOST, hold, private_file, running_service, stored_secret, token_for
from anon_tune.records import Role
from anon_tune.settings import Settings
from anon_tune.stack import own_token


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_the_token_stays_the_same_until_it_is_revoked(settings: Settings):
    ledger = Ledger.open(settings.ledger_url)
    token = own_token(ledger, settings)
    assert (token.role, token.may_send_code) == (Role.ADMIN, True)
    assert own_token(ledger, settings) == token
    ledger.tokens.revoke(token.id)
    new = own_token(ledger, settings)
    assert new.id != token.id
    secret = stored_secret(settings)
    assert secret is not None
    assert ledger.tokens.find(secret) == new
    ledger.close()


def test_a_token_that_others_can_read_is_replaced(settings: Settings):
    ledger = Ledger.open(settings.ledger_url)
    before = own_token(ledger, settings)
    path = settings.home / "token"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert stored_secret(settings) is None
    assert own_token(ledger, settings).id != before.id
    assert path.stat().st_mode & 0o777 == 0o600
    ledger.close()


def test_a_private_file_takes_no_permissions_of_the_one_before(tmp_path: Path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o666)
    private_file(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)


def test_the_token_is_sent_to_the_service_of_up_alone(settings: Settings):
    private_file(settings.home / "token", "at_secret\n")
    address = f"http://{HOST}:8123"
    assert token_for(settings, address) is None, "it does not run"
    assert running_service(settings) is None
    with hold(settings, 8123):
        assert running_service(settings) == address
        assert token_for(settings, address) == "at_secret"
        assert token_for(settings, f"{address}/") == "at_secret"
        for other in (
            f"http://{HOST}:8124",
            "http://localhost:8123",
            f"https://{HOST}:8123",
            "http://anon.example.org:8123",
            f"http://{HOST}",
        ):
            assert token_for(settings, other) is None, other
        with open_service(settings, address) as jobs:
            assert jobs._http.headers["Authorization"] == "Bearer at_secret"
        given = settings.model_copy(update={"token": None})
        with open_service(given, address, token="mine") as jobs:
            assert jobs._http.headers["Authorization"] == "Bearer mine"
    assert token_for(settings, address) is None


def test_a_service_that_was_killed_does_not_run(settings: Settings):
    code = (
        "import os, sys; from pathlib import Path; from anon_tune.local_service import hold; "
        "from anon_tune.settings import Settings\n"
        "with hold(Settings(home=Path(sys.argv[1])), 8123): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(settings.home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert running_service(settings) is not None
        process.kill()
        process.wait()
        assert running_service(settings) is None


def test_a_service_of_another_machine_with_the_same_home_is_not_ours(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(platform, "node", lambda: "gpu-1")
    with hold(settings, 8000):
        assert running_service(settings) == f"http://{HOST}:8000"
        monkeypatch.setattr(platform, "node", lambda: "gpu")
        assert running_service(settings) is None
