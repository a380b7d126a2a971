"""Errors as a browser gets them, and the headers of every response."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from anon_tune.errors import ConflictError, DependencyError, SpecError
from anon_tune.ledger import Ledger
from anon_tune.records import Role
from anon_tune.service.app import create_app
from anon_tune.service.pages.session import COOKIE, PageOwner, PageReader
from anon_tune.settings import Settings
from tests.service.conftest import SPEC, Serve

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HTMX = {"HX-Request": "true", "Accept": "*/*"}


@pytest.fixture
def app(ledger: Ledger, settings: Settings) -> FastAPI:
    """A service with routes that fail."""
    made = create_app(ledger, settings, on_loopback=True)
    errors: dict[str, Exception] = {
        "conflict": ConflictError("It has <b>ended</b>. Resume it."),
        "invalid": SpecError("job.yaml", ["budget.trials: expected 1 or more", "arms: unknown arm 'x'"]),
        "unavailable": DependencyError("postgresql://user:password@host cannot be reached"),
        "broken": RuntimeError("a secret of the code"),
    }

    @made.get("/fail/{name}")
    def fail(name: str, user: PageReader) -> str:
        raise errors[name]

    @made.post("/change/{job_id}")
    def change(user: PageOwner) -> str:
        return "changed"

    return made


@pytest.fixture
def browser(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False, headers=BROWSER) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("conflict", 409, ["Not possible in this state", "It has &lt;b&gt;ended&lt;/b&gt;. Resume it."]),
        ("invalid", 422, ["<li>budget.trials: expected 1 or more</li>", "<li>arms: unknown arm"]),
        ("unavailable", 503, ["cannot use something", "Try again"]),
        ("broken", 500, ["its log has the reason", "Try again"]),
    ],
)
def test_a_browser_gets_an_error_as_a_page(browser: TestClient, name: str, status: int, said: list[str]):
    answer = browser.get(f"/fail/{name}")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert '<nav aria-label="Pages">' in answer.text
    for text in said:
        assert text in answer.text
    assert "password" not in answer.text
    assert "secret of the code" not in answer.text


def test_htmx_gets_a_message_beside_the_page(browser: TestClient):
    answer = browser.get("/fail/conflict", headers=HTMX)
    assert answer.status_code == 409
    assert (answer.headers["hx-retarget"], answer.headers["hx-reswap"]) == ("#messages", "innerHTML")
    assert "&lt;b&gt;ended&lt;/b&gt;" in answer.text
    assert "<html" not in answer.text


def test_a_program_gets_a_problem_document(browser: TestClient):
    for path, accept in (
        ("/fail/conflict", "application/json"),
        ("/fail/conflict", "*/*"),
        ("/api/v1/jobs/nojob", BROWSER["Accept"]),
    ):
        answer = browser.get(path, headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/problem+json", (path, accept)


def test_a_page_that_does_not_exist_leads_to_the_jobs(browser: TestClient):
    answer = browser.get("/nothing")
    assert answer.status_code == 404
    assert "There is no page /nothing." in answer.text
    assert '<a class="button" href="/">' in answer.text


def test_a_reader_is_told_what_they_may_not_change(browser: TestClient, ledger: Ledger):
    token, _ = ledger.tokens.create("ann", Role.READ)
    browser.cookies.set(COOKIE, ledger.sessions.begin(token.id, 60.0))
    job = ledger.jobs.create("x", {**SPEC}, {}).id
    assert "out of date" in browser.post(f"/change/{job}").text
    csrf = browser.get("/").text.split('"X-CSRF-Token": "')[1].split('"')[0]
    answer = browser.post(f"/change/{job}", headers={"X-CSRF-Token": csrf})
    assert answer.status_code == 403
    assert "needs a token with the role submit; yours has read" in answer.text
    assert "ann" in answer.text, "the frame knows who is signed in"


def test_a_part_of_a_page_without_a_session_leads_to_the_form(serve: Serve, ledger: Ledger):
    ledger.tokens.create("ann", Role.READ)
    address = serve()
    here = {"HX-Current-URL": f"{address}/jobs/abc?tab=logs"}
    answer = httpx2.get(f"{address}/", headers={**HTMX, **here})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/sign-in?next=/jobs/abc%3Ftab%3Dlogs"
    plain = httpx2.get(f"{address}/?q=x", headers=BROWSER)
    assert (plain.status_code, plain.headers["location"]) == (303, "/sign-in?next=/%3Fq%3Dx")


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/fail/broken", "/sign-in", "/api/v1/jobs", "/api/v1/docs", "/healthz"]
)
def test_every_response_says_what_browsers_may_do(browser: TestClient, path: str):
    headers = browser.get(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= {
        *policy
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_files_with_a_digest_are_kept(browser: TestClient):
    page = browser.get("/").text
    style = page.split('rel="stylesheet" href="')[1].split('"')[0]
    headers = browser.get(style).headers
    assert headers["cache-control"].endswith("immutable")
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_of_the_api_names_every_route(browser: TestClient, app: FastAPI):
    answer = browser.get("/api/v1/docs")
    assert answer.status_code == 200
    for path in app.openapi()["paths"]:
        assert f"<code>{path}</code>" in answer.text
    for name in app.openapi()["components"]["schemas"]:
        assert f'id="{name}"' in answer.text
    assert "https://" not in answer.text
