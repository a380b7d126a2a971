"""Signing in and out: cookies, links, and what other sites cannot do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx2
import pytest
from fastapi.testclient import TestClient

from anon_tune.ledger import Ledger
from anon_tune.records import Role
from anon_tune.service.access import Surroundings, User
from anon_tune.service.app import create_app
from anon_tune.service.pages.session import COOKIE, PageUser
from anon_tune.settings import Settings
from tests.service.conftest import Serve

SignIn = Callable[..., httpx2.Response]


@pytest.fixture
def http(serve: Serve) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=serve(), headers={"Accept": "text/html"}) as client:
        yield client


@pytest.fixture
def secret(ledger: Ledger) -> str:
    return ledger.tokens.create("ann", Role.SUBMIT)[1]


def sign_in(http: httpx2.Client, token: str, next: str = "/", **headers: str) -> httpx2.Response:
    return http.post("/sign-in", data={"token": token, "next": next}, headers=headers)


def cookie(answer: httpx2.Response) -> set[str]:
    """Attributes of the cookie that a response sets."""
    return {part.strip().partition("=")[0].lower() for part in answer.headers["set-cookie"].split(";")[1:]}


def csrf(http: httpx2.Client) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', http.get("/").text)
    assert found is not None
    return found[1]


def test_a_token_becomes_a_session(http: httpx2.Client, secret: str):
    assert http.get("/").headers["location"] == "/sign-in?next=/"
    answer = sign_in(http, f" {secret} \n", "/jobs/abc?tab=logs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/abc?tab=logs")
    assert {"httponly", "samesite", "max-age", "path"} <= cookie(answer)
    assert "secure" not in cookie(answer)
    assert "samesite=lax" in answer.headers["set-cookie"].lower()
    assert answer.headers["cache-control"] == "no-store"
    assert secret not in answer.headers["set-cookie"]
    page = http.get("/")
    assert page.status_code == 200
    assert "ann" in page.text
    assert http.get("/api/v1/jobs").status_code == 401, "the API takes no cookie, so it needs no csrf"


def test_the_cookie_is_secure_behind_tls(serve: Serve, settings: Settings, ledger: Ledger, secret: str):
    with httpx2.Client(base_url=serve()) as http:  # the server trusts a proxy on this machine
        assert "secure" in cookie(sign_in(http, secret, **{"X-Forwarded-Proto": "https"}))
    app = create_app(ledger, settings, on_loopback=True)
    with TestClient(app, "http://127.0.0.1", follow_redirects=False) as direct:
        data = {"token": secret}
        said = direct.post("/sign-in", data=data, headers={"X-Forwarded-Proto": "https"})
        assert "secure" not in said.headers["set-cookie"].lower(), "the application itself trusts nobody"
        direct.base_url = "https://127.0.0.1"
        assert "secure" in direct.post("/sign-in", data=data).headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "other",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example/",
        "/\t/evil.example/",
        "//[",
        "/\t/[",
        "http://[",
        "javascript:alert(1)",
        "evil.example",
        "",
    ],
)
def test_signing_in_leads_to_our_pages_alone(http: httpx2.Client, ledger: Ledger, secret: str, other: str):
    assert sign_in(http, secret, other).headers["location"] == "/"
    token = ledger.tokens.find(secret)
    assert token is not None
    link = ledger.sessions.link(token.id, 60.0)
    answer = http.get("/sign-in", params={"link": link, "next": other})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_the_form_of_another_site_signs_nobody_in(http: httpx2.Client, secret: str):
    assert sign_in(http, secret, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert sign_in(http, secret, **{"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_a_wrong_token_is_refused(http: httpx2.Client, secret: str):
    answer = sign_in(http, "at_wrong", "/advice")
    assert answer.status_code == 401
    assert "Unknown or revoked token" in answer.text
    assert 'value="/advice"' in answer.text
    assert "set-cookie" not in answer.headers


def test_a_form_of_another_site_is_refused(http: httpx2.Client, secret: str):
    sign_in(http, secret)
    for data in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "\u00e9"}):
        answer = http.post("/sign-out", data=data, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403
        assert "out of date" in answer.text
    assert http.get("/").status_code == 200, "the session goes on"
    answer = http.post("/sign-out", data={"csrf": csrf(http)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


@pytest.mark.parametrize(
    ("page", "leads_to"),
    [
        ("http://127.0.0.1/jobs/a?tab=logs", "/sign-in?next=/jobs/a%3Ftab%3Dlogs"),
        ("http://[", "/sign-in"),
    ],
)
def test_a_part_of_a_page_leads_to_signing_in(http: httpx2.Client, secret: str, page: str, leads_to: str):
    answer = http.get("/rows", headers={"HX-Request": "true", "HX-Current-URL": page})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, leads_to)


def _cookie(http: httpx2.Client) -> str:
    """Return the name of a session's cookie: two services on ports of one machine must not end one another's."""
    return f"{COOKIE}_{http.base_url.port}"


def test_a_session_that_was_signed_out_is_over(http: httpx2.Client, secret: str):
    sign_in(http, secret)
    kept = http.cookies[_cookie(http)]
    http.post("/sign-out", data={"csrf": csrf(http)})
    http.cookies.set(_cookie(http), kept, domain="127.0.0.1")
    assert http.get("/").status_code == 303


def test_a_session_ends_by_itself(http: httpx2.Client, ledger: Ledger, secret: str):
    token = ledger.tokens.find(secret)
    assert token is not None
    for seconds, status in ((60.0, 200), (-1.0, 303)):
        http.cookies.set(_cookie(http), ledger.sessions.begin(token.id, seconds), domain="127.0.0.1")
        assert http.get("/").status_code == status


def test_a_session_ends_with_its_token(http: httpx2.Client, ledger: Ledger, secret: str):
    token = ledger.tokens.find(secret)
    assert token is not None
    sign_in(http, secret)
    link = ledger.sessions.link(token.id, 60.0)
    ledger.tokens.revoke(token.id)
    assert http.get("/").status_code == 303
    assert http.get("/sign-in", params={"link": link}).status_code == 401


def test_a_link_signs_in_once(http: httpx2.Client, ledger: Ledger, secret: str):
    bearer = {"Authorization": f"Bearer {secret}"}
    made = http.post("/api/v1/sign-in-links", json={"next": "/jobs/abc"}, headers=bearer)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    path = made.json()["path"]
    answer = http.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/abc")
    assert http.get("/").status_code == 200
    http.cookies.clear()
    again = http.get(path)
    assert again.status_code == 401
    assert "has been used" in again.text
    assert http.get("/").status_code == 303
    token = ledger.tokens.find(secret)
    assert token is not None
    late = ledger.sessions.link(token.id, -1.0)
    assert http.get("/sign-in", params={"link": late}).status_code == 401


def test_a_link_is_no_session_and_a_session_no_link(http: httpx2.Client, ledger: Ledger, secret: str):
    token = ledger.tokens.find(secret)
    assert token is not None
    http.cookies.set(_cookie(http), ledger.sessions.link(token.id, 60.0), domain="127.0.0.1")
    assert http.get("/").status_code == 303
    session = ledger.sessions.begin(token.id, 60.0)
    assert http.get("/sign-in", params={"link": session}).status_code == 401


def test_a_session_that_watches_is_known_until_it_ends(ledger: Ledger, settings: Settings, secret: str):
    token = ledger.tokens.find(secret)
    assert token is not None
    surroundings = Surroundings(ledger, settings, on_loopback=True)
    session = ledger.sessions.begin(token.id, 60.0)
    user = PageUser(User(token.owner, token.role, False, surroundings), "", session)
    assert user.is_known()
    ledger.sessions.end(session)
    assert not user.is_known()
    without = PageUser(User(None, Role.ADMIN, True, surroundings), "")
    assert not without.is_known(), "a token was created, so the service is no longer open"


@pytest.mark.parametrize("next", ["//evil.example", "/\\evil.example", "https://evil.example", "x"])
def test_a_link_is_made_for_our_pages_alone(http: httpx2.Client, secret: str, next: str):
    bearer = {"Authorization": f"Bearer {secret}"}
    assert http.post("/api/v1/sign-in-links", json={"next": next}, headers=bearer).status_code == 422


def test_an_open_service_needs_no_session(http: httpx2.Client, ledger: Ledger):
    page = http.get("/")
    assert page.status_code == 200
    assert "Sign out" not in page.text
    assert http.post("/api/v1/sign-in-links", json={"next": "/advice"}).json() == {"path": "/advice"}
    assert http.get("/", headers={"Host": "evil.example"}).status_code == 403, "DNS rebinding"
    assert http.get("/", headers={"Origin": "https://evil.example"}).status_code == 403
    ledger.tokens.create("ann", Role.READ)
    assert http.get("/").status_code == 303, "closed from the first token on"
