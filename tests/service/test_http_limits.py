"""Limits of HTTP, with real sockets and small limits: none may be passed, and health is answered beside them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import Role
from anon_tune.service.limits import Limits
from anon_tune.spec import parse_spec
from tests.service.conftest import SPEC, Serve
from tests.service.test_jobs import problem

GENEROUS_SECONDS = 120.0
NEVER = 10_000.0
"""Seconds of a limit that a test does not reach."""

WIDE = Limits(head_seconds=NEVER, body_seconds=NEVER)


@contextlib.contextmanager
def connected(address: str, sent: bytes = b"") -> Iterator[socket.socket]:
    url = urlsplit(address)
    with socket.create_connection((str(url.hostname), int(url.port or 0)), GENEROUS_SECONDS) as connection:
        connection.sendall(sent)
        yield connection


def all_of(connection: socket.socket) -> bytes:
    """Return all that comes until the service closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):  # it closed before it had read all that was sent
        while part := connection.recv(65_536):
            received += part
    return received


def until(happens) -> None:
    limit = time.monotonic() + GENEROUS_SECONDS
    while not happens():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000,  # it has no end
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 300 + b"\r\n",
        b"GET /healthz?" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["one", "many", "address"],
)
def test_a_large_head_is_refused(serve: Serve, head: bytes):
    with connected(serve(limits=replace(WIDE, head_bytes=1000)), head) as connection:
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"at most 1000 bytes" in answer


def test_a_large_body_is_no_large_head(serve: Serve):
    """Also when both come in one piece, and the next request with them."""
    body = b"x" * 5000
    one = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n" + body
    last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with connected(serve(limits=replace(WIDE, head_bytes=1000)), one + one + last) as connection:
        answer = all_of(connection)
    assert answer.count(b"HTTP/1.1 422 ") == 2
    assert answer.count(b"HTTP/1.1 200 ") == 1


@pytest.mark.slow
def test_unfinished_heads_are_ended(serve: Serve):
    """After a time that is long enough to connect and to send on a busy machine."""
    address = serve(limits=replace(WIDE, head_seconds=5.0))
    with connected(address) as silent, connected(address, b"GET /healthz HTT") as half:
        assert all_of(silent) == b""
        assert all_of(half).startswith(b"HTTP/1.1 408 ")


def test_unfinished_bodies_are_ended(serve: Serve):
    address = serve(limits=replace(WIDE, body_seconds=0.2))
    begun = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
    with connected(address, begun) as body:
        answer = all_of(body)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


@pytest.mark.slow
def test_a_body_that_nobody_waits_for_keeps_no_connection_open(serve: Serve):
    address = serve(limits=replace(WIDE, head_seconds=5.0))
    unasked = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
    with connected(address, unasked) as unread:
        assert all_of(unread).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_a_connection_that_is_used_stays_open(serve: Serve):
    """The time of a head begins anew with each request. It is long enough for a busy machine."""
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    with connected(serve(limits=replace(WIDE, head_seconds=12.0))) as connection:
        for _ in range(5):
            connection.sendall(request * 2)
            answer = b""
            while answer.count(b"HTTP/1.1 200 ") < 2:
                answer += connection.recv(65_536)
            time.sleep(2.5)


def test_a_connection_too_many_is_refused(serve: Serve):
    address = serve(limits=replace(WIDE, connections=2))
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connected(address))
        with connected(address) as third:
            answer = all_of(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"2 connections open" in answer
    until(lambda: _is_answered(address))


def _is_answered(address: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"{address}/healthz").is_success
    return False


def test_a_busy_service_says_so_and_answers_health(serve: Serve):
    address = serve(limits=replace(WIDE, requests=2))
    waiting = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"
    with contextlib.ExitStack() as stack, httpx2.Client(base_url=address, timeout=GENEROUS_SECONDS) as http:
        for _ in range(2):
            stack.enter_context(connected(address, waiting))
        until(lambda: http.get("/api/v1/jobs").status_code == 503)
        refused = http.get("/api/v1/jobs")
        assert "answers 2 requests now" in problem(refused, 503)["detail"]
        assert refused.headers["Retry-After"] == "5"
        assert http.get("/", headers={"Accept": "text/html"}).status_code == 503
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 200
        stack.close()
        until(lambda: http.get("/api/v1/jobs").status_code == 200)


def test_streams_are_limited_for_each_token_and_in_all(serve: Serve, ledger: Ledger):
    job = ledger.jobs.create("watched", parse_spec(SPEC).model_dump(mode="json"), {}).id
    secrets = [ledger.tokens.create(name, Role.READ)[1] for name in ("ann", "bob", "eve")]
    address = serve(limits=replace(WIDE, requests=1, streams=3, streams_per_token=2))

    def open_stream(secret: str) -> httpx2.Response:
        http = stack.enter_context(
            httpx2.Client(
                base_url=address, headers={"Authorization": f"Bearer {secret}"}, timeout=GENEROUS_SECONDS
            )
        )
        return stack.enter_context(http.stream("GET", f"/api/v1/jobs/{job}/events"))

    parts: list[Iterator[bytes]] = []
    with contextlib.ExitStack() as stack:
        for secret in (secrets[0], secrets[0], secrets[1]):
            stream = open_stream(secret)
            assert stream.status_code == 200
            parts.append(stream.iter_raw())  # to forget them would close the stream
            next(parts[-1])
        of_token, of_all = open_stream(secrets[0]), open_stream(secrets[2])
        assert (of_token.status_code, of_all.status_code) == (429, 503)
        of_token.read(), of_all.read()
        assert "This token has 2 event streams" in problem(of_token, 429)["detail"]
        assert "The service has 3 event streams" in problem(of_all, 503)["detail"]
        page = httpx2.get(f"{address}/api/v1/jobs", headers={"Authorization": f"Bearer {secrets[2]}"})
        assert page.status_code == 200, "a stream does not count as a request that is being answered"
    with contextlib.ExitStack() as stack:  # those that were closed are free again
        until(lambda: open_stream(secrets[2]).status_code == 200)


def test_the_docs_have_the_numbers():
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")
    table = text.split("### Limits of HTTP and storage")[1].split("\n## ")[0]
    limits = Limits()
    for number in (
        f"{limits.connections}",
        f"{limits.head_bytes // 1024} KiB",
        f"{limits.head_seconds:.0f} s",
        f"{limits.body_seconds:.0f} s",
        f"{limits.requests}",
        f"{limits.streams}",
        f"{limits.streams_per_token}",
    ):
        assert f"| {number} |" in table, number
