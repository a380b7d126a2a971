"""The jobs of a service: what is asked again while it is away, and which responses are refused."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from anon_tune.errors import DependencyError, InputError
from anon_tune.jobs.client import Client
from anon_tune.jobs.service import ServiceJobs
from anon_tune.ledger import Ledger
from anon_tune.records import JobState
from anon_tune.spec import JobFile
from tests.service.conftest import SPEC, Serve


class Breaking:
    """Takes a request and breaks the connection off, each time; counts them."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                line = connection.recv(4096).split(b"\r\n")[0].decode()
                if line == "stop":
                    return
                self.heard.append(line)

    def stop(self) -> None:
        with socket.create_connection(self._listening.getsockname()) as last:
            last.sendall(b"stop\r\n")
        self._thread.join()
        self._listening.close()


@pytest.fixture
def breaking() -> Iterator[Breaking]:
    found = Breaking()
    yield found
    found.stop()


@pytest.fixture
def jobs(breaking: Breaking) -> Iterator[ServiceJobs]:
    found = ServiceJobs(breaking.address, patience=0.3)
    yield found
    found.close()


def test_reads_and_keyed_submissions_are_retried(breaking: Breaking, jobs: ServiceJobs):
    for ask in (lambda: jobs.job("x"), lambda: jobs.submit(JobFile(SPEC))):
        breaking.heard.clear()
        with pytest.raises(DependencyError, match="does not answer"):
            ask()
        assert len(breaking.heard) > 1


def test_a_request_that_may_have_arrived_is_not_retried(breaking: Breaking, jobs: ServiceJobs):
    for ask in (lambda: jobs.pause("x"), lambda: jobs.extend("x", 9)):
        breaking.heard.clear()
        with pytest.raises(DependencyError, match="may have been processed"):
            ask()
        assert len(breaking.heard) == 1


def test_an_unreachable_service_is_reported(breaking: Breaking):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    jobs = ServiceJobs(f"http://127.0.0.1:{port}", patience=0.2)
    with pytest.raises(DependencyError, match=f"The service at http://127.0.0.1:{port} does not answer"):
        jobs.cancel("x")
    jobs.close()


def test_a_restarting_service_is_retried_longer():
    answers: list[bytes | None] = [None, b"[]", None, None, b"[]"]  # None: it breaks off

    def serve(listening: socket.socket) -> None:
        for answer in answers:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                if answer is not None:
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode() + answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with contextlib.closing(ServiceJobs(address, patience=0.0)) as jobs:
            with pytest.raises(DependencyError, match="does not answer"):
                jobs.tokens()
            assert (jobs.tokens(), jobs.tokens()) == ([], [])
        thread.join()


@pytest.mark.parametrize("server", ["localhost:8000", "ftp://x", "", "http://", "http://[::1"])
def test_an_invalid_service_address_is_refused(server: str):
    with pytest.raises(InputError, match="not the address of a service"):
        ServiceJobs(server)


@pytest.mark.parametrize("token", ["", " x", "x\n", "\xff"])
def test_an_invalid_token_is_refused(token: str):
    with pytest.raises(InputError, match="Invalid token"):
        ServiceJobs("http://127.0.0.1:9", token)


def test_an_untrusted_certificate_is_refused(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    authority = trustme.CA()
    certificate, known = tmp_path / "service.pem", tmp_path / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(known)
    address = serve(certificate=certificate)
    with (
        contextlib.closing(ServiceJobs(address, patience=0.0)) as stranger,
        pytest.raises(DependencyError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        stranger.jobs()
    monkeypatch.setenv("SSL_CERT_FILE", str(known))
    with contextlib.closing(ServiceJobs(address)) as acquaintance:
        assert acquaintance.jobs() == []


def test_a_watcher_outlives_the_service(serve: Serve, ledger: Ledger):
    """A proxy, or a restart, cuts a connection: the next one goes on."""
    with Client(serve()) as client:
        job = client.submit(SPEC).id
        seen = client.watch(job)
        assert next(seen).state is JobState.QUEUED
        ledger.jobs.cancel(job)
        assert [view.state for view in seen] == [JobState.CANCELLED]


def test_a_server_that_is_not_a_service_is_reported(serve: Serve):
    """Another program at that address, or a service of another version."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        body = b'{"hello": 1}'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        answer = head % len(body) + body

        def serve_two() -> None:
            for _ in range(2):
                connection, _address = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve_two)
        thread.start()
        for ask in ("jobs", "tokens"):
            jobs = ServiceJobs(f"http://127.0.0.1:{listening.getsockname()[1]}", patience=0.1)
            with pytest.raises(DependencyError, match="does not match this version"):
                getattr(jobs, ask)()
            jobs.close()
        thread.join()
