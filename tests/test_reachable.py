"""Requests to other services, with proxy variables in the environment."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import proxy_bypass

import pytest

from anon_tune.errors import DependencyError
from anon_tune.jobs.service import ServiceJobs
from anon_tune.ledger import Ledger
from anon_tune.reachable import (
    ask_mlflow,
    bypass_proxies,
    http_client,
    password_problem,
    proxy_of,
    without_password,
    without_passwords,
)
from anon_tune.tracking import Projector

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of an HTTP server on this machine."""
    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def dead() -> str:
    """Address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(autouse=True)
def proxies(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    """Proxy variables that lead nowhere; of either case, since programs read both."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test sets is undone
        monkeypatch.setenv(name.upper(), "")
        monkeypatch.delenv(name.upper())
    for name in VARIABLES[:2]:
        monkeypatch.setenv(name, f"http://{dead}")
    monkeypatch.setenv("all_proxy", f"socks5://{dead}")


def test_this_machine_is_reached_without_a_proxy(server: str):
    with http_client(server, 5.0) as http:
        assert http.get("/health").is_success
        assert http.get(f"{server}/health").is_success
    assert ask_mlflow(server, 5.0)


def test_mlflow_on_this_machine_is_reached_without_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "example.org, 10.0.0.1")
    assert not proxy_bypass("127.0.0.1")
    with contextlib.closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        Projector(ledger, f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, lambda job: {}, str)
    for host in ("127.0.0.1", "localhost", "example.org", "10.0.0.1"):
        assert proxy_bypass(host)
    assert not proxy_bypass("10.0.0.2")


def test_no_proxy_at_all_stays_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    bypass_proxies()
    assert proxy_bypass("example.org")


def test_an_error_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch, dead: str):
    monkeypatch.delenv("all_proxy")
    monkeypatch.setenv("http_proxy", f"http://ann:s3cret@{dead}")
    jobs = ServiceJobs("http://anon-tune.invalid:8000", patience=0.0)
    with pytest.raises(DependencyError, match=rf"through the proxy http://ann:\*\*\*@{dead} .*NO_PROXY"):
        jobs.jobs()
    assert proxy_of("http://127.0.0.2:8000") is None


def test_a_proxy_that_cannot_be_used_is_named():
    with pytest.raises(DependencyError, match="proxy that the environment names cannot be used"):
        ServiceJobs("http://anon-tune.invalid:8000")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://ann:s3cret@host:5000/x", "http://ann:***@host:5000/x"),
        ("postgresql+psycopg://ann:s3@host/db", "postgresql+psycopg://ann:***@host/db"),
        ("http://:token@host", "http://:***@host"),
        ("http://host:5000/a@b", "http://host:***@b"),  # it may be a password with a slash
        ("http://host:5000/#/runs/a", "http://host:5000/#/runs/a"),
        ("postgresql://ann:a/b@c:d@host/db", "postgresql://ann:***@host/db"),
        ("http://ann:my secret@host", "http://ann:***@host"),
        (
            "postgresql://host/db?user=ann&password=s3&sslmode=require",
            "postgresql://host/db?user=ann&password=***&sslmode=require",
        ),
        ("sqlite:////folder/a:b@c/mlflow.db", "sqlite:////folder/a:b@c/mlflow.db"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str):
    assert without_password(url) == shown


def test_passwords_in_a_message_are_not_shown_and_the_rest_is():
    message = (
        "cannot reach http://ann:s3cret@host:5000/x (see http://host:5000/docs), as user@example.org said"
    )
    assert without_passwords(message) == message.replace("s3cret", "***")


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("http://ann:s3cret@host:5000", False),
        ("http://ann:a%2Fb%40c@host:5000", False),
        ("http://host:5000/a@b", False),
        ("sqlite:////folder/a:b@c/mlflow.db", False),
        ("http://ann:a/b@host:5000", True),
        ("http://ann:a@b@host", True),
        ("http://ann:a#b@host", True),
        ("http://ann:a?b@host", True),
        ("postgresql://ann:a/b#c d@host/db", False),
        ("postgresql://ann:a@b@host/db", True),
        ("http://ann:a b@host", True),
    ],
)
def test_a_password_that_libraries_would_take_for_something_else_is_found(url: str, wrong: bool):
    assert (password_problem(url) is not None) is wrong
