"""The page of advice, over HTTP and in a browser."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2
import pytest
from playwright.sync_api import expect

from anon_tune.catalogue import FAMILIES
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, Phase, Role
from tests.browsers import screenshot
from tests.service.pages.conftest import Visit, check_accessible
from tests.service.pages.test_submit import client, fits

__all__ = ["client"]


@pytest.fixture
def told(ledger: Ledger, done: str) -> str:
    """A job that has SUCCEEDED and says which gammas are good."""
    like = ledger.jobs.get(done)
    job = ledger.jobs.create("told", like.spec, {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)
    result = {**(like.result or {}), "gamma": {**(like.result or {})["gamma"], "low": 0.2, "high": 0.6}}
    probe = {"log_mean_sigma": -8.0}
    ledger.jobs.update(lease, phase=Phase.VERDICT, result=result, architecture=like.architecture, probe=probe)
    ledger.leases.release(lease, JobState.SUCCEEDED)
    return job


def text_of(response: httpx2.Response) -> str:
    """The text of a page, without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.text).split())


def test_all_families_are_in_one_table(client: httpx2.Client):
    page = client.get("/advice")
    for family in FAMILIES:
        assert f'<a href="/advice?family={family}">{family}</a>' in page.text
    assert "Expect gamma" in text_of(page)


def test_the_jobs_behind_advice_are_linked(client: httpx2.Client, told: str):
    page = client.get("/advice?family=mlp").text
    assert f'<a href="/jobs/{told}">told</a>' in page
    assert "What would change it" in page


def test_a_model_with_its_scale_gets_an_optimizer_line(client: httpx2.Client):
    asked = {"architecture": {"family": "cnn", "parameters": 9}, "log_mean_sigma": -8.0}
    page = text_of(client.post("/advice", data={"fingerprint": json.dumps(asked)}))
    assert "An optimizer to start from" in page
    assert re.search(r"Anon\(model\.parameters\(\), lr=[\d.e-]+, ", page.replace("&#39;", "'"))
    alone = text_of(client.post("/advice", data={"fingerprint": '{"family": "cnn"}'}))
    assert "The learning rate depends on the scale of your model" in alone


def test_the_model_of_a_job_is_asked_for(client: httpx2.Client, ledger: Ledger, done: str, told: str):
    assert "An optimizer to start from" in text_of(client.get(f"/advice?job={told}"))
    page = text_of(client.get(f"/advice?job={done}"))
    assert f"mlp: mlp of job {done}" in page
    assert client.get("/advice?job=nothing").status_code == 404
    waiting = ledger.jobs.create("waiting", ledger.jobs.get(done).spec, {}).id
    assert f"Job {waiting} has not measured its model yet" in text_of(client.get(f"/advice?job={waiting}"))


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ("", "This is no fingerprint (Expecting value"),
        ("[1]", "expected keys and values"),
        ("[" * 60_000, "This is no fingerprint"),
        ('{"family": "cn"}', "family: expected one of cnn, mlp"),
        ('{"architecture": 3}', "architecture: "),
        ('{"family": "cnn", "log_mean_sigma": 1e9}', "log_mean_sigma: "),
        ("1" * 70_000, "The text has 70,000 characters; at most 65,536 are accepted"),
        ('{"family": "<script>"}', "&lt;script&gt;"),
    ],
)
def test_what_is_no_fingerprint_is_told(client: httpx2.Client, pasted: str, said: str):
    answer = client.post("/advice", data={"fingerprint": pasted})
    assert answer.status_code == 422
    assert said in text_of(answer)


def test_the_output_of_show_is_a_fingerprint(client: httpx2.Client):
    shown = {"id": "x", "architecture": {"family": "cnn"}, "probe": {"log_mean_sigma": -8.0}}
    answer = client.post("/advice", data={"fingerprint": json.dumps(shown)})
    assert "An optimizer to start from" in text_of(answer)


def test_there_is_no_advice_for_a_family_that_is_none(client: httpx2.Client):
    assert client.get("/advice?family=cn").status_code == 422
    assert client.get("/advice/chart.json?family=cn").status_code == 422


def test_the_figure_shows_the_advised_gamma_and_the_searches(client: httpx2.Client, told: str):
    figure = client.get("/advice/chart.json?family=mlp").json()
    assert "data" in figure
    assert "told" in json.dumps(figure)
    assert "advised for mlp" in json.dumps(figure)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 390, "height": 844}}),
    ],
)
def test_a_viewer_looks_at_advice(visit: Visit, told: str, name: str, options: dict[str, Any]):
    page = visit("/advice?family=mlp", Role.READ, **options)
    page.locator(".chart").scroll_into_view_if_needed()
    expect(page.locator(".chart .main-svg").first).to_be_visible()
    check_accessible(page)
    fits(page)
    screenshot(page, f"advice-{name}")
    page.get_by_text("Paste the fingerprint").press("Enter")
    page.get_by_label("Fingerprint, as JSON").fill(
        '{"architecture": {"family": "cnn"}, "log_mean_sigma": -8.2}'
    )
    page.get_by_role("button", name="Advise").press("Enter")
    expect(page.get_by_text("An optimizer to start from")).to_be_visible()
    check_accessible(page)
    screenshot(page, f"advice-model-{name}")
