"""Who may do what: every route, each role, one's own jobs and those of others."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from anon_tune.errors import InputError
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, Role
from anon_tune.service.access import Surroundings, User
from anon_tune.service.app import create_app
from anon_tune.service.server import serve as serve_on
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from tests.service.conftest import SPEC, Serve
from tests.service.test_jobs import problem

ANYBODY, READ, OWNED, SUBMIT, CODE, ADMIN = "anybody", "read", "one's own", "submit", "code", "admin"

NEEDS = {
    ("GET", "/healthz"): ANYBODY,
    ("GET", "/readyz"): ANYBODY,
    ("GET", "/metrics"): READ,
    ("GET", "/api/v1/jobs"): READ,
    ("GET", "/api/v1/jobs/{job_id}"): READ,
    ("GET", "/api/v1/jobs/{job_id}/trials"): READ,
    ("GET", "/api/v1/jobs/{job_id}/trials/{trial_id}/reports"): READ,
    ("GET", "/api/v1/jobs/{job_id}/reports"): READ,
    ("GET", "/api/v1/jobs/{job_id}/trials.csv"): READ,
    ("GET", "/api/v1/jobs/{job_id}/reports.csv"): READ,
    ("GET", "/api/v1/jobs/{job_id}/best"): READ,
    ("GET", "/api/v1/jobs/{job_id}/spaces"): READ,
    ("GET", "/api/v1/jobs/{job_id}/logs"): READ,
    ("GET", "/api/v1/jobs/{job_id}/export"): READ,
    ("GET", "/api/v1/jobs/{job_id}/events"): READ,
    ("GET", "/api/v1/workers"): READ,
    ("GET", "/api/v1/advice"): READ,
    ("POST", "/api/v1/advice"): READ,
    ("POST", "/api/v1/jobs"): SUBMIT,
    ("PUT", "/api/v1/code/{digest}"): CODE,
    ("POST", "/api/v1/jobs/{job_id}:pause"): OWNED,
    ("POST", "/api/v1/jobs/{job_id}:resume"): OWNED,
    ("POST", "/api/v1/jobs/{job_id}:cancel"): OWNED,
    ("POST", "/api/v1/jobs/{job_id}:extend"): OWNED,
    ("DELETE", "/api/v1/jobs/{job_id}"): OWNED,
    ("POST", "/api/v1/sign-in-links"): READ,
    ("GET", "/api/v1/audit"): ADMIN,
    ("GET", "/api/v1/tokens"): ADMIN,
    ("POST", "/api/v1/tokens"): ADMIN,
    ("DELETE", "/api/v1/tokens/{token_id}"): ADMIN,
}

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/api/v1/advice"): {"architecture": {"family": "cnn"}},
    ("POST", "/api/v1/jobs"): {"spec": SPEC},
    ("POST", "/api/v1/jobs/{job_id}:extend"): {"trials": 9},
    ("POST", "/api/v1/sign-in-links"): {},
    ("POST", "/api/v1/tokens"): {"owner": "new", "role": "read"},
}


def routes(app: Any) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}


def test_the_matrix_names_every_route(ledger: Ledger, settings: Settings):
    app = create_app(ledger, settings, on_loopback=True)
    assert routes(app) == set(NEEDS)


def allowed(needs: str, role: Role | None, owns: bool) -> bool:
    if needs == ANYBODY:
        return True
    if role is None:
        return False
    match needs:
        case "read":
            return True
        case "submit" | "code":
            return role is not Role.READ
        case "one's own":
            return role is Role.ADMIN or (role is Role.SUBMIT and owns)
        case _:
            return role is Role.ADMIN


@pytest.mark.parametrize("owns", [True, False])
@pytest.mark.parametrize("role", [None, *Role])
def test_each_route_asks_for_its_role(serve: Serve, ledger: Ledger, role: Role | None, owns: bool):
    _, secret = ledger.tokens.create("me", role or Role.ADMIN)
    headers = {} if role is None else {"Authorization": f"Bearer {secret}"}
    stored = parse_spec(SPEC).model_dump(mode="json")
    with httpx2.Client(base_url=serve(on_loopback=False), headers=headers) as http:
        for (method, path), needs in NEEDS.items():
            job = ledger.jobs.create("x", stored, {}, owner="me" if owns else "you").id
            if path.endswith((":resume", "/events")):
                ledger.jobs.pause(job)
            other, _ = ledger.tokens.create("other", Role.READ)
            url = path.format(job_id=job, trial_id="x", token_id=other.id, digest="0" * 64)
            query = {"family": "cnn"} if path.endswith("advice") else {}
            answer = http.request(method, url, json=BODIES.get((method, path)), params=query)
            if allowed(needs, role, owns):
                expected = (
                    {201} if (method, path) in BODIES and not path.endswith((":extend", "/advice")) else {200}
                )
                expected = {409} if path.endswith("/export") else expected  # it has no result
                expected = {404} if "{trial_id}" in path else expected  # and no trials
                expected = {403} if needs == CODE else expected  # see test_code
                assert answer.status_code in expected, (method, path, answer.text)
            else:
                problem(answer, 401 if role is None else 403)
                assert ledger.jobs.get(job).state in {JobState.QUEUED, JobState.PAUSED}
                assert ledger.tokens.all()[-1].revoked is None


@pytest.mark.parametrize(
    "authorization",
    ["Bearer at_forged", "Bearer", "Basic bWU6eA==", "at_x", "Bearer \xff", "Bearer ' OR 1=1"],
)
def test_a_forged_token_is_refused(serve: Serve, ledger: Ledger, authorization: str):
    ledger.tokens.create("me", Role.ADMIN)
    answer = httpx2.get(f"{serve()}/api/v1/jobs", headers={"Authorization": authorization.encode("latin-1")})
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_revoked_token_is_refused_at_once_and_does_not_open_the_service(serve: Serve, ledger: Ledger):
    token, secret = ledger.tokens.create("me", Role.ADMIN)
    addresses = [serve(), serve()]
    headers = {"Authorization": f"Bearer {secret}"}
    for address in addresses:
        assert httpx2.get(f"{address}/api/v1/jobs", headers=headers).status_code == 200
    revoked = httpx2.delete(f"{addresses[0]}/api/v1/tokens/{token.id}", headers=headers)
    assert revoked.json()["revoked"] is not None
    for address in addresses:
        problem(httpx2.get(f"{address}/api/v1/jobs", headers=headers), 401)
        problem(httpx2.get(f"{address}/api/v1/jobs"), 401)


def test_a_secret_is_shown_once_and_kept_nowhere(serve: Serve, ledger: Ledger, settings: Settings):
    _, secret = ledger.tokens.create("root", Role.ADMIN)
    with httpx2.Client(base_url=f"{serve()}/api/v1", headers={"Authorization": f"Bearer {secret}"}) as http:
        made = http.post("/tokens", json={"owner": "ann", "role": "submit"}).json()
        assert made["secret"] not in http.get("/tokens").text
        job = httpx2.post(
            f"{http.base_url}jobs", json={"spec": SPEC}, headers={"Authorization": f"Bearer {made['secret']}"}
        )
        assert job.json()["owner"] == "ann"
    ledger.close()
    kept = b"".join(path.read_bytes() for path in settings.home.rglob("*") if path.is_file())
    for each in (secret, made["secret"]):
        assert each.encode() not in kept


def test_an_open_service_is_for_this_machine_alone(serve: Serve):
    address = serve()
    assert httpx2.get(f"{address}/api/v1/jobs").status_code == 200
    for name in ("evil.example", "127.0.0.1.evil.example"):
        problem(httpx2.get(f"{address}/api/v1/jobs", headers={"Host": name}), 403)
    for name in ("localhost:8000", "127.0.1.1", "[::1]:9"):
        assert httpx2.get(f"{address}/api/v1/jobs", headers={"Host": name}).status_code == 200
    page = {"Origin": "https://evil.example"}
    problem(httpx2.post(f"{address}/api/v1/jobs", json={"spec": SPEC}, headers=page), 403)
    assert httpx2.get(f"{address}/api/v1/jobs", headers={"Origin": address}).status_code == 200


THROUGH_A_PROXY = (
    {"X-Forwarded-For": "203.0.113.7"},
    {"X-Forwarded-Host": "tune.example"},
    {"Forwarded": "for=203.0.113.7"},
    {"X-Real-IP": "203.0.113.7"},
    {"Via": "1.1 varnish"},
    {"CF-Connecting-IP": "203.0.113.7"},
    {"X-Envoy-External-Address": "203.0.113.7"},
)


def test_an_open_service_refuses_what_came_through_a_proxy(serve: Serve, ledger: Ledger):
    """The default of most proxies is the upstream's own name as Host, so the name alone proves nothing."""
    job = ledger.jobs.create("x", parse_spec(SPEC).model_dump(mode="json"), {}).id
    with httpx2.Client(base_url=serve()) as http:
        for headers in THROUGH_A_PROXY:
            for path in ("/api/v1/jobs", f"/api/v1/jobs/{job}/events", "/metrics"):
                detail = problem(http.get(path, headers=headers), 403)["detail"]
                assert "anon-tune token create NAME --role admin" in detail
            submitted = http.post("/api/v1/jobs", json={"spec": SPEC}, headers=headers)
            problem(submitted, 403)
            page = http.get("/", headers={"Accept": "text/html", **headers})
            assert (page.status_code, "anon-tune token create" in page.text) == (403, True)
            with_a_token = http.get("/api/v1/jobs", headers={"Authorization": "Bearer at_x", **headers})
            assert "anon-tune token create" in problem(with_a_token, 403)["detail"]
            assert http.get("/healthz", headers=headers).status_code == 200
        assert len(ledger.overviews.jobs()) == 1
        _, secret = ledger.tokens.create("me", Role.READ)
        behind = {"Authorization": f"Bearer {secret}", **THROUGH_A_PROXY[0]}
        assert http.get("/api/v1/jobs", headers=behind).status_code == 200


def answer_to(address: str, request: bytes) -> bytes:
    url = httpx2.URL(address)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.settimeout(60)
        connection.sendall(request)
        return connection.makefile("rb").readline()


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /api/v1/jobs HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",  # nginx as it comes
        b"GET /api/v1/jobs HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
)
def test_an_open_service_refuses_odd_requests(serve: Serve, request_head: bytes):
    assert answer_to(serve(), request_head).split()[1] in {b"400", b"403"}


def test_an_open_service_says_so_at_its_start(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    said: list[str] = []
    serve_on(ledger, settings, "127.0.0.1", 0, said.append)
    assert said[0].startswith("Serving at http://127.0.0.1:")
    assert "everybody who can log in to this machine" in said[1]
    assert "anon-tune token create NAME --role admin" in said[1]
    ledger.tokens.create("me", Role.ADMIN)
    said.clear()
    serve_on(ledger, settings, "127.0.0.1", 0, said.append)
    assert [line.split()[0] for line in said] == ["Serving"]


def test_a_token_expires(serve: Serve, ledger: Ledger):
    valid, lasting = ledger.tokens.create("ann", Role.ADMIN, seconds=3600.0)
    late, secret = ledger.tokens.create("ben", Role.ADMIN, seconds=-60.0)
    address = serve()
    with httpx2.Client(base_url=f"{address}/api/v1", headers={"Authorization": f"Bearer {lasting}"}) as http:
        assert http.get("/jobs").status_code == 200
        listed = {each["id"]: each["is_expired"] for each in http.get("/tokens").json()}
        assert listed == {valid.id: False, late.id: True}
        refused = http.get("/jobs", headers={"Authorization": f"Bearer {secret}"})
        assert f"Your token {late.id} expired on " in problem(refused, 401)["detail"]
        made = http.post("/tokens", json={"owner": "zoe", "role": "read", "expires_in": 86400}).json()
        lifetime = datetime.datetime.fromisoformat(made["expires"]) - datetime.datetime.fromisoformat(
            made["created"]
        )
        assert lifetime == datetime.timedelta(days=1)
        problem(http.post("/tokens", json={"owner": "zoe", "expires_in": 0}), 422)
    signed_in = httpx2.post(f"{address}/sign-in", data={"token": secret})
    assert (signed_in.status_code, "expired on" in signed_in.text) == (401, True)
    assert ledger.sessions.find(ledger.sessions.begin(valid.id, 60.0)) == valid
    assert ledger.sessions.find(ledger.sessions.begin(late.id, 60.0)) is None
    assert ledger.sessions.follow(ledger.sessions.link(late.id, 60.0), 60.0) is None
    user = User("ben", Role.ADMIN, False, Surroundings(ledger, Settings(), True), secret)
    assert not user.is_known(), "a stream of events asks this every few seconds"
    assert httpx2.get(f"{address}/api/v1/jobs").status_code == 401, (
        "expired tokens do not open the service again"
    )


def test_without_tokens_it_serves_on_loopback_only(ledger: Ledger, settings: Settings):
    with pytest.raises(InputError, match="the service has no tokens"):
        serve_on(ledger, settings, "0.0.0.0", 0)
    with pytest.raises(InputError, match="not a name or address"):
        serve_on(ledger, settings, "no.such.host.invalid", 0)


def test_secrets_are_not_logged(
    serve: Serve, ledger: Ledger, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    _, secret = ledger.tokens.create("me", Role.ADMIN)
    with caplog.at_level("INFO"):
        httpx2.get(f"{serve()}/api/v1/jobs", headers={"Authorization": f"Bearer {secret}"})
    (line,) = [record for record in caplog.records if record.name == "anon_tune.requests"]
    assert (line.path, line.status, line.owner) == ("/api/v1/jobs", 200, "me")
    assert all(secret not in str(vars(record)) for record in caplog.records)


def test_a_stream_of_events_ends_with_its_token(serve: Serve, ledger: Ledger):
    token, secret = ledger.tokens.create("me", Role.READ)
    job = ledger.jobs.create("x", parse_spec(SPEC).model_dump(mode="json"), {}).id
    headers = {"Authorization": f"Bearer {secret}"}
    with (
        httpx2.Client(base_url=serve(), headers=headers) as http,
        http.sse(f"/api/v1/jobs/{job}/events") as source,
    ):
        events = iter(source)
        assert next(events).event == "job"
        ledger.tokens.revoke(token.id)
        assert [event for event in events if event.event == "job"] == []


def test_a_stream_without_a_token_ends_with_the_first_token(serve: Serve, ledger: Ledger):
    """The service is no longer open to every user of the machine."""
    job = ledger.jobs.create("x", parse_spec(SPEC).model_dump(mode="json"), {}).id
    with httpx2.Client(base_url=serve()) as http, http.sse(f"/api/v1/jobs/{job}/events") as source:
        events = iter(source)
        assert next(events).event == "job"
        ledger.tokens.create("me", Role.READ)
        assert [event for event in events if event.event == "job"] == []
