"""Notices of jobs, sent to a real server."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from anon_tune import webhook
from anon_tune.errors import DependencyError
from anon_tune.ledger import Ledger
from anon_tune.records import JobState
from anon_tune.settings import Settings
from anon_tune.webhook import SIGNATURE, Message, Sender, sending
from tests.answers import stored

_PATIENCE = 120.0

# As a worker that is killed at once after a job has ended.
KILLED = """
import os, signal, sys
from anon_tune.ledger import Ledger
from anon_tune.records import JobState
from anon_tune.settings import Settings
from anon_tune.webhook import sending

settings = Settings.from_environment()
ledger = Ledger.open(settings.ledger_url)
lease = ledger.leases.claim("a worker", 60.0)
with sending(ledger, settings):
    ledger.leases.release(lease, JobState.FAILED, "no data")
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Receiver:
    """A server that stores its requests, and answers them as the test has set.

    Until `start`, connections to its address are refused.
    """

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._server: HTTPServer | None = None
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/hooks/secret-path"

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = HTTPServer(self._socket.getsockname(), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = self._socket
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
        self._socket.close()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with contextlib.closing(Receiver()) as opened:
        yield opened


@pytest.fixture
def settings(receiver: Receiver, tmp_path: Path, unset: None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path))
    monkeypatch.setenv("ANON_TUNE_WEBHOOK", receiver.url)
    return Settings.from_environment()


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = Ledger.open(settings.ledger_url)
    yield opened
    opened.close()


def end(
    ledger: Ledger, state: JobState = JobState.FAILED, reason: str | None = "no data", **found: Any
) -> str:
    job = ledger.jobs.create("digits <!channel>", {}, {}, owner="ann").id
    lease = ledger.leases.acquire(job, "me", 60.0)
    if found:
        ledger.jobs.update(lease, **found)
    ledger.leases.release(lease, state, reason)
    return job


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true"
        time.sleep(0.02)


def test_a_notice_has_what_people_and_programs_need(ledger: Ledger, settings: Settings, receiver: Receiver):
    receiver.start()
    known = settings.model_copy(
        update={"url": "https://tune.example.org/", "webhook_secret": SecretStr("kéy")}
    )
    sender = Sender(ledger, known)
    sender.expect()
    job = end(ledger, JobState.SUCCEEDED, None, result=stored())
    sender.send_due()
    sender.send_due()
    ((headers, body),) = receiver.got
    message = Message.model_validate_json(body)
    assert (message.version, message.job, message.name, message.owner) == (1, job, "digits <!channel>", "ann")
    assert (message.state, message.reason) == (JobState.SUCCEEDED, None)
    assert message.url == f"https://tune.example.org/jobs/{job}"
    assert message.answer is not None
    assert message.answer.startswith("Recommended gamma 0.50; ")
    assert message.time == ledger.jobs.get(job).finished
    lines = message.text.splitlines()
    assert lines[0] == f"Job digits &lt;!channel&gt; ({job}) is SUCCEEDED", "Slack would notify everybody"
    assert (lines[1], lines[2]) == (message.answer, message.url)
    assert headers["Content-Type"] == "application/json"
    assert headers[SIGNATURE] == f"sha256={hmac.new('kéy'.encode(), body, hashlib.sha256).hexdigest()}"


def test_without_a_key_and_an_address_of_pages_there_is_no_signature_and_no_link(
    ledger: Ledger, settings: Settings, receiver: Receiver
):
    receiver.start()
    sender = Sender(ledger, settings)
    sender.expect()
    job = end(ledger)
    sender.send_due()
    ((headers, _),) = receiver.got
    assert SIGNATURE not in headers
    (message,) = receiver.messages
    assert (message["url"], message["answer"]) == (None, None)
    assert message["text"] == f"Job digits &lt;!channel&gt; ({job}) is FAILED: no data"


def test_a_server_that_is_down_gets_each_notice_once_it_is_back(
    ledger: Ledger,
    settings: Settings,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO, "anon_tune.webhook")
    monkeypatch.setattr(webhook, "_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(webhook, "_LONGEST_SECONDS", 0.1)
    monkeypatch.setattr(webhook, "_POLL_SECONDS", 0.02)
    receiver.statuses += [503, 302]
    with sending(ledger, settings):
        jobs = [end(ledger), end(ledger, JobState.PAUSED, "three trials failed")]
        until(lambda: "ConnectError" in caplog.text)
        receiver.start()
        until(lambda: "takes notices again" in caplog.text and len(receiver.got) == 4)
    taken = receiver.messages[2:]
    assert sorted(message["job"] for message in taken) == sorted(jobs)
    assert {message["id"] for message in receiver.messages} == {message["id"] for message in taken}
    failures = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert failures == ["the webhook at 127.0.0.1 does not take notices (ConnectError); they are sent again"]
    assert "secret-path" not in caplog.text
    assert ledger.notices.take(Sender(ledger, settings)._addresses) is None


def test_the_log_of_a_worker_has_no_address(ledger: Ledger, settings: Settings, receiver: Receiver):
    """The client's own log would have it."""
    receiver.start()
    ledger.jobs.create("x", {}, {})
    begin = (
        "from anon_tune import webhook\nfrom anon_tune.logs import log_to_stderr\n"
        f"webhook._LAST_SECONDS = {_PATIENCE}\nlog_to_stderr()\nsettings = "
    )
    code = KILLED.replace("settings = ", begin, 1).replace("os.kill(os.getpid(), signal.SIGKILL)", "")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert len(receiver.got) == 1
    assert "secret-path" not in done.stderr


def test_a_notice_survives_the_process_that_changed_the_job(
    ledger: Ledger, settings: Settings, receiver: Receiver
):
    job = ledger.jobs.create("x", {}, {}).id
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -signal.SIGKILL
    assert ledger.jobs.get(job).state is JobState.FAILED
    assert receiver.got == []
    receiver.start()
    Sender(ledger, settings).send_due()
    assert [(message["job"], message["state"]) for message in receiver.messages] == [(job, "FAILED")]


def test_what_is_due_at_the_end_is_still_sent(
    ledger: Ledger, settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """As after `anon-tune run`."""
    monkeypatch.setattr(webhook, "_POLL_SECONDS", _PATIENCE)
    monkeypatch.setattr(webhook, "_LAST_SECONDS", _PATIENCE)
    receiver.start()
    with sending(ledger, settings):
        job = end(ledger)
    assert [message["job"] for message in receiver.messages] == [job]


def test_two_webhooks_get_it_each_also_if_one_is_down(ledger: Ledger, settings: Settings, receiver: Receiver):
    with contextlib.closing(Receiver()) as away:
        receiver.start()
        sender = Sender(ledger, settings.model_copy(update={"webhook": f"{away.url}\n {receiver.url}"}))
        sender.expect()
        jobs = [end(ledger), end(ledger)]
        sender.send_due()
    assert [message["job"] for message in receiver.messages] == jobs


def test_a_database_that_is_away_is_logged_once_and_disturbs_nobody(
    ledger: Ledger,
    settings: Settings,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    calls = []

    def take(webhooks: object) -> None:
        calls.append(1)
        raise DependencyError("The ledger cannot be read.")

    monkeypatch.setattr(webhook, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(ledger.notices, "take", take)
    with sending(ledger, settings):
        until(lambda: len(calls) > 3)
    assert caplog.text.count("The ledger cannot be read.") == 1
